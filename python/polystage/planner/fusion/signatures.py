"""Which operators, and which sequences of them, are equal but for names: planned once."""

from collections.abc import Hashable
from dataclasses import dataclass

from polystage.planner.fusion.operators import Operator
from polystage.planner.fusion.program import Program
from polystage.polyhedral import Access


def operator_signature(program: Program, index: int) -> Hashable:
    """Return a value that is equal for operators which are equal up to array names, down to the
    shapes and types of the arrays."""
    form = _form(program, program.operators[index])
    shapes = tuple(_array(program, name) for name in form.arrays)
    return form.structure, shapes


def segment_signature(program: Program, start: int, stop: int) -> Hashable:
    """Return a value that is equal for equal sequences `operators[start:stop]`: the same operators,
    connected in the same way, of which the same arrays are used before and after."""
    numbers: dict[str, int] = {}
    parts: list[Hashable] = []
    for operator in program.operators[start:stop]:
        form = _form(program, operator)
        for name in form.arrays:
            numbers.setdefault(name, len(numbers))
        parts.append((form.structure, tuple(numbers[name] for name in form.arrays)))
    outside = tuple(_surroundings(program, name, start, stop) for name in numbers)
    return tuple(parts), outside


def _surroundings(program: Program, name: str, start: int, stop: int) -> Hashable:
    """Return what an array is, and whether it is touched before and after a segment."""
    writers, readers = program.writers(name), program.readers(name)
    before = any(index < start for index in (*writers, *readers))
    made_before = any(index < start for index in writers)
    later = tuple(index >= stop for index in (*writers[-1:], *readers[-1:]))
    return _array(program, name), before, made_before, later


def _array(program: Program, name: str) -> Hashable:
    array = program.arrays[name]
    return array.shape, array.dtype, array.element_bytes, array.role


@dataclass(frozen=True)
class _Form:
    structure: Hashable
    arrays: tuple[str, ...]
    """In the order in which `structure` numbers them."""


def _form(program: Program, operator: Operator) -> _Form:
    def make() -> _Form:
        arrays = operator.arrays
        number = {name: place for place, name in enumerate(arrays)}
        ends = program.maps(operator).ends
        structure = (
            operator.kind,
            operator.extents,
            operator.iterators,
            tuple(_access(access, number) for access in operator.reads),
            tuple(_access(access, number) for access in operator.writes),
            ends,
            str(operator.initial),
            operator.macs,
            operator.lane_operations,
            operator.accumulator,
            operator.scratch,
            len(operator.statements),
        )
        return _Form(structure, arrays)

    return program.remembered(("form", operator.name), make)


def _access(access: Access, number: dict[str, int]) -> Hashable:
    exprs = None if access.exprs is None else tuple(map(str, access.exprs))
    where = tuple((str(bound.expr), bound.low, bound.high) for bound in access.where)
    return number[access.array], exprs, where
