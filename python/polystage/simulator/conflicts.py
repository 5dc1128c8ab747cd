"""Which earlier instructions one depends on: the exact dependences of a trace.

Two accesses conflict where one of them writes and their regions meet. Regions of different buffers
meet on chip where they share a byte of a partition, and never in DRAM; regions of one buffer must
also have boxes that meet, where both have one of the same key.

What an instruction waits for by itself depends on the order that is asked for (`with_order`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from polystage.compiled import _core, uses_core
from polystage.simulator.trace import (
    COMPUTE,
    DRAM,
    GATHER,
    NO_BOX,
    SIGNAL,
    CoreTrace,
    Int32,
    Int64,
    Regions,
    UInt8,
)

Order = Literal["concurrent", "interlocked", "sequential"]

Known = tuple[int, ...]
"""By party: an instruction, up to which something is known."""

READ, WRITE, ARRAY_WRITE = range(3)
"""Ways of access; array writes are those of the tensor engine, which keeps them in order."""

NEVER: int = -1
"""Stands for an instruction before the first."""

MANY = 1_000_000
"""Answers that are kept at a time."""

MARGIN = 1.0 + 1e-6
"""Over the longest latency: rounding must not decide whether a dependence holds."""


class Meetings:
    """Says which regions meet; answers are kept, because loops come back to them."""

    def __init__(self, regions: Regions) -> None:
        self._memory = regions.memory.tolist()
        self._buffer = regions.buffer.tolist()
        columns = (regions.low, regions.high, regions.partition_low, regions.partition_high)
        self.bounds = list(zip(*(c.tolist() for c in columns), strict=True))
        self._key = regions.key.tolist()
        self._box = regions.box.tolist()
        self._known: dict[tuple[int, int], bool] = {}

    def __call__(self, a: int, b: int) -> bool:
        """Say whether two regions may share a byte."""
        pair = (a, b) if a < b else (b, a)
        known = self._known.get(pair)
        if known is None:
            if len(self._known) >= MANY:
                self._known.clear()
            known = self._known[pair] = self._meet(*pair)
        return known

    def _meet(self, a: int, b: int) -> bool:
        same = self._buffer[a] == self._buffer[b]
        if self._memory[a] != self._memory[b] or (self._memory[a] == DRAM and not same):
            return False
        low, high, first, last = self.bounds[a]
        other_low, other_high, other_first, other_last = self.bounds[b]
        if low >= other_high or other_low >= high or first >= other_last or other_first >= last:
            return False
        if not same or self._key[a] == NO_BOX or self._key[a] != self._key[b]:
            return True
        box, other = self._box[a], self._box[b]
        return all(box[d] < other[d + 1] and other[d] < box[d + 1] for d in range(0, len(box), 2))


def shared_places(regions: Regions) -> Int32:
    """Return a number per region; only regions of the same number can meet.

    One for each on-chip memory, one for each DRAM buffer.
    """
    return np.where(regions.memory == DRAM, regions.buffer + DRAM, regions.memory).astype(np.int32)


def compiled_regions(regions: Regions) -> _core.Regions:
    """Return the table for the compiled core."""
    return _core.Regions(
        np.ascontiguousarray(regions.memory, np.uint8),
        np.ascontiguousarray(regions.buffer, np.int32),
        np.ascontiguousarray(regions.low, np.int64),
        np.ascontiguousarray(regions.high, np.int64),
        np.ascontiguousarray(regions.partition_low, np.int32),
        np.ascontiguousarray(regions.partition_high, np.int32),
        np.ascontiguousarray(regions.key, np.int32),
        np.ascontiguousarray(regions.box, np.int32),
        shared_places(regions),
    )


@dataclass(frozen=True)
class Accesses:
    """The accesses that can conflict: those of instruction i from `start[i]` to `start[i + 1]`."""

    start: Int64
    region: Int32
    way: UInt8

    @classmethod
    def of(cls, trace: CoreTrace) -> Accesses:
        """Return all but those of DRAM buffers that nothing writes."""
        buffer, memory = trace.regions.buffer[trace.region], trace.regions.memory[trace.region]
        written = np.zeros(int(trace.regions.buffer.max(initial=0)) + 1, np.bool_)
        written[buffer[trace.writes]] = True
        keep = (memory != DRAM) | written[buffer]
        ways = np.where(trace.writes, np.where(trace.by_array, ARRAY_WRITE, WRITE), READ)
        return cls(
            np.concatenate([[0], np.cumsum(keep)])[trace.access_start],
            np.ascontiguousarray(trace.region[keep], np.int32),
            ways[keep].astype(np.uint8),
        )

    def by_instruction(self) -> list[list[tuple[int, int]]]:
        """Return (region, way) of the accesses of every instruction."""
        pairs = list(zip(self.region.tolist(), self.way.tolist(), strict=True))
        return [pairs[a:b] for a, b in pairwise(self.start.tolist())]


class History:
    """The last access to every region, by way and who made it, from early to late.

    For every place it knows the buffers in the order of their last accesses, and for every buffer
    its regions: what is older, or lies elsewhere, is not looked at.
    """

    def __init__(self, regions: Regions) -> None:
        self.meet = Meetings(regions)
        self._buffer = regions.buffer.tolist()
        self._place = shared_places(regions).tolist()
        self._buffers: dict[tuple[int, int, int], dict[int, int]] = {}
        self._regions: dict[tuple[int, int, int], dict[int, int]] = {}
        self._accessors: dict[int, list[tuple[int, int]]] = {}
        self._hulls = _hulls(regions)

    def accessors(self, region: int) -> Sequence[tuple[int, int]]:
        """Return who has accessed the place of a region, and in which way."""
        return self._accessors.get(self._place[region], ())

    def record(self, who: int, way: int, region: int, instruction: int) -> None:
        """Remember an access."""
        place, buffer = self._place[region], self._buffer[region]
        if (place, way, who) not in self._buffers:
            self._accessors.setdefault(place, []).append((who, way))
        for table, key, entry in (
            (self._buffers, (place, way, who), buffer),
            (self._regions, (buffer, way, who), region),
        ):
            entries = table.setdefault(key, {})
            entries.pop(entry, None)
            entries[entry] = instruction

    def meeting(self, who: int, way: int, region: int, after: int) -> Iterator[int]:
        """Yield the regions that meet `region` and were accessed after an instruction."""
        for buffer in self._rivals(who, way, region, after):
            for other, instruction in reversed(self._regions[buffer, way, who].items()):
                if instruction <= after:
                    break
                if self.meet(region, other):
                    yield other

    def latest(self, who: int, way: int, region: int, after: int) -> int:
        """Return the last instruction whose access meets `region`, at least `after`."""
        for buffer in self._rivals(who, way, region, after):
            for other, instruction in reversed(self._regions[buffer, way, who].items()):
                if instruction <= after:
                    break
                if self.meet(region, other):
                    after = instruction
                    break
        return after

    def _rivals(self, who: int, way: int, region: int, after: int) -> Iterator[int]:
        """Yield the buffers of which a region may meet `region`, accessed after an instruction."""
        buffers = self._buffers.get((self._place[region], way, who), {})
        low, high, first, last = self.meet.bounds[region]
        for buffer, instruction in reversed(buffers.items()):
            if instruction <= after:
                return
            least, most, top, bottom = self._hulls[buffer]
            if low < most and least < high and first < bottom and top < last:
                yield buffer


def _hulls(regions: Regions) -> list[tuple[int, int, int, int]]:
    """Return, per buffer, the bytes and partitions that its regions lie in."""
    count = int(regions.buffer.max(initial=NEVER)) + 1
    none = np.iinfo(np.int64).max
    hull = np.tile(np.array([none, 0, none, 0]), (count, 1))
    np.minimum.at(hull[:, 0], regions.buffer, regions.low)
    np.maximum.at(hull[:, 1], regions.buffer, regions.high)
    np.minimum.at(hull[:, 2], regions.buffer, regions.partition_low)
    np.maximum.at(hull[:, 3], regions.buffer, regions.partition_high)
    return [tuple(row) for row in hull.tolist()]


def with_order(trace: CoreTrace, order: Order) -> CoreTrace:
    """Return the trace with what every instruction waits for by itself.

    concurrent   own results: an engine's instruction waits for earlier ones of the same engine that
                 write what it reads or writes, but a matmul not for matmuls; the rest is up to the
                 semaphores.
    interlocked  every dependence; with semaphores as with these, an instruction that is waited for
                 has ended with all before it in its queue.
    sequential   the instruction before.

    What is sure to have ended, because of what the queue has waited for before or of the time that
    issuing takes, is left out. Transfers of one DMA queue follow each other anyway. Signals and
    waits stay, and are passed: a program in its own order waits for nothing that comes later.
    """
    if order == "sequential":
        return _sequential(trace)
    parties = _Parties.of(trace)
    find = _compiled_dependences if uses_core() else _python_dependences
    start, after = find(trace, parties, order == "interlocked")
    return replace(trace, after_start=start, after=after)


@dataclass(frozen=True)
class _Parties:
    """Who takes part: every queue, and the gathers of gpsimd, which end in their own time.

    `of_instruction` is `NEVER` for signals and waits. `certain` has, per instruction, the latest of
    its party that has ended for sure when it can start. `engine` has the queue of every party,
    `moves` whether it moves data by DMA.
    """

    of_instruction: Int32
    certain: Int64
    engine: Int32
    moves: UInt8

    @property
    def gathers(self) -> int:
        """The party of gathers."""
        return len(self.engine) - 1

    @classmethod
    def of(cls, trace: CoreTrace) -> _Parties:
        """Return the parties of a trace."""
        queues = len(trace.queues)
        party = np.where(trace.kind == GATHER, queues, trace.queue.astype(np.int32))
        of_gathers = trace.queue[trace.kind == GATHER][:1].tolist() or [NEVER]
        return cls(
            np.where(trace.kind < SIGNAL, party, NEVER).astype(np.int32),
            _certainly_ended(trace),
            np.array([*range(queues), *of_gathers], np.int32),
            np.array([*(q.startswith("dma") for q in trace.queues), True], np.uint8),
        )


def _compiled_dependences(trace: CoreTrace, parties: _Parties, across: bool) -> tuple[Int64, Int64]:
    accesses = Accesses.of(trace)
    return _core.dependences(
        compiled_regions(trace.regions),
        parties.of_instruction,
        parties.certain,
        accesses.start,
        accesses.region,
        accesses.way,
        parties.engine,
        parties.moves,
        parties.gathers,
        across,
    )


def _python_dependences(trace: CoreTrace, parties: _Parties, across: bool) -> tuple[Int64, Int64]:
    waits = _Dependences(trace, parties, across).find()
    start = np.cumsum([0, *map(len, waits)], dtype=np.int64)
    return start, np.fromiter((e for entries in waits for e in entries), np.int64, int(start[-1]))


def _sequential(trace: CoreTrace) -> CoreTrace:
    works = trace.kind < SIGNAL
    before = np.flatnonzero(works)[:-1]
    follows = works.copy()
    follows[: before[0] + 1 if len(before) else len(works)] = False
    start = np.concatenate([[0], np.cumsum(follows)])
    return replace(trace, after_start=start, after=before)


class _Dependences:
    """One pass over a trace in program order.

    `ended` has, per party, what is known to have ended of every other when its next instruction
    starts, and `issued` what has been issued: accesses up to there need no look.
    """

    def __init__(self, trace: CoreTrace, parties: _Parties, across: bool) -> None:
        self.across = across
        self.accesses = Accesses.of(trace).by_instruction()
        self.history = History(trace.regions)
        self.party = parties.of_instruction.tolist()
        self.certain = parties.certain.tolist()
        self.engine = parties.engine.tolist()
        self.moves = parties.moves.tolist()
        self.gathers = parties.gathers
        count = len(self.engine)
        self.ended: list[Known] = [(NEVER,) * count] * count
        self.issued: list[Known] = [(NEVER,) * count] * count
        self.matters = [[self._matters(p, o) for o in range(count)] for p in range(count)]
        self.at_start: dict[int, tuple[Known, Known]] = {}

    def find(self) -> list[list[int]]:
        """Return the entries of `after` of every instruction."""
        return [
            self._instruction(i, party, certain, accesses) if party >= 0 else []
            for i, (party, certain, accesses) in enumerate(
                zip(self.party, self.certain, self.accesses, strict=True)
            )
        ]

    def _instruction(
        self, i: int, party: int, certain: int, accesses: Sequence[tuple[int, int]]
    ) -> list[int]:
        ends, issues = list(self.ended[party]), list(self.issued[party])
        ends[party] = max(ends[party], certain)
        for region, way in accesses:
            self._look(party, region, way, ends, issues)
        waits = self._waits(party, certain, ends, issues)
        self._note(i, party, waits)
        for region, way in accesses:
            self.history.record(party, way, region, i)
        return waits

    def _look(self, party: int, region: int, way: int, ends: list[int], issues: list[int]) -> None:
        """Raise what must have ended, and what must have been issued, for an access."""
        latest, matters = self.history.latest, self.matters[party]
        for other, their_way in self.history.accessors(region):
            if not matters[other] or (way == READ and their_way == READ):
                continue
            own = self.engine[other] == self.engine[party]
            if own and (their_way == READ or (way == their_way == ARRAY_WRITE)):
                continue
            if their_way == READ and not self.moves[other]:
                issues[other] = latest(other, READ, region, max(issues[other], ends[other]))
            else:
                ends[other] = latest(other, their_way, region, ends[other])

    def _matters(self, party: int, other: int) -> bool:
        """Say whether an instruction may have to wait for another party's by itself."""
        if self.engine[party] != self.engine[other]:
            return self.across
        is_queue_of_transfers = self.moves[party] and party != self.gathers
        return not is_queue_of_transfers

    def _waits(self, party: int, certain: int, ends: list[int], issues: list[int]) -> list[int]:
        known, issued = self.ended[party], self.issued[party]
        waits = [
            j for o, j in enumerate(ends) if j > known[o] and not (o == party and j == certain)
        ]
        waits += [~j for o, j in enumerate(issues) if j > max(issued[o], ends[o])]
        return waits

    def _note(self, i: int, party: int, waits: list[int]) -> None:
        """Whoever waited for an instruction knows what that one knew, and that it has ended."""
        ended, issued = self.ended[party], self.issued[party]
        for entry in waits:
            j = entry if entry >= 0 else ~entry
            knew_ended, knew_issued = self.at_start[j]
            other = self.party[j]
            ended = tuple(map(max, ended, knew_ended))
            issued = tuple(map(max, issued, knew_issued))
            if entry >= 0 and j > ended[other]:
                ended = (*ended[:other], j, *ended[other + 1 :])
            elif entry < 0 and j > issued[other]:
                issued = (*issued[:other], j, *issued[other + 1 :])
        self.ended[party], self.issued[party] = ended, issued
        self.at_start[i] = (ended, issued)


def _certainly_ended(trace: CoreTrace) -> Int64:
    """Return, per instruction of a compute engine, the latest before it in its queue that has ended
    when it can start, because what lies between takes longer to issue than any takes to end."""
    found = np.full(trace.count, NEVER, np.int64)
    for q in range(len(trace.queues)):
        program = np.flatnonzero((trace.queue == q) & (trace.kind == COMPUTE))
        issue = np.concatenate([[0.0], np.cumsum(trace.busy_ns[program])[:-1]])
        longest = trace.latency_ns[program].max(initial=0.0) * MARGIN
        count = np.searchsorted(issue, issue * (2.0 - MARGIN) - longest, side="right")
        count = np.minimum(count, np.arange(len(program)))
        found[program] = np.where(count > 0, program[count - 1], NEVER) if len(program) else NEVER
    return found
