"""As few bytes as possible in the time that there is."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic

from polystage.allocation.first_fit import decreasing, place_in_order, vary
from polystage.allocation.problem import Allocation, DoesNotFitError, Problem
from polystage.allocation.search import MOST_PLACES, search
from polystage.allocation.solve import best_order, tables, write
from polystage.allocation.table import Int64, Table

Progress = Callable[[str, int, int], None]
"""Is told a memory, its peak and its bound whenever one of them gets better."""

FIRST_EFFORT = 100_000_000
"""For the first search at the bound: half a second of the compiled core."""
SHARE = 8
"""Of this effort, a search above the bound takes one in so many, and varying orders as well."""


def minimise(problem: Problem, seconds: float, progress: Progress = lambda *_: None) -> Allocation:
    """Return addresses with low peaks: those of the best heuristic, made better for `seconds` or
    until nothing better is possible.

    The answer is valid whenever the time ends, and its `bounds` are proved: each grows from the
    greatest demand as searches show that lower peaks do not exist. What is found depends on how
    fast the machine is.

    Units: bytes.

    Raises:
        DoesNotFitError: a memory with a capacity holds less than the best answer.
    """
    addresses = [0] * len(problem.buffers)
    peaks: dict[str, int] = {}
    bounds: dict[str, int] = {}
    start = monotonic()
    for done, memory in enumerate(problem.memories, 1):
        deadline = start + seconds * done / len(problem.memories)
        runs = [
            _Run(table, lambda peak, bound, name=memory.name: progress(name, peak, bound))
            for table in tables(problem.buffers, memory)
        ]
        for remaining, run in zip(range(len(runs), 0, -1), runs, strict=True):
            run.improve(monotonic() + (deadline - monotonic()) / remaining)
        best = min(runs, key=lambda run: run.peak)
        if memory.capacity is not None and best.peak > memory.capacity:
            bound = min(run.bound for run in runs)
            raise DoesNotFitError(
                *best.table.worst(), memory.capacity, memory.name, proven=bound > memory.capacity
            )
        write(addresses, problem.buffers, memory, best.table, best.addresses)
        peaks[memory.name] = best.peak
        bounds[memory.name] = min(run.bound for run in runs)
    return Allocation(tuple(addresses), peaks, bounds)


class _Run:
    """The best placement of a table so far, and the bound under which there is none."""

    def __init__(self, table: Table, progress: Callable[[int, int], None]) -> None:
        self.table = table
        self.progress = progress
        self.unit = table.unit()
        self.bound = table.bound
        _, self.addresses = best_order(table)
        self.peak = table.peak(self.addresses)
        self.order: Int64 = decreasing(table) if len(table) else table.size
        self.varied = place_in_order(table, self.order)
        self.random = random.Random(0)
        self.progress(self.peak, self.bound)

    def improve(self, deadline: float) -> None:
        """Search and vary orders in turn until the deadline."""
        until = monotonic() + 0.05
        while self.bound < self.peak and monotonic() < min(until, deadline):
            self._vary()
        effort = FIRST_EFFORT
        while self.bound < self.peak and monotonic() < deadline:
            begin = monotonic()
            if len(self.table) <= MOST_PLACES:
                self._probe(effort, deadline)
            now = monotonic()
            until = min(deadline, now + (now - begin) / SHARE + 0.05)
            while self.bound < self.peak and monotonic() < until:
                self._vary()
            effort *= 2

    def _probe(self, effort: int, deadline: float) -> None:
        """Search for the bound, then for half way between that and the peak, and so on."""
        target = self.bound
        while self.bound <= target < self.peak and monotonic() < deadline:
            share = 1 if target == self.bound else SHARE
            answer = search(self.table, target, effort // share)
            if answer.addresses is not None:
                self._accept(answer.addresses)
                target = self.bound
            elif answer.proven:
                self.bound = (target // self.unit + 1) * self.unit
                self.progress(self.peak, self.bound)
                target = self.bound
            else:
                target = self._between(target)

    def _between(self, target: int) -> int:
        """Return a target half way up to the peak; the peak itself, if there is none."""
        steps = (self.peak - target) // self.unit
        return target + max(steps // 2, 1) * self.unit

    def _vary(self) -> None:
        """Vary the order, and accept what comes of it if that is better."""
        self.order, self.varied = vary(self.table, self.order, self.varied, self.random)
        self._accept(self.varied)

    def _accept(self, addresses: Int64) -> None:
        if self.table.peak(addresses) < self.peak:
            self.addresses, self.peak = addresses, self.table.peak(addresses)
            self.progress(self.peak, self.bound)
