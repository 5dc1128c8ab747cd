"""What the steps of a group need and move, apart from which of its arrays are where.

One schedule with a window for every array answers for every choice of places: a resident array or a
streamed one leaves its window's bytes and traffic out, and nothing else changes. It is made from
the sink backwards, so that on the way to a long group all shorter ones with the same sink and loops
are found.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from polystage.allocation import aligned
from polystage.errors import PlanError
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


@dataclass(frozen=True)
class Steps:
    """The steps of a group whose arrays are all windows."""

    boxes: tuple[tuple[int, ...], ...]
    """Per operator the most that it computes in one step, along every dim."""
    times: tuple[int, ...]
    """Per operator the steps in which it computes something."""
    windows: tuple[Window, ...]
    """One per array, in order of appearance."""
    sums: int
    """What the sink accumulates over all steps, where they run over a dim that it reduces."""


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
        self._windows: dict[str, Window | None] = {}
        """By array; None where it has none that can be carried out."""
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
        for name in demand.operators[place].arrays:
            self._windows[name] = self._window(name)

    def _window(self, name: str) -> Window | None:
        try:
            buffer, traffic = window_of(self.demand, name)
        except PlanError:
            return None
        first, last = buffer.operators
        return Window(buffer.bytes, range(first, last + 1), traffic)

    def steps(self, place: int, sums: int) -> Steps | None:
        """Return the steps of the group that begins at this place of the longest one."""
        group = self.demand.group
        operators = group.operators[place:]
        try:
            check_group(self.demand.program, replace(group, operators=operators))
            self.demand.check_interleaved()
        except PlanError:
            return None
        windows: list[Window] = []
        for window in self._windows_in_order(place):
            if window is None:
                return None
            live = range(max(window.operators.start, place) - place, window.operators.stop - place)
            windows.append(Window(window.bytes, live, window.traffic))
        return Steps(tuple(self._boxes), tuple(self._times), tuple(windows), sums)

    def _windows_in_order(self, place: int) -> list[Window | None]:
        operators = self.demand.operators[place:]
        names = dict.fromkeys(name for operator in operators for name in operator.arrays)
        return [self._windows[name] for name in names]


def _sums(demand: Demand) -> int:
    """Return the bytes in which the sink accumulates over steps."""
    sink = demand.operators[-1]
    if sink.accumulator is None:
        return 0
    held = demand.computes[-1][..., list(sink.parallels), :]
    shape = window_extents(held, carried(held, demand.shape))
    return aligned(prod(shape) * sink.accumulator)
