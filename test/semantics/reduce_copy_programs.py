"""The smallest part of a program that still shows a fault."""

from collections.abc import Callable, Sequence

from copy_programs import Loop, Memref, NoMeaning, Op, Program, flattened


def reduced(program: Program, fails: Callable[[Program], bool]) -> Program:
    """Return a smaller program that still fails: without operations, results, loops."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _candidates(program):
            try:
                candidate.execute()
            except (NoMeaning, KeyError):
                continue
            if fails(candidate):
                program, smaller = candidate, True
                break
    return program


def _candidates(program: Program) -> list[Program]:
    made = []
    for gone in program.results:
        made.append(_with(program, program.body, [r for r in program.results if r is not gone]))
    for op in reversed(flattened(program.body)):
        dropped = {id(op)}
        lost = {op.result} - {None}
        for other in flattened(program.body):
            if lost & set(other.operands):
                dropped.add(id(other))
                lost |= {other.result} - {None}
        results = [r for r in program.results if r.name not in lost]
        made.append(_with(program, _without(program.body, dropped), results))
    unused = {n for op in flattened(program.body) for n in op.operands}
    for name in ("arguments", "weights"):
        for memref in getattr(program, name):
            if memref.name not in unused:
                smaller = _with(program, program.body, program.results)
                setattr(smaller, name, [m for m in getattr(program, name) if m is not memref])
                made.append(smaller)
    return made


def _with(program: Program, body: list[Op | Loop], results: list[Memref]) -> Program:
    weights, given = program.weights, program.given
    return Program(program.element, program.arguments, weights, body, results, given)


def _without(body: Sequence[Op | Loop], dropped: set[int]) -> list[Op | Loop]:
    kept: list[Op | Loop] = []
    for op in body:
        if isinstance(op, Loop):
            inner = _without(op.body, dropped)
            if inner:
                kept.append(Loop(op.iv, op.low, op.step, op.count, inner))
        elif id(op) not in dropped:
            kept.append(op)
    return kept
