"""Which operators may run together, step by step, without anybody seeing another value."""

from dataclasses import dataclass

import numpy as np

from polystage.errors import PlanError
from polystage.planner.fusion.attention.operator import Attention
from polystage.planner.fusion.boxes import is_empty, whole
from polystage.planner.fusion.decisions import Group, Place
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.program import Program
from polystage.polyhedral import Access


def check_group(program: Program, group: Group) -> None:
    """Refuse a group that cannot be carried out, whatever the capacity.

    Raises: PlanError.
    """
    operators = [program.operators[index] for index in group.operators]
    _check_loops(operators[-1], group)
    _check_attention(operators[-1], group)
    _check_opaque(operators, group)
    for name in dict.fromkeys(name for operator in operators for name in operator.arrays):
        _check_place(program, group, name)
    _check_order(program, group)


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


def _check_attention(sink: Operator, group: Group) -> None:
    if not isinstance(sink, Attention):
        return
    allowed = (*sink.heads, sink.queries)
    if any(loop.dim not in allowed for loop in group.loops):
        raise PlanError(
            f"a group loops over dim {group.loops[-1].dim} of the attention '{sink.name}', but its "
            "rows of scores must be complete in each step",
            help=f"loop over the dims {', '.join(map(str, allowed))} only: heads and queries",
        )


def _check_opaque(operators: list[Operator], group: Group) -> None:
    for operator in operators:
        if operator.kind is OperatorKind.OPAQUE and (len(operators) > 1 or group.loops):
            raise PlanError(
                f"'{operator.name}' cannot run tile by tile with others: {operator.reason}",
                help="give it a group of its own, without loops",
            )


def _check_place(program: Program, group: Group, name: str) -> None:
    place = group.places.get(name)
    if place is None:
        raise PlanError(
            f"the group of '{_sink(program, group)}' touches '{name}', but has no place for it",
            help="add it to the group's places",
        )
    if place is not Place.STREAMED:
        return
    writes = [index for index in program.writers(name) if index in group.operators]
    reads = [index for index in program.readers(name) if index in group.operators]
    if writes and reads and reads[-1] > writes[0]:
        raise PlanError(
            f"'{name}' is streamed, but '{program.operators[reads[-1]].name}' reads it in the "
            f"group in which '{program.operators[writes[0]].name}' makes it",
            help="make it a window, or separate the two groups",
        )


def _check_order(program: Program, group: Group) -> None:
    """Refuse an element that is written after another operator has read or written it: steps would
    mix the two values."""
    for first, second, name in program.remembered("conflicts", lambda: _conflicts(program)):
        if first in group.operators and second in group.operators:
            raise PlanError(
                f"'{program.operators[second].name}' writes elements of '{name}' that "
                f"'{program.operators[first].name}' touches before it in the same group",
                help="separate the two by a group boundary",
            )


def _conflicts(program: Program) -> list[tuple[int, int, str]]:
    """Return all pairs of operators, the second of which writes what the first has touched."""
    found: list[tuple[int, int, str]] = []
    for name in program.arrays:
        writers = program.writers(name)
        touching = sorted({*writers, *program.readers(name)})
        if not writers or touching[0] == writers[-1]:
            continue
        regions = {index: _regions(program, program.operators[index], name) for index in touching}
        for second in writers:
            written = [region for region in regions[second] if region.is_write]
            for first in touching[: touching.index(second)]:
                if any(a.meets(b) for a in written for b in regions[first]):
                    found.append((first, second, name))
    return found


def _sink(program: Program, group: Group) -> str:
    return program.operators[group.operators[-1]].name


@dataclass(frozen=True)
class _Region:
    """What an operator reads or writes of an array, in all its iterations."""

    access: Access
    hull: np.ndarray
    is_write: bool

    def meets(self, other: "_Region") -> bool:
        """Tell whether both have an element in common."""
        if is_empty(np.maximum(self.hull, other.hull)):
            return False
        return not self.access.map.range().is_disjoint(other.access.map.range())


def _regions(program: Program, operator: Operator, name: str) -> list[_Region]:
    maps = program.maps(operator)
    everything = whole(operator.extents)
    reads = zip(operator.reads, maps.reads, strict=True)
    writes = zip(operator.writes, maps.writes, strict=True)
    found = [_Region(a, form.image(everything), False) for a, form in reads if a.array == name]
    found += [_Region(a, form.image(everything), True) for a, form in writes if a.array == name]
    return found
