"""The buffers of one memory as arrays, and the sections of time in which as many as possible of
them are live together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd, lcm

import numpy as np
import numpy.typing as npt

from polystage.allocation.problem import AllocationError, Buffer, Memory, aligned

Int64 = npt.NDArray[np.int64]
FREE = -1
"""The address of a buffer that is to be found."""


@dataclass(frozen=True)
class Table:
    """Places to find, each for one or several buffers: `members` are indices into `buffers`.

    Place p is live in [starts[k], ends[k]) for k from row[p] to row[p + 1].
    """

    buffers: Sequence[Buffer]
    members: tuple[tuple[int, ...], ...]
    row: Int64
    starts: Int64
    ends: Int64
    size: Int64
    alignment: Int64
    address: Int64
    rank: Int64
    hint: Int64

    def __len__(self) -> int:
        return len(self.size)

    @staticmethod
    def of(buffers: Sequence[Buffer], groups: Sequence[Sequence[int]], memory: Memory) -> Table:
        """Return the table in which the buffers of a group share a place."""
        live = [_union([r for i in group for r in buffers[i].live]) for group in groups]
        ranges = [r for ranges in live for r in ranges]
        ones = [[buffers[i] for i in group] for group in groups]
        return Table(
            buffers,
            tuple(map(tuple, groups)),
            np.cumsum([0, *map(len, live)], dtype=np.int64),
            _int64(start for start, _ in ranges),
            _int64(end for _, end in ranges),
            _int64(aligned(max(b.size for b in group), memory.granule) for group in ones),
            _int64(lcm(memory.granule, *(b.alignment for b in group)) for group in ones),
            _int64(_fixed(group) for group in ones),
            _int64(min(b.rank for b in group) for group in ones),
            _int64(min(FREE if b.hint is None else b.hint for b in group) for group in ones),
        )

    @cached_property
    def sections(self) -> Sections:
        """The sections of time in which its places are live."""
        return _sections(self)

    @cached_property
    def bound(self) -> int:
        """How many bytes any placement takes at least."""
        top = max((self.address + self.size)[self.address != FREE], default=0)
        return int(max(self.sections.demand.max(initial=0), top))

    @cached_property
    def length(self) -> Int64:
        """For how long every place is live."""
        return np.add.reduceat(self.ends - self.starts, self.row[:-1]) if len(self) else self.size

    def worst(self) -> tuple[list[Buffer], int]:
        """Return the buffers live at the position of greatest demand, largest first, and that
        demand in bytes."""
        demand = self.sections.demand
        if not demand.size:
            return [], 0
        s = int(demand.argmax())
        places = {int(p) for p in self.sections.places[self.sections.section == s]}
        live = [self.buffers[i] for p in places for i in self.members[p]]
        return sorted(live, key=lambda b: (-b.size, b.start)), int(demand[s])

    def peak(self, addresses: Int64) -> int:
        """Return where the highest place ends."""
        return int((addresses + self.size).max(initial=0))

    def padded(self, capacity: int) -> Table:
        """Return the table with sizes up to where the next buffer can start: within a capacity that
        is a multiple of all alignments, the same addresses are possible, but more is known of
        what is left."""
        step = gcd(*self.alignment.tolist(), *self.address[self.address != FREE].tolist())
        if step <= 1 or capacity % step:
            return self
        return replace(self, size=-(-self.size // step) * step)

    def unit(self) -> int:
        """Return the bytes that all sizes and sensible addresses are multiples of."""
        unit = gcd(*self.size.tolist(), *self.address[self.address != FREE].tolist())
        for alignment in set(self.alignment.tolist()):
            if unit % alignment:
                unit = gcd(unit, alignment)
        return max(unit, 1)


@dataclass(frozen=True)
class Sections:
    """Positions at which places are live such that no other position has all of them and more.

    Two places are live together at some position if and only if they are in some section.
    """

    count: int
    start: Int64
    """Place p is live in section[start[p]:start[p + 1]], ascending."""
    section: npt.NDArray[np.int32]
    places: Int64
    """The place that every entry of `section` belongs to."""
    demand: Int64
    """Bytes live in every section."""


def _sections(table: Table) -> Sections:
    points = np.unique(np.concatenate([table.starts, table.ends]))
    low, high = np.searchsorted(points, table.starts), np.searchsorted(points, table.ends)
    starting = np.zeros(len(points) + 1, bool)
    ending = np.zeros(len(points) + 1, bool)
    starting[low], ending[high] = True, True
    # The last moment before something ends, if something started since the last such moment.
    ends = np.flatnonzero(ending)
    started = np.cumsum(starting)[ends - 1] if ends.size else ends
    kept = ends[np.diff(started, prepend=0) > 0] - 1
    low, high = np.searchsorted(kept, low), np.searchsorted(kept, high)
    lengths = high - low
    of_range = np.repeat(np.arange(len(table)), np.diff(table.row))
    begin = np.cumsum(lengths) - lengths
    section = np.arange(lengths.sum()) - np.repeat(begin - low, lengths)
    places = np.repeat(of_range, lengths)
    demand = np.bincount(section, table.size[places], len(kept)).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=len(table)))])
    return Sections(len(kept), start.astype(np.int64), section.astype(np.int32), places, demand)


def _int64(values: object) -> Int64:
    return np.array(list(values), np.int64)  # type: ignore[call-overload]


def _union(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the same positions as disjoint ranges, in order."""
    union: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(end, union[-1][1]))
        else:
            union.append((start, end))
    return union


def _fixed(group: Sequence[Buffer]) -> int:
    """Return the address that a group has already, or FREE."""
    fixed = {b.address: b for b in group if b.address is not None}
    if len(fixed) > 1:
        first, second = list(fixed.values())[:2]
        raise AllocationError(
            f"buffers '{first.name}' and '{second.name}' of group '{first.group}' are to lie at "
            f"{first.address} and {second.address}",
            help="give a group one address, or take one of them out of it",
        )
    return next(iter(fixed), FREE)  # type: ignore[return-value]
