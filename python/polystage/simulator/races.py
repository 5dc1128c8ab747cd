"""What semaphores order: races and deadlocks, whatever the timing.

Every queue has a clock that says, per queue, up to which instruction everything has ended when its
next one starts. A signal hands on its queue's clock and all before it in its queue; a wait takes in
what its token carries. The k-th wait on a semaphore has the k-th token, because one queue signals
and one waits.

Two instructions of different queues race where they conflict and the first of the program has not
ended for sure when the second starts: also where they are ordered the other way round, for a
program means what it does in its own order. Instructions of one queue keep their order themselves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from polystage.compiled import _core, uses_core
from polystage.simulator.conflicts import (
    NEVER,
    READ,
    Accesses,
    History,
    compiled_regions,
)
from polystage.simulator.trace import NO_SEMAPHORE, SIGNAL, WAIT, CoreTrace, Int32, Int64, UInt8

Clock = tuple[int, ...]


@dataclass(frozen=True)
class Races:
    """Unordered pairs of accesses: instructions in the order of the program, and their regions."""

    first: Int64
    second: Int64
    first_region: Int64
    second_region: Int64

    @property
    def count(self) -> int:
        """Number of pairs."""
        return len(self.first)


@dataclass
class Clocks:
    """`before[i]` is the clock at the start of instruction i, or None where it never starts.

    `stuck` has, per queue, the wait that never passes, or `NEVER`.
    """

    before: list[Clock | None]
    stuck: list[int]


def clocks_of(trace: CoreTrace, ignored: int = NO_SEMAPHORE) -> Clocks:
    """Return what has ended before every instruction; the semaphore `ignored` does not count."""
    queues = len(trace.queues)
    kind, semaphore = trace.kind.tolist(), trace.semaphore.tolist()
    programs = [np.flatnonzero(trace.queue == q).tolist() for q in range(queues)]
    start: Clock = (NEVER,) * queues
    tokens: list[list[Clock]] = [[start] * int(k) for k in trace.semaphores]
    taken, waiter = [0] * len(tokens), {}
    at = [0] * queues
    clocks: list[Clock] = [start] * queues
    before: list[Clock | None] = [None] * trace.count
    runnable = list(range(queues))
    while runnable:
        q = runnable.pop()
        clock, program = clocks[q], programs[q]
        while at[q] < len(program):
            i = program[at[q]]
            s = semaphore[i]
            if kind[i] == SIGNAL and s != ignored:
                tokens[s].append((*clock[:q], i, *clock[q + 1 :]))
                if s in waiter:
                    runnable.append(waiter.pop(s))
            elif kind[i] == WAIT and s != ignored:
                if taken[s] == len(tokens[s]):
                    waiter[s] = q
                    break
                clock = tuple(map(max, clock, tokens[s][taken[s]]))
                taken[s] += 1
            before[i] = clock
            at[q] += 1
        clocks[q] = clock
    stuck = [p[k] if k < len(p) else NEVER for p, k in zip(programs, at, strict=True)]
    return Clocks(before, stuck)


def stuck_waits(trace: CoreTrace) -> list[int]:
    """Return the waits that never pass, whatever the timing, one per queue that has one."""
    found = _compiled_stuck(trace) if uses_core() else clocks_of(trace).stuck
    return [i for i in found if i != NEVER]


def find_races(trace: CoreTrace, limit: int = 0, ignored: int = NO_SEMAPHORE) -> Races:
    """Return every race between instructions that start, by their second instruction.

    `limit` stops after so many pairs (0: all of them). The semaphore `ignored` does not count.

    Cost: near-linear where there are few races: what a clock says to have ended is not looked at,
    and of what an engine did to one region only the last time.
    """
    if uses_core():
        return _compiled_races(trace, limit, ignored)
    pairs: set[tuple[int, int, int, int]] = set()
    search = _Search(trace, clocks_of(trace, ignored))
    for i in range(trace.count):
        pairs |= search.races_of(i)
        if limit and len(pairs) >= limit:
            break
    columns = np.array(sorted(pairs)[: limit or None], np.int64).reshape(-1, 4)
    return Races(columns[:, 1], columns[:, 0], columns[:, 2], columns[:, 3])


def unneeded_semaphores(trace: CoreTrace) -> list[int]:
    """Return the semaphores each of which could be left out of a program without races.

    Leaving out several of them at a time may be too much.
    """
    used = np.unique(trace.semaphore[trace.kind >= SIGNAL]).tolist()
    return [s for s in used if not find_races(trace, 1, ignored=s).count]


def _compiled_stuck(trace: CoreTrace) -> list[int]:
    return _core.stuck(*_semaphore_columns(trace), len(trace.queues), NO_SEMAPHORE).tolist()


def _compiled_races(trace: CoreTrace, limit: int, ignored: int) -> Races:
    accesses = Accesses.of(trace)
    return Races(
        *_core.find_races(
            compiled_regions(trace.regions),
            *_semaphore_columns(trace),
            accesses.start,
            accesses.region,
            accesses.way,
            len(trace.queues),
            limit,
            ignored,
        )
    )


def _semaphore_columns(trace: CoreTrace) -> tuple[UInt8, UInt8, Int32, Int64]:
    return (
        np.ascontiguousarray(trace.queue, np.uint8),
        np.ascontiguousarray(trace.kind, np.uint8),
        np.ascontiguousarray(trace.semaphore, np.int32),
        np.ascontiguousarray(trace.semaphores, np.int64),
    )


class _Search:
    """One pass over the accesses in program order."""

    def __init__(self, trace: CoreTrace, clocks: Clocks) -> None:
        self.queue = trace.queue.tolist()
        self.before = clocks.before
        self.accesses = Accesses.of(trace).by_instruction()
        self.history = History(trace.regions)
        self.instances: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
        """By queue, way and region: all instructions, in order."""

    def races_of(self, i: int) -> set[tuple[int, int, int, int]]:
        """Return (i, other instruction, its region, region of i) of all races with earlier ones,
        and remember the accesses of i."""
        clock, queue = self.before[i], self.queue[i]
        pairs: set[tuple[int, int, int, int]] = set()
        if clock is None:
            return pairs
        for region, way in self.accesses[i]:
            for other, their_way in self.history.accessors(region):
                if other != queue and (way != READ or their_way != READ):
                    pairs |= self._races(i, region, other, their_way, clock[other])
        for region, way in self.accesses[i]:
            self.history.record(queue, way, region, i)
            self.instances[queue, way, region].append(i)
        return pairs

    def _races(
        self, i: int, region: int, other: int, way: int, ended: int
    ) -> set[tuple[int, int, int, int]]:
        """Return the races of an access with what another queue has done after `ended`."""
        pairs: set[tuple[int, int, int, int]] = set()
        for their_region in self.history.meeting(other, way, region, ended):
            instances = self.instances[other, way, their_region]
            later = instances[bisect_right(instances, ended) :]
            pairs.update((i, j, their_region, region) for j in later)
        return pairs
