"""Which accesses to a bank of psum belong together, and the same program with lives in other banks.

A life of a bank begins where something is written and nothing that was there before is read
afterwards. Lives may lie in any bank; a kernel that takes its banks in turn does not have to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np

from polystage.simulator.reordering import Traced
from polystage.simulator.trace import PSUM, CoreTrace, Int64, Regions

NO_LIFE = -1


@dataclass(frozen=True)
class Lives:
    """Lives of the banks in a call: the bank of each, and of every access of the call its life."""

    banks: tuple[int, ...]
    of_access: Int64

    def of_instructions(self, trace: CoreTrace, call: range) -> list[tuple[int, ...]]:
        """Return the lives that every instruction of a call has part in."""
        start = trace.access_start[call.start : call.stop + 1] - trace.access_start[call.start]
        lives = self.of_access.tolist()
        return [
            tuple(sorted({n for n in lives[a:b] if n != NO_LIFE}))
            for a, b in pairwise(start.tolist())
        ]


def psum_lives(program: Traced, call: range) -> Lives:
    """Return the lives of the banks of psum in a call."""
    trace, bank_bytes = program.trace, program.program.target.psum.bank_bytes
    start, regions = trace.access_start, trace.regions
    first, stop = int(start[call.start]), int(start[call.stop])
    found = np.full(stop - first, NO_LIFE, np.int64)
    of_bank: dict[int, list[tuple[int, int]]] = {}
    for i in call:
        for access in range(int(start[i]), int(start[i + 1])):
            region = trace.region[access]
            if regions.memory[region] == PSUM:
                bank = int(regions.low[region]) // bank_bytes
                of_bank.setdefault(bank, []).append((access, i))
    banks: list[int] = []
    for bank, accesses in sorted(of_bank.items()):
        starts = _starts(_spans(program, accesses))
        instructions = np.array([i for _, i in accesses])
        numbers = np.searchsorted(np.array(starts), instructions, side="right") - 1
        found[[access - first for access, _ in accesses]] = numbers + len(banks)
        banks += [bank] * len(starts)
    return Lives(tuple(banks), found)


def _spans(program: Traced, accesses: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return for every instruction that touches a bank the last one that reads what it left.

    `accesses` has (access, instruction) in the order of the program.
    """
    trace, regions = program.trace, program.trace.regions
    spans: dict[int, int] = {}
    owners: list[tuple[_Part, int]] = []
    for access, i in accesses:
        spans.setdefault(i, i)
        r = trace.region[access]
        columns = (regions.partition_low, regions.partition_high, regions.low, regions.high)
        part: _Part = tuple(int(column[r]) for column in columns)  # type: ignore[assignment]
        writes, adds = bool(trace.writes[access]), trace.value[i] != 0
        if not writes or adds or not _is_dense(program, access, i, part):
            for owned, owner in owners:
                if _meet(owned, part):
                    spans[owner] = i
        if writes:
            owners = [(rest, o) for owned, o in owners for rest in _without(owned, part)]
            owners.append((part, i))
    return spans


_Part = tuple[int, int, int, int]
"""Partitions and bytes of a bank: first and end of each."""


def _is_dense(program: Traced, access: int, i: int, part: _Part) -> bool:
    """Whether an access touches every byte between its first and its last."""
    instruction = program.program.instructions[program.trace.op[i]]
    window = instruction.windows[access - int(program.trace.access_start[i])]
    first, end, low, high = part
    return prod(window.walk.extents) * window.dtype.itemsize == (end - first) * (high - low)


def _meet(a: _Part, b: _Part) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _without(a: _Part, b: _Part) -> list[_Part]:
    """Return what is left of a rectangle without another."""
    if not _meet(a, b):
        return [a]
    first, end = max(a[0], b[0]), min(a[1], b[1])
    parts = [(a[0], first, a[2], a[3]), (end, a[1], a[2], a[3])]
    parts += [(first, end, a[2], b[2]), (first, end, b[3], a[3])]
    return [p for p in parts if p[0] < p[1] and p[2] < p[3]]


def _starts(spans: Mapping[int, int]) -> list[int]:
    """Return where lives begin: spans that overlap are of one life."""
    starts: list[int] = []
    end = -1
    for first in sorted(spans):
        if first > end:
            starts.append(first)
        end = max(end, spans[first])
    return starts


def in_banks(program: Traced, call: range, lives: Lives, banks: Sequence[int]) -> Traced:
    """Return the program with life i of a call in bank `banks[i]`."""
    trace, bank_bytes = program.trace, program.program.target.psum.bank_bytes
    regions, first = trace.regions, int(trace.access_start[call.start])
    moved = np.flatnonzero(lives.of_access >= 0)
    life = lives.of_access[moved]
    old = trace.region[first + moved].astype(np.int64)
    bank = np.array(banks, np.int64)[life]
    by = bank - np.array(lives.banks, np.int64)[life]
    pairs, inverse = np.unique(np.stack([old, by]), axis=1, return_inverse=True)
    source, shift = pairs
    buffer_of = {int(regions.low[r] // bank_bytes): int(regions.buffer[r]) for r in old.tolist()}
    place = regions.low[source] // bank_bytes + shift
    added = replace(
        regions,
        **{
            name: getattr(regions, name)[source]
            for name in ("memory", "partition_low", "partition_high", "key", "box")
        },
        buffer=np.array([buffer_of[b] for b in place.tolist()], np.int32),
        low=regions.low[source] + shift * bank_bytes,
        high=regions.high[source] + shift * bank_bytes,
    )
    region = trace.region.copy()
    region[first + moved] = regions.count + inverse.reshape(-1)
    names = ("memory", "buffer", "low", "high", "partition_low", "partition_high", "key", "box")
    joined = Regions(**{n: np.concatenate([getattr(regions, n), getattr(added, n)]) for n in names})
    return replace(program, trace=replace(trace, region=region, regions=joined))
