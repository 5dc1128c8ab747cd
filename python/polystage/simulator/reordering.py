"""The instructions of a placed program, what must stay in order, and the time of another order.

What the simulator executes is known without numbers; a program whose instructions are the same, in
another order, is timed without decoding it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from polystage.simulator.conflicts import with_order
from polystage.simulator.decode import Program
from polystage.simulator.timeline import run_timeline
from polystage.simulator.trace import (
    COMPUTE,
    COMPUTE_QUEUES,
    DRAM,
    NO_BOX,
    Bool,
    CoreTrace,
    Float64,
    Int32,
    Int64,
    Rates,
    Regions,
    UInt8,
)

TENSOR = COMPUTE_QUEUES.index("tensor")


@dataclass(frozen=True)
class Before:
    """What an instruction comes after, and of it what must have ended when it starts."""

    after: tuple[int, ...]
    waits: tuple[int, ...]


@dataclass(frozen=True)
class Traced:
    """A program as the simulator executes it, in program order."""

    program: Program
    trace: CoreTrace
    rates: Rates

    def calls(self) -> Iterator[tuple[str, range]]:
        """Yield the kernel and the instructions of every call."""
        bounds = np.flatnonzero(np.diff(self.trace.call)) + 1
        edges = [0, *bounds.tolist(), self.trace.count]
        for first, stop in pairwise(edges):
            if first < stop:
                yield (
                    self.program.instructions[self.trace.op[first]].place.kernel,
                    range(first, stop),
                )

    def end_ns(self, order: Int64) -> float:
        """Return when the last instruction ends if they stand in another order.

        Every dependence is kept, as `npu-insert-sync` would.
        """
        trace = self.reordered(order).trace
        return run_timeline([with_order(trace, "interlocked")], self.rates).end_ns

    def busiest_ns(self, call: range) -> float:
        """Return how long the busiest engine is at work in a call; all DMA engines are one."""
        span = slice(call.start, call.stop)
        names, busy = self.trace.queues, self.trace.busy_ns[span]
        first = [i for i, name in enumerate(names) if name.startswith("dma")][:1]
        engine = np.minimum(self.trace.queue[span], first[0] if first else len(names))
        return float(np.bincount(engine, busy, len(names)).max())

    def reordered(self, order: Int64) -> Traced:
        """Return the program with its instructions in another order."""
        old = self.trace
        counts = np.diff(old.access_start)[order]
        start = np.concatenate([[0], np.cumsum(counts)])
        access = np.repeat(old.access_start[:-1][order] - start[:-1], counts) + np.arange(start[-1])
        op, region = old.op[order], old.region[access]
        changed = self._changed(op, old.queue[order], region[np.minimum(start[:-1], start[-1] - 1)])
        trace = replace(
            old,
            kind=old.kind[order],
            op=op,
            queue=old.queue[order],
            busy_ns=np.where(changed, *(self.times(op, name, "busy_ns") for name in _HELD)),
            latency_ns=np.where(changed, *(self.times(op, name, "latency_ns") for name in _HELD)),
            form_ns=old.form_ns[order],
            dram_bytes=old.dram_bytes[order],
            ports=old.ports[order],
            semaphore=old.semaphore[order],
            value=old.value[order],
            call=old.call[order],
            access_start=start,
            region=region,
            writes=old.writes[access],
            by_array=old.by_array[access],
        )
        return replace(self, trace=trace)

    def times(self, op: Int32, held: str, name: str) -> Float64:
        """Return a time of instructions, `changed` or `held`, by the numbers of operations."""
        known = [getattr(getattr(i.times, held), name) for i in self.program.instructions]
        return np.array(known, np.float64)[op]

    def is_matmul(self) -> Bool:
        """Return which instructions are matmuls."""
        known = np.array([i.is_matmul for i in self.program.instructions], np.bool_)
        return known[self.trace.op]

    def _changed(self, op: Int32, queue: UInt8, first_region: Int32) -> Bool:
        """Return which instructions do not find their stationary operand in the array; one that
        was written anew in between is not noticed."""
        matmul = np.array([i.is_matmul for i in self.program.instructions], np.bool_)[op]
        at = np.flatnonzero(queue == TENSOR)
        both = matmul[at[1:]] & matmul[at[:-1]]
        changed = np.ones(len(op), np.bool_)
        changed[at[1:]] = ~(both & (first_region[at[1:]] == first_region[at[:-1]]))
        return changed


_HELD = ("changed", "held")


# --- what must stay in order ----------------------------------------------------------------------


def orders_of(trace: CoreTrace, call: range, lives: Int64 | None = None) -> list[Before]:
    """Return what every instruction of a call comes after, by its number in the call.

    `lives` numbers the accesses of the call: those of different lives do not meet.
    """
    return _Orders(trace, call, lives).find()


class _Orders:
    """One pass over a call; knows of every region who wrote it last, and who has read it since,
    each with the life that the region had then."""

    def __init__(self, trace: CoreTrace, call: range, lives: Int64 | None) -> None:
        self.call = call
        self.queue = trace.queue.tolist()
        self.is_compute = (trace.kind == COMPUTE).tolist()
        start = trace.access_start[call.start : call.stop + 1]
        accesses = slice(int(start[0]), int(start[-1]))
        regions, region, writes = trace.regions, trace.region[accesses], trace.writes[accesses]
        if lives is None:
            lives = np.zeros(len(region), np.int64)
        written = np.zeros(int(regions.buffer.max(initial=0)) + 1, np.bool_)
        written[regions.buffer[region[writes]]] = True
        matters = ((regions.memory != DRAM) | written[regions.buffer])[region]
        every = list(zip(region.tolist(), writes.tolist(), lives.tolist(), strict=True))
        self.accesses = [
            [access for access, counts in zip(every[a:b], matters[a:b], strict=True) if counts]
            for a, b in pairwise((start - start[0]).tolist())
        ]
        used = sorted(set(region[matters].tolist()))
        self.meeting, self.covered = regions_that_meet(regions, used)
        self.writer: dict[int, tuple[int, int]] = {}
        self.readers: dict[int, tuple[list[int], int]] = {}

    def find(self) -> list[Before]:
        """Return the orders."""
        return [self._instruction(i, accesses) for i, accesses in enumerate(self.accesses)]

    def _instruction(self, i: int, accesses: Sequence[tuple[int, bool, int]]) -> Before:
        writers: set[int] = set()
        readers: set[int] = set()
        for region, writes, life in accesses:
            for other in self.meeting[region]:
                writer, written = self.writer.get(other, (i, life))
                if written == life:
                    writers.add(writer)
                if writes and other in self.readers and self.readers[other][1] == life:
                    readers.update(self.readers[other][0])
        self._record(i, accesses)
        writers.discard(i)
        readers.discard(i)
        waits = {j for j in writers if not self._follow(j, i, TENSOR)}
        waits |= {j for j in readers if not self._follow(j, i)}
        return Before(tuple(sorted(writers | readers)), tuple(sorted(waits)))

    def _follow(self, j: int, i: int, queue: int | None = None) -> bool:
        """Whether the queue of two instructions sees to their order: `queue`, or any of compute."""
        first, second = self.call.start + j, self.call.start + i
        same = self.queue[first] == self.queue[second] and self.is_compute[first]
        return same and queue in (None, self.queue[first])

    def _record(self, i: int, accesses: Sequence[tuple[int, bool, int]]) -> None:
        for region, writes, life in accesses:
            if not writes:
                known = self.readers.get(region)
                if known is None or known[1] != life:
                    known = self.readers[region] = ([], life)
                known[0].append(i)
        for region, writes, life in accesses:
            for other in self.covered[region] if writes else ():
                self.readers.pop(other, None)
                self.writer[other] = (i, life)


def regions_that_meet(
    regions: Regions, used: Sequence[int]
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Return the regions that each one meets, itself among them, and those of them that lie in it
    as far as boxes tell. Two meet as `conflicts.Meetings` says."""
    at = np.array(used, np.int64)
    memory, buffer, low, high, first, last, key = (
        getattr(regions, name)[at]
        for name in (
            *("memory", "buffer", "low", "high", "partition_low", "partition_high", "key"),
        )
    )
    begin, end = regions.box[at][:, ::2], regions.box[at][:, 1::2]
    meeting: dict[int, list[int]] = {}
    covered: dict[int, list[int]] = {}
    for rows in _by_place(np.where(memory == DRAM, buffer + DRAM, memory), low):
        longest = (high[rows] - low[rows]).max(initial=0)
        # what begins further up is too short to reach, what begins behind the end is not met
        starts = np.searchsorted(low[rows], low[rows] - longest, side="right").tolist()
        stops = np.searchsorted(low[rows], high[rows]).tolist()
        for n, start, stop in zip(rows.tolist(), starts, stops, strict=True):
            around = rows[start:stop]
            near = (low[n] < high[around]) & (first[around] < last[n]) & (first[n] < last[around])
            found = np.sort(around[near])
            comparable = (buffer[found] == buffer[n]) & (key[found] == key[n]) & (key[n] != NO_BOX)
            apart = (begin[found] >= end[n]) | (begin[n] >= end[found])
            inside = (begin[found] >= begin[n]) & (end[found] <= end[n])
            meets = ~(comparable & apart.any(axis=1))
            contains = (comparable & inside.all(axis=1)) | (found == n)
            meeting[used[n]] = at[found[meets]].tolist()
            covered[used[n]] = at[found[contains]].tolist()
    return meeting, covered


def _by_place(place: Int64, low: Int64) -> list[Int64]:
    """Return rows of the same place, by their first byte."""
    order = np.lexsort((low, place))
    return np.split(order, np.flatnonzero(np.diff(place[order])) + 1)
