"""Which operators may run together, step by step, without anybody seeing another value."""

import numpy as np

from polystage.errors import PlanError
from polystage.planner.fusion.boxes import is_empty, whole
from polystage.planner.fusion.decisions import Group, Place
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.program import Program


def check_group(program: Program, group: Group) -> None:
    """Refuse a group that cannot be carried out, whatever the capacity.

    Raises: PlanError.
    """
    operators = [program.operators[index] for index in group.operators]
    _check_loops(operators[-1], group)
    _check_opaque(operators, group)
    for name in dict.fromkeys(name for operator in operators for name in operator.arrays):
        _check_place(operators, name, group.places.get(name))
        _check_order(program, operators, name)


def _check_loops(sink: Operator, group: Group) -> None:
    dims = [loop.dim for loop in group.loops]
    if any(not 0 <= dim < len(sink.extents) for dim in dims) or len(set(dims)) < len(dims):
        raise PlanError(
            f"the loops of a group run over dims {dims} of its sink '{sink.name}', which has dims "
            f"0 to {len(sink.extents) - 1}",
            help="give each loop a dim of its own",
        )
    if any(loop.tile < 1 for loop in group.loops):
        raise PlanError(
            f"a loop of the group of '{sink.name}' has a tile below 1",
            help="choose a tile of at least 1",
        )
    if group.nests and len(group.nests) != len(group.operators):
        raise PlanError(
            f"the group of '{sink.name}' has {len(group.operators)} operators, but "
            f"{len(group.nests)} nests",
            help="give every operator a nest, which may be empty",
        )


def _check_opaque(operators: list[Operator], group: Group) -> None:
    for operator in operators:
        if operator.kind is OperatorKind.OPAQUE and (len(operators) > 1 or group.loops):
            raise PlanError(
                f"'{operator.name}' cannot run tile by tile with others: {operator.reason}",
                help="give it a group of its own, without loops",
            )


def _check_place(operators: list[Operator], name: str, place: Place | None) -> None:
    if place is None:
        raise PlanError(
            f"the group of '{operators[-1].name}' touches '{name}', but has no place for it",
            help="add it to the group's places",
        )
    writes = [i for i, o in enumerate(operators) if any(a.array == name for a in o.writes)]
    reads = [i for i, o in enumerate(operators) if any(a.array == name for a in o.reads)]
    if place is Place.STREAMED and writes and reads and max(reads) > min(writes):
        raise PlanError(
            f"'{name}' is streamed, but '{operators[max(reads)].name}' reads it in the group in "
            f"which '{operators[min(writes)].name}' makes it",
            help="make it a window, or separate the two groups",
        )


def _check_order(program: Program, operators: list[Operator], name: str) -> None:
    """Refuse an element that is written after another operator has read or written it: steps would
    mix the two values."""
    touching = [
        (place, is_write, box)
        for place, operator in enumerate(operators)
        for is_write, box in _regions(program, operator, name)
    ]
    for place, is_write, box in touching:
        for other, _, other_box in touching:
            if not is_write or other >= place:
                continue
            if not is_empty(np.maximum(box, other_box)):
                raise PlanError(
                    f"'{operators[place].name}' writes elements of '{name}' that "
                    f"'{operators[other].name}' touches before it in the same group",
                    help="separate the two by a group boundary",
                )


def _regions(program: Program, operator: Operator, name: str) -> list[tuple[bool, np.ndarray]]:
    """Return the hulls of what an operator reads and writes of an array, in all its iterations."""
    maps = program.maps(operator)
    everything = whole(operator.extents)
    reads = zip(operator.reads, maps.reads, strict=True)
    writes = zip(operator.writes, maps.writes, strict=True)
    found = [(False, form.image(everything)) for access, form in reads if access.array == name]
    found += [(True, form.image(everything)) for access, form in writes if access.array == name]
    return found
