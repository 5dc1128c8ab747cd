"""What the steps of a group need and move, apart from which of its arrays are where.

One schedule with a window for every array answers for every choice of places: a resident array or a
streamed one leaves its window's bytes and traffic out, a resident one also those of windows that
share its buffer; a streamed one leaves those apart that it would share with. It is made from
the sink backwards, so that on the way to a long group all shorter ones with the same sink and loops
are found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from polystage.allocation import aligned
from polystage.errors import PlanError
from polystage.planner.fusion import sharing
from polystage.planner.fusion.boxes import lengths
from polystage.planner.fusion.decisions import Group, Loop, Place
from polystage.planner.fusion.demand import Demand
from polystage.planner.fusion.legality import check_group
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import window_of
from polystage.planner.fusion.steps import carried, first_needed, window_extents


@dataclass(frozen=True, slots=True)
class Window:
    """One array of a group."""

    bytes: int
    operators: range
    """During which of the group's operators it is live."""
    traffic: int
    """What it loads and stores."""


@dataclass(frozen=True, slots=True)
class SharedWindow:
    """One buffer of several arrays, each of which takes the place of the one before."""

    members: frozenset[int]
    """Numbers of arrays, in order of appearance."""
    bytes: int
    operators: range


@dataclass(frozen=True)
class Steps:
    """The steps of a group whose arrays are all windows."""

    boxes: tuple[tuple[int, ...], ...]
    """Per operator the most that it computes in one step, along every dim."""
    times: tuple[int, ...]
    """Per operator the steps in which it computes something."""
    windows: tuple[Window, ...]
    """One per array by itself, in order of appearance."""
    shared: tuple[SharedWindow, ...]
    sums: int
    """What the sink accumulates over all steps, where they run over a dim that it reduces."""

    def on_chip(self, places: Sequence[Place]) -> Iterator[tuple[int, range]]:
        """Yield the bytes of windows, and during which operators, where arrays have `places`."""
        apart = {number for number, place in enumerate(places) if place is Place.WINDOW}
        for shared in self._shared(places):
            apart -= shared.members
            if not any(places[member] is Place.RESIDENT for member in shared.members):
                yield shared.bytes, shared.operators
        for number in apart:
            yield self.windows[number].bytes, self.windows[number].operators

    def resident(self, places: Sequence[Place]) -> set[int]:
        """Return the resident arrays, by number, without those that lie in another's place."""
        found = {number for number, place in enumerate(places) if place is Place.RESIDENT}
        for shared in self._shared(places):
            found -= set(sorted(found & shared.members)[1:])
        return found

    def _shared(self, places: Sequence[Place]) -> Iterator[SharedWindow]:
        for shared in self.shared:
            if not any(places[member] is Place.STREAMED for member in shared.members):
                yield shared


def steps_of_sink(
    program: Program, start: int, stop: int, loops: tuple[Loop, ...], sums_up: bool
) -> Iterator[tuple[int, Steps | None]]:
    """Yield the steps of every group that ends before `stop`, shortest first, the last one from
    `start` on; None for those that cannot be carried out.

    `sums_up` says that `loops` run over a dim that the sink reduces.
    """
    growing = _Growing(program, start, stop, loops)
    sums = 0
    for place in reversed(range(stop - start)):
        growing.add(place)
        if sums_up and place == stop - start - 1:
            sums = _sums(growing.demand)
        yield start + place, growing.steps(place, sums)


class _Growing:
    """A group that gets one more operator in front, again and again."""

    def __init__(self, program: Program, start: int, stop: int, loops: tuple[Loop, ...]) -> None:
        names = (n for operator in program.operators[start:stop] for n in operator.arrays)
        group = Group(tuple(range(start, stop)), loops, places=dict.fromkeys(names, Place.WINDOW))
        self.demand = Demand(program, group)
        self._windows: dict[str, tuple[sharing.Window, int] | None] = {}
        """By array, and what it moves; None where it has none that can be carried out."""
        self._lives: dict[str, tuple[int, tuple[int, int]]] = {}
        """Of the same windows: bytes, and the first and the last operator."""
        self._shares: dict[str, list[str]] = {}
        """By array in whose buffer others lie."""
        self._joined: dict[str, sharing.Window] = {}
        self._succeeding = {
            name
            for link in sharing.successions(program)
            if start <= link.operator < stop
            for name in (link.dying, link.made)
        }
        self._boxes: list[tuple[int, ...]] = []
        self._times: list[int] = []

    def add(self, place: int) -> None:
        """Put the operator at this place of the longest group in front."""
        demand = self.demand
        if place == len(demand.operators) - 1:
            boxes = demand.sink_boxes()
        else:
            needed = demand.needed_results(demand.operators[place])
            boxes = first_needed(needed, demand.shape)
        demand.add(place, boxes)
        sizes = np.maximum(lengths(boxes), 0).reshape(-1, boxes.shape[-2])
        self._boxes.insert(0, tuple(sizes.max(axis=0).tolist()))
        self._times.insert(0, int((sizes.prod(axis=1) > 0).sum()))
        touched = demand.operators[place].arrays
        for name in touched:
            found = self._windows[name] = self._window(name)
            if found is not None:
                self._lives[name] = self._life(found[0])
        if not self._succeeding.isdisjoint(touched):
            self._share()

    def _window(self, name: str) -> tuple[sharing.Window, int] | None:
        try:
            return window_of(self.demand, name)
        except PlanError:
            return None

    def _share(self) -> None:
        self._joined = {name: found[0] for name, found in self._windows.items() if found}
        places = dict.fromkeys(self._joined, Place.WINDOW)
        self._shares = {}
        for name, owner in sharing.share(self.demand, self._joined, places).items():
            self._shares.setdefault(owner, [owner]).append(name)

    def steps(self, place: int, sums: int) -> Steps | None:
        """Return the steps of the group that begins at this place of the longest one."""
        group = self.demand.group
        operators = group.operators[place:]
        try:
            check_group(self.demand.program, replace(group, operators=operators))
            self.demand.check_interleaved()
        except PlanError:
            return None
        names = dict.fromkeys(name for o in self.demand.operators[place:] for name in o.arrays)
        windows: list[Window] = []
        for name in names:
            found = self._windows[name]
            if found is None:
                return None
            windows.append(Window(*_from(place, self._lives[name]), found[1]))
        numbers = {name: number for number, name in enumerate(names)}
        shared = tuple(
            SharedWindow(
                frozenset(numbers[name] for name in members),
                *_from(place, self._life(self._joined[owner])),
            )
            for owner, members in self._shares.items()
        )
        return Steps(tuple(self._boxes), tuple(self._times), tuple(windows), shared, sums)

    def _life(self, window: sharing.Window) -> tuple[int, tuple[int, int]]:
        buffer = window.buffer("", len(self.demand.operators))
        return buffer.bytes, buffer.operators


def _from(place: int, life: tuple[int, tuple[int, int]]) -> tuple[int, range]:
    """Return a window's bytes, and during which of the operators from `place` on it is live."""
    size, (first, last) = life
    return size, range(max(first, place) - place, last + 1 - place)


def _sums(demand: Demand) -> int:
    """Return the bytes in which the sink accumulates over steps."""
    sink = demand.operators[-1]
    if sink.accumulator is None:
        return 0
    held = demand.computes[-1][..., list(sink.parallels), :]
    shape = window_extents(held, carried(held, demand.shape))
    return aligned(prod(shape) * sink.accumulator)
