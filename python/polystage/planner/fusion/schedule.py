"""What follows from a group: who computes what in which step, what moves, what must be on chip.

Planner and lowering both go by it, so that what was planned is what happens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from polystage.allocation import aligned
from polystage.errors import PlanError
from polystage.planner.fusion.boxes import (
    EMPTY,
    is_nothing,
    to_ranges,
    volumes,
    whole,
)
from polystage.planner.fusion.buffers import Buffer, Purpose
from polystage.planner.fusion.decisions import Group, Nest, Place, Plan
from polystage.planner.fusion.demand import Demand, demand_of
from polystage.planner.fusion.legality import check_group
from polystage.planner.fusion.nests import (
    Execution,
    NestPieces,
    nest_buffers,
    nest_pieces,
    nest_traffic,
)
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.sharing import Window, share
from polystage.planner.fusion.steps import carried, first_needed, window_extents
from polystage.polyhedral import Role


@dataclass(frozen=True)
class GroupSchedule:
    """The steps of one group."""

    steps: int
    computes: tuple[np.ndarray, ...]
    """Per operator, int64 [steps, dims, 2]: start and stop of every dim of what it computes in each
    step; start == stop where nothing."""
    loads: Mapping[str, np.ndarray]
    """Array to [steps, rank, 2]: what is loaded before the computes of each step, of arrays that
    are WINDOW, WHOLE, or RESIDENT from here on and come from DRAM."""
    stores: Mapping[str, np.ndarray]
    """Array to [steps, pieces, rank, 2]: what is stored after the computes of each step, a piece
    for each operator that writes the array."""
    buffers: tuple[Buffer, ...]
    """All but those of resident arrays."""
    shares: Mapping[str, str]
    """Array to that in whose buffer it lies, element by element, the one dying as the other is
    made."""
    bytes: int
    """On chip at the worst moment, with all resident arrays."""
    read_bytes: Mapping[str, int]
    """From DRAM, by array, streamed ones included."""
    write_bytes: Mapping[str, int]
    """To DRAM, by array."""


def schedule(program: Program, group: Group, resident: Iterable[str] = ()) -> GroupSchedule:
    """Return the schedule of a group.

    `resident` are the arrays that are on chip when the group starts, because an earlier group made
    or loaded them and this one or a later one reads them. An array that is RESIDENT in `group` but
    not among them becomes so here: it is made here, or loaded before the first step.

    Raises: PlanError for a decision that cannot be carried out, with the way out.
    """
    check_group(program, group)
    return _Scheduling(program, group, frozenset(resident), demand_of(program, group)).result()


def window_of(demand: Demand, name: str) -> tuple[Window, int]:
    """Return the window of an array in a group that has no other places, and the bytes that it
    loads and stores.

    Raises: PlanError.
    """
    alone = replace(demand.group, places={name: Place.WINDOW})
    work = _Scheduling(demand.program, alone, frozenset(), demand)
    _, by_step = work.loads()
    (window,) = work.windows(by_step, work.stores()).values()
    return window, work.read.get(name, 0) + work.written.get(name, 0)


def resident_before(program: Program, plan: Plan) -> tuple[frozenset[str], ...]:
    """Return, for every group of a plan, the resident arrays that are on chip when it starts."""
    touched = [
        {name for name, place in group.places.items() if place is Place.RESIDENT}
        for group in plan.groups
    ]
    alive: set[str] = set()
    found: list[frozenset[str]] = []
    for index, names in enumerate(touched):
        later = set[str]().union(*touched[index:])
        alive &= later
        found.append(frozenset(alive))
        alive |= names
    return tuple(found)


@dataclass
class _Scheduling:
    program: Program
    group: Group
    resident: frozenset[str]
    demand: Demand

    def __post_init__(self) -> None:
        self.read: dict[str, int] = {}
        self.written: dict[str, int] = {}

    def result(self) -> GroupSchedule:
        """Return the schedule."""
        loads, by_step = self.loads()
        stores = self.stores()
        windows = self.windows(by_step, stores)
        shares = share(self.demand, windows, self.group.places)
        last = len(self.group.operators) - 1
        buffers = [
            *self._executions(),
            *(window.buffer(name, last + 1) for name, window in windows.items()),
        ]
        return GroupSchedule(
            steps=self.demand.steps,
            computes=tuple(to_ranges(self._flat(boxes)) for boxes in self.demand.computes),
            loads=loads,
            stores={name: to_ranges(boxes) for name, boxes in stores.items()},
            buffers=tuple(buffers),
            shares=shares,
            bytes=self._resident_bytes(shares) + _worst(buffers, last + 1),
            read_bytes=self.read,
            write_bytes=self.written,
        )

    def _flat(self, boxes: np.ndarray) -> np.ndarray:
        return boxes.reshape(self.demand.steps, *boxes.shape[-2:])

    def _count(self, total: dict[str, int], name: str, boxes: np.ndarray) -> None:
        size = int(volumes(boxes).sum()) * self.program.arrays[name].element_bytes
        total[name] = total.get(name, 0) + size

    # -- arrays --------------------------------------------------------------------------------

    def loads(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return what every step loads, of windows what is new to it, else all at the start; and
        the same as boxes for what does not come all at the start."""
        found: dict[str, np.ndarray] = {}
        by_step: dict[str, np.ndarray] = {}
        for name, place in self.group.places.items():
            if name in self.resident or place is Place.STREAMED:
                continue
            total = self.demand.steady(name)
            needed = self.demand.from_outside(name) if total is None else total
            if needed is None or bool(is_nothing(needed).all()):
                continue
            if place is Place.WINDOW and total is None:
                by_step[name] = first_needed(needed, self.demand.shape)
                self._count(self.read, name, by_step[name])
                found[name] = to_ranges(self._flat(by_step[name]))
                continue
            if place is Place.RESIDENT:
                self._check_becomes_resident(name)
                total = whole(self.program.arrays[name].shape)
            elif total is None:
                total = needed.reshape(-1, *needed.shape[-2:]).min(axis=0)
            self._count(self.read, name, total)
            found[name] = np.zeros((self.demand.steps, *total.shape), dtype=np.int64)
            found[name][0] = to_ranges(total)
        return found, by_step

    def _check_becomes_resident(self, name: str) -> None:
        if self.demand.writes.get(name):
            raise PlanError(
                f"'{name}' becomes resident in a group that makes only a part of it",
                help="make it resident from the first group on that writes it",
            )

    def stores(self) -> dict[str, np.ndarray]:
        """Return what every step stores, [steps, pieces, rank, 2]."""
        found: dict[str, np.ndarray] = {}
        for name, place in self.group.places.items():
            made = self.demand.completed(name)
            if not made or place is Place.STREAMED or not self._leaves(name, place):
                continue
            pieces = np.stack([self._flat(boxes) for boxes in made], axis=1)
            if not self.demand.is_exact(name):
                pieces = np.full_like(pieces[:, :1], EMPTY)
                pieces[-1, 0] = whole(self.program.arrays[name].shape)
            found[name] = pieces
            self._count(self.written, name, pieces)
        return found

    def _leaves(self, name: str, place: Place) -> bool:
        """Tell whether DRAM gets an array that the group makes."""
        if self.program.arrays[name].role is Role.OUTPUT:
            return True
        return place is not Place.RESIDENT and self.demand.is_used_after(name)

    def windows(
        self, loads: Mapping[str, np.ndarray], stores: Mapping[str, np.ndarray]
    ) -> dict[str, Window]:
        """Return what is on chip of arrays that are whole or windows, each by itself."""
        return {
            name: self._window(name, place, loads.get(name), stores.get(name))
            for name, place in self.group.places.items()
            if place in (Place.WINDOW, Place.WHOLE)
        }

    def _window(
        self, name: str, place: Place, loads: np.ndarray | None, stores: np.ndarray | None
    ) -> Window:
        array = self.program.arrays[name]
        steps_on = self.demand.steps > 1
        steady = self.demand.steady(name)
        if steady is not None:
            held = steady.reshape(*(1,) * len(self.demand.shape), -1, 2)
            kept = held if steps_on else None
        else:
            held = self.demand.held(name)
            if loads is not None:
                held = np.minimum(held, loads)
            if stores is not None and not self.demand.is_exact(name):
                held = np.minimum(held, stores[:, 0].reshape(held.shape))
            kept = carried(held, self.demand.shape) if steps_on else None
        extents = array.shape if place is Place.WHOLE else None
        return Window(held, kept, self.demand.span(name), array.element_bytes, extents)

    # -- operators -----------------------------------------------------------------------------

    def _executions(self) -> list[Buffer]:
        """Return what operators have on chip while they run, and count what their nests move."""
        buffers: list[Buffer] = []
        last = len(self.group.operators) - 1
        for place, boxes in enumerate(self.demand.computes):
            nest = self.group.nests[place] if self.group.nests else Nest()
            there = ~is_nothing(self._flat(boxes))
            ranges = to_ranges(self._flat(boxes)[there])
            if not len(ranges):
                continue
            operator = self.demand.operators[place]
            work = Execution(self.program, operator, nest, ranges, self.group.places)
            own = work.buffers()
            if place == last and self.demand.lasts:
                buffers += map(self._lasting, own)
            else:
                buffers += (replace(buffer, operators=(place, place)) for buffer in own)
            ending = self.demand.completing.reshape(-1)[there] if place == last else None
            moved = work.traffic(ending)
            for total, part in zip((self.read, self.written), moved, strict=True):
                for name, count in part.items():
                    total[name] = total.get(name, 0) + count
        return buffers

    def _lasting(self, buffer: Buffer) -> Buffer:
        """Widen what the sink accumulates in to all that is under way between steps."""
        last = len(self.group.operators) - 1
        operator = self.program.operators[self.group.operators[-1]]
        boxes = self.demand.computes[-1]
        if buffer.purpose is Purpose.ACCUMULATOR:
            held = boxes[..., list(operator.parallels), :]
        elif buffer.purpose is Purpose.CHUNK and buffer.access is None and not operator.accumulator:
            form = next(
                form
                for access, form in zip(
                    operator.writes, self.program.maps(operator).writes, strict=True
                )
                if access.array == buffer.array
            )
            held = form.image(boxes)
        else:
            return replace(buffer, operators=(last, last))
        return replace(
            buffer,
            operators=(0, last),
            shape=window_extents(held, carried(held, self.demand.shape)),
        )

    def _resident_bytes(self, shares: Mapping[str, str]) -> int:
        placed = {n for n, place in self.group.places.items() if place is Place.RESIDENT}
        names = (placed | self.resident) - shares.keys()
        return sum(aligned(self.program.arrays[name].size_bytes) for name in names)


def _worst(buffers: Sequence[Buffer], operators: int) -> int:
    """Return the bytes of the buffers that are live during one operator, at most."""
    changes = [0] * (operators + 1)
    for buffer in buffers:
        size = buffer.bytes
        changes[buffer.operators[0]] += size
        changes[buffer.operators[1] + 1] -= size
    return max(accumulate(changes))


__all__ = [
    "Buffer",
    "GroupSchedule",
    "NestPieces",
    "Purpose",
    "nest_buffers",
    "nest_pieces",
    "nest_traffic",
    "resident_before",
    "schedule",
    "window_of",
]
