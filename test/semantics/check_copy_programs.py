"""What `poly-eliminate-copies` may not do to a program, as one function; also a command.

    python test/semantics/check_copy_programs.py FIRST COUNT

runs that many random programs and prints a reduced form of every one that fails.
"""

import sys
from functools import cache

import numpy as np
from copy_programs import Cells, Program
from random_copy_programs import random_program
from reduce_copy_programs import reduced
from strict_evaluator import StrictEvaluator

from polystage.dialects import npu
from polystage.forms import check_form
from polystage.mlir import ir
from polystage.passes.polyhedral.eliminate_copies import EliminateCopiesPass
from polystage.polyhedral import Kind, TensorProgram


@cache
def context() -> ir.Context:
    """Return one context for all programs: to load a dialect takes longer than to run a program."""
    made = ir.Context()
    npu.load(made)
    return made


def evaluated(module: ir.Module, arguments: list[np.ndarray]) -> list[np.ndarray]:
    """Return what the arguments, which change, and the results hold at the end."""
    evaluator = StrictEvaluator(module)
    with np.errstate(all="ignore"):
        results = evaluator.call(evaluator.entry("main"), arguments)
    return [*arguments, *results]


def outcome(text: str, with_pass: bool) -> list[list]:
    """Return what the arguments and results of a program in i32 hold at the end."""
    with context(), ir.Location.unknown():
        module = ir.Module.parse(text)
        if with_pass:
            EliminateCopiesPass().run(module)
            module.operation.verify()
        function = StrictEvaluator(module).entry("main")
        shapes = [list(a.type.shape) for a in function.regions[0].blocks[0].arguments]
        arguments = [np.arange(np.prod(s), dtype=np.int32).reshape(s) + 1 for s in shapes]
        return [array.tolist() for array in evaluated(module, arguments)]


def difference(found: list[np.ndarray], expected: list[Cells]) -> str:
    """Return which argument or result differs in an element that the program wrote."""
    for number, (array, cells) in enumerate(zip(found, expected, strict=True)):
        given, right = array[cells.written], cells.values[cells.written]
        if given.dtype != right.dtype or given.tobytes() != right.tobytes():
            return f"argument or result {number} is {given.tolist()}, not {right.tolist()}"
    return ""


def problem(program: Program) -> str:
    """Return what is wrong after copy elimination, or nothing."""
    with context(), ir.Location.unknown():
        module = ir.Module.parse(program.text)
        signature, pass_ = _signature(module), EliminateCopiesPass()
        try:
            pass_.run(module)
            module.operation.verify()
            check_form(module, "buffers")
            found = evaluated(module, program.inputs())
        except Exception as error:  # whatever a pass raises is what we look for
            return f"{type(error).__name__}: {error}"
        if _signature(module) != signature:
            return f"the signature was {signature} and is {_signature(module)}"
        pairs = sum(s.kind == Kind.COPY for s in TensorProgram.from_module(module).statements)
        if pairs > pass_.statistics.get("pairs found", 0):
            return f"there are {pairs} pairs now, there were {pass_.statistics}"
        return difference(found, program.execute())


def _signature(module: ir.Module) -> str:
    functions = [op for op in module.body if op.operation.name == "func.func"]
    return "; ".join(str(f.attributes["function_type"]) for f in functions)


def report(program: Program) -> str:
    """Return the smallest form found of a program that fails, and how it does."""
    kind = problem(program)[:12]
    small = reduced(program, lambda p: problem(p)[:12] == kind)
    return f"{problem(small)}\n{small.text}"


def main(first: int, count: int) -> int:
    failed = [seed for seed in range(first, first + count) if problem(random_program(seed))]
    for seed in failed[:5]:
        print(f"--- {seed}: {report(random_program(seed))}")
    print(f"{count} programs, {len(failed)} failed: {failed[:50]}")
    return 1 if failed else 0


if __name__ == "_main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
