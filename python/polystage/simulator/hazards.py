"""What an access touches, and when earlier accesses to the same bytes have ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Box = tuple[tuple[int, int], ...]
Window = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Offset, shape and strides, in elements."""

MANY = 256
"""More accesses than these are remembered as hulls of neighbours."""


class Region:
    """What one access touches of a buffer: the elements between `low` and `high`, at most.

    `low` and `high` are bytes: in every partition, or in the DRAM buffer. `box` has one (start,
    stop) per dimension of the buffer as `key` lays it out, or is None where the access is no box in
    it. `view` is the numpy window.
    """

    __slots__ = (
        "box",
        "full",
        "high",
        "high_partition",
        "key",
        "low",
        "low_partition",
        "view",
        "window",
    )

    def __init__(
        self,
        low: int,
        high: int,
        box: Box | None,
        full: bool,
        partitions: tuple[int, int] = (0, 1),
        key: tuple[int, ...] | None = None,
    ) -> None:
        self.key = key
        self.low = low
        self.high = high
        self.low_partition, self.high_partition = partitions
        self.box = box
        self.full = full
        self.view: np.ndarray | None = None
        self.window: Window = (0, (), ())

    def meets(self, other: Region) -> bool:
        """Say whether two regions of the same buffer may share an element."""
        if self.high <= other.low or other.high <= self.low:
            return False
        if self.high_partition <= other.low_partition or other.high_partition <= self.low_partition:
            return False
        a, b = self.box, other.box
        if a is None or b is None or self.key != other.key:
            return True
        for (start, stop), (other_start, other_stop) in zip(a, b, strict=True):
            if stop <= other_start or other_stop <= start:
                return False
        return True

    def meets_bytes(self, other: Region) -> bool:
        """Say whether regions of different buffers of one on-chip memory share a byte."""
        return (
            self.low < other.high
            and other.low < self.high
            and self.low_partition < other.high_partition
            and other.low_partition < self.high_partition
        )


def _hull(first: Region, second: Region) -> Region:
    """Return a region that bounds two others."""
    partitions = (
        min(first.low_partition, second.low_partition),
        max(first.high_partition, second.high_partition),
    )
    return Region(min(first.low, second.low), max(first.high, second.high), None, False, partitions)


def latest_end(entries: dict[Region, float], region: Region, ready: float) -> float:
    """Return when all accesses that meet `region` have ended, at least `ready`."""
    for other, end in entries.items():
        if end > ready and region.meets(other):
            ready = end
    return ready


def halved(entries: dict[Region, float]) -> dict[Region, float]:
    """Return half as many entries: neighbours in time become one that bounds both."""
    items = list(entries.items())
    pairs = zip(items[::2], items[1::2], strict=False)
    merged = {_hull(a, b): max(s, t) for (a, s), (b, t) in pairs}
    if len(items) % 2:
        merged[items[-1][0]] = items[-1][1]
    return merged


@dataclass(slots=True)
class Hazards:
    """When the last accesses to a buffer end, region by region."""

    writes: dict[Region, float] = field(default_factory=dict)
    reads: dict[Region, float] = field(default_factory=dict)
    floor: float = 0.0
    """Nothing may touch the buffer before: end of what used the same bytes before it."""

    def after_writes(self, region: Region, ready: float) -> float:
        """Return when all writes of `region` have ended, at least `ready`."""
        return latest_end(self.writes, region, ready)

    def after_reads(self, region: Region, ready: float) -> float:
        """Return when all reads of `region` have ended, at least `ready`."""
        return latest_end(self.reads, region, ready)

    def record_write(self, region: Region, end: float) -> None:
        """Remember a write that waited for every access it met; a full one makes them history."""
        if region.full:
            self.writes = {region: end}
            if self.reads:
                self.reads = {}
            return
        self.writes[region] = end
        if len(self.writes) > MANY:
            self.writes = halved(self.writes)

    def record_read(self, region: Region, end: float) -> None:
        """Remember a read."""
        if end > self.reads.get(region, 0.0):
            self.reads[region] = end
            if len(self.reads) > MANY:
                self.reads = halved(self.reads)

    def after_rival(self, region: Region, ready: float) -> float:
        """Return when all accesses of another buffer to the bytes of `region` have ended."""
        for entries in (self.writes, self.reads):
            for other, end in entries.items():
                if end > ready and region.meets_bytes(other):
                    ready = end
        return ready

    def latest(self) -> float:
        """Return when the last access of all ends."""
        return max(
            self.floor,
            max(self.writes.values(), default=0.0),
            max(self.reads.values(), default=0.0),
        )
