"""What the operators of a group compute in each step, so that the sink has what it needs.

From the sink backwards: an operator computes what those after it need in a step and no earlier step
has computed.
"""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from polystage.errors import PlanError
from polystage.planner.fusion.attention.operator import Attention
from polystage.planner.fusion.boxes import EMPTY, BoxMap, hull_of, is_nothing, volumes, without
from polystage.planner.fusion.decisions import Group, Place
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.steps import first_needed, spread
from polystage.polyhedral import Access


@dataclass
class Demand:
    """Boxes per step, [loop 0, .., axes, 2] in the form of `boxes`."""

    program: Program
    group: Group
    computes: list[np.ndarray] = field(default_factory=list[np.ndarray])
    """Per operator."""
    reads: dict[str, list[tuple[int, np.ndarray]]] = field(
        default_factory=dict[str, list[tuple[int, np.ndarray]]]
    )
    """Array to readers (indices in the group), last first, and what they read."""
    writes: dict[str, list[tuple[int, np.ndarray]]] = field(
        default_factory=dict[str, list[tuple[int, np.ndarray]]]
    )
    """Array to writers and what they write."""
    inexact: set[str] = field(default_factory=set[str])
    """Arrays of which some step writes a part that is no box."""

    @cached_property
    def operators(self) -> list[Operator]:
        """The operators of the group."""
        return [self.program.operators[index] for index in self.group.operators]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """How often each loop runs."""
        extents = self.operators[-1].extents
        return tuple(-(-extents[loop.dim] // loop.tile) for loop in self.group.loops)

    @cached_property
    def steps(self) -> int:
        """How many steps there are."""
        return prod(self.shape)

    @cached_property
    def completing(self) -> np.ndarray:
        """In which steps the sink's sums are complete, [loop 0, ..]."""
        sink = self.operators[-1]
        found = np.ones(self.shape, dtype=bool)
        for level, loop in enumerate(self.group.loops):
            if sink.iterators[loop.dim] == "reduction":
                np.moveaxis(found, level, 0)[:-1] = False
        return found

    @cached_property
    def lasts(self) -> bool:
        """Whether the sink's sums last over steps."""
        return not bool(self.completing.all())

    def is_used_after(self, name: str) -> bool:
        """Tell whether somebody wants the array after the group."""
        return self.program.is_used_after(name, self.group.operators[-1])

    def from_outside(self, name: str) -> np.ndarray | None:
        """Return what the group needs of an array that its operators have not made, or None."""
        parts: list[np.ndarray] = []
        for reader, boxes in self.reads.get(name, []):
            rest = boxes
            for writer, made in self.writes.get(name, []):
                if writer < reader:
                    rest = without(rest, made.reshape(-1, *made.shape[-2:]).min(axis=0))
                if rest is None:
                    raise PlanError(
                        f"'{self.operators[reader].name}' reads a part of '{name}' that its group "
                        "makes and another that comes from before, and the latter is no box",
                        help="put the operators that make the array into another group",
                    )
            parts.append(rest)
        return hull_of(parts) if parts else None

    def steady(self, name: str) -> np.ndarray | None:
        """Return the box of an array that the group does not make, [axes, 2], where all steps need
        the same of it, or None."""
        readers = self.reads.get(name, [])
        if name in self.writes or any(boxes.size > 2 * boxes.shape[-2] for _, boxes in readers):
            return None
        return hull_of([boxes for _, boxes in readers]).reshape(-1, 2)

    def completed(self, name: str) -> list[np.ndarray]:
        """Return what becomes complete of an array in each step, by operator that makes it."""
        last = len(self.group.operators) - 1
        found: list[np.ndarray] = []
        for writer, boxes in self.writes.get(name, []):
            found.append(self._when_complete(boxes) if writer == last and self.lasts else boxes)
        return found

    def _when_complete(self, boxes: np.ndarray) -> np.ndarray:
        """Return boxes of the sink, none in steps in which its sums are not complete."""
        return np.where(self.completing[..., None, None], boxes, EMPTY)

    def is_exact(self, name: str) -> bool:
        """Tell whether what each step writes of an array are boxes."""
        return name not in self.inexact

    def held(self, name: str) -> np.ndarray:
        """Return what each step has to do with of an array."""
        sink = self.operators[-1]
        last = len(self.group.operators) - 1
        parts = [boxes for _, boxes in self.reads.get(name, [])]
        for writer, boxes in self.writes.get(name, []):
            is_late = writer == last and self.lasts and sink.accumulator is not None
            parts.append(self._when_complete(boxes) if is_late else boxes)
        return hull_of(parts)

    def span(self, name: str) -> tuple[int, int]:
        """Return the first and the last operator (index in the group) that touch an array."""
        touching = [index for index, _ in (*self.reads.get(name, []), *self.writes.get(name, []))]
        return min(touching), max(touching)

    def check_interleaved(self) -> None:
        """Refuse an array whose elements are made here and there, unless all of them are."""
        first = len(self.operators) - len(self.computes)  # of those added up to now
        for name in self.inexact:
            made = sum(
                int(
                    volumes(
                        self.computes[place - first][..., list(self.operators[place].parallels), :]
                    ).sum()
                )
                for place, _ in self.writes[name]
            )
            array = self.program.arrays[name]
            is_opaque = self.operators[first].kind is OperatorKind.OPAQUE
            if (
                self.group.places[name] is not Place.STREAMED
                and made < array.elements
                and not is_opaque
            ):
                raise PlanError(
                    f"the group of '{self.operators[-1].name}' makes {made} of {array.elements} "
                    f"elements of '{name}', with others between them",
                    help="stream the array, or put all operators that write it into one group",
                )

    # -- from the sink backwards ---------------------------------------------------------------

    def add(self, place: int, boxes: np.ndarray) -> None:
        """Note what an operator computes, and so what it reads and writes."""
        operator = self.operators[place]
        maps = self.program.maps(operator)
        self.computes.insert(0, boxes)
        is_sink = place == len(self.group.operators) - 1
        hull, moving = self._movement(boxes)
        for access, form, ends in zip(operator.reads, maps.reads, maps.ends, strict=True):
            touched = form.image(boxes if form.used & moving else hull)
            if ends and is_sink and self.lasts:
                touched = self._when_complete(touched)
            self.reads.setdefault(access.array, []).append((place, touched))
        for access, form in zip(operator.writes, maps.writes, strict=True):
            touched = form.image(boxes)
            results = volumes(boxes[..., list(operator.parallels), :])
            if access.exprs is None or (results != volumes(touched)).any():
                self.inexact.add(access.array)
            self.writes.setdefault(access.array, []).append((place, touched))

    def _movement(self, boxes: np.ndarray) -> tuple[np.ndarray, frozenset[int]]:
        """Return the hull of what an operator computes in all steps, with 1 in the place of every
        loop, and the dims whose range is not the same in all of them."""
        loops = tuple(range(len(self.shape)))
        hull = boxes.min(axis=loops, keepdims=True)
        moving = (boxes != hull).any(axis=(*loops, -1))
        return hull, frozenset(np.flatnonzero(moving).tolist())

    def sink_boxes(self) -> np.ndarray:
        """Return what the sink computes in each step."""
        extents = self.operators[-1].extents
        boxes = np.empty((*self.shape, len(extents), 2), dtype=np.int64)
        boxes[..., 0] = 0
        boxes[..., 1] = [-extent for extent in extents]
        for level, loop in enumerate(self.group.loops):
            starts = np.arange(self.shape[level], dtype=np.int64) * loop.tile
            along = [1] * len(self.shape)
            along[level] = -1
            boxes[..., loop.dim, 0] = starts.reshape(along)
            stops = np.minimum(starts + loop.tile, extents[loop.dim])
            boxes[..., loop.dim, 1] = -stops.reshape(along)
        return boxes

    def needed_results(self, operator: Operator) -> np.ndarray:
        """Return a box of the iterations that make what later operators, or somebody after the
        group, need in each step."""
        maps = self.program.maps(operator)
        parts = [
            form.preimage(self._needed(operator, access, form))
            for access, form in zip(operator.writes, maps.writes, strict=True)
        ]
        found = hull_of(parts)
        if isinstance(operator, Attention):  # scores are made once for all that they weigh
            found[..., operator.values, 1] = np.where(
                is_nothing(found), EMPTY, -operator.extents[operator.values]
            )
            found[..., operator.values, 0] = np.where(is_nothing(found), EMPTY, 0)
        return found

    def _needed(self, operator: Operator, access: Access, form: BoxMap) -> np.ndarray:
        readers = [boxes for _, boxes in self.reads.get(access.array, [])]
        nothing = np.full((*self.shape, len(form.shape), 2), EMPTY, dtype=np.int64)
        needed = hull_of([nothing, *readers])
        is_read = not bool(is_nothing(needed).all())
        if not is_read:
            needed = np.minimum(nothing, form.image(self._in_reach(operator)))
        if self.is_used_after(access.array) or not is_read:
            needed = spread(needed, form.shape)
        return needed

    def _in_reach(self, operator: Operator) -> np.ndarray:
        """Return the iterations of an operator, read by nobody in the group, which touch what later
        operators need of one of its inputs in each step: what they find, it finds, too."""
        for access, form in zip(operator.reads, self.program.maps(operator).reads, strict=True):
            others = [boxes for _, boxes in self.reads.get(access.array, [])]
            if others:
                return form.preimage(hull_of(others))
        return np.full((len(operator.extents), 2), EMPTY, dtype=np.int64)


def demand_of(program: Program, group: Group) -> Demand:
    """Return what the operators of a group compute, read and write in each step."""
    demand = Demand(program, group)
    last = len(group.operators) - 1
    demand.add(last, demand.sink_boxes())
    for place in reversed(range(last)):
        demand.add(
            place, first_needed(demand.needed_results(demand.operators[place]), demand.shape)
        )
    demand.check_interleaved()
    return demand
