"""How many bytes of a memory are live at every position, and who could do with less."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polystage.passes.placement.live_ranges import Allocation


class Demand:
    """The bytes live at every position of a kernel where buffers share as much as they can."""

    def __init__(self, found: Sequence[Allocation], unit: int) -> None:
        self.found = found
        self.start, self.end = np.array([a.life for a in found], np.int64).reshape(-1, 2).T
        self.depth = np.array([a.depth for a in found], np.int64)
        self.size = np.array([-(-a.size // unit) * unit for a in found], np.int64)
        self.fixed = np.array([bool(a.fixed) for a in found], bool)
        changes = np.zeros(int(self.end.max(initial=0)) + 1, np.int64)
        np.add.at(changes, self.start, self.size * self.depth)
        np.add.at(changes, self.end, -self.size * self.depth)
        self.bytes = np.cumsum(changes)

    @property
    def greatest(self) -> int:
        """The bytes at the position where most are live."""
        return int(self.bytes.max())

    def give_up(self, anywhere: bool) -> Allocation | None:
        """Take a place from the largest buffer of several among those live where most is, or else
        from the largest `anywhere`; return it, or None where all have one."""
        position = self.bytes.argmax()
        live = (self.start <= position) & (position < self.end)
        several = np.flatnonzero(live & (self.depth > 1) & ~self.fixed)
        if anywhere and not several.size:
            several = np.flatnonzero((self.depth > 1) & ~self.fixed)
        if not several.size:
            return None
        largest = several[self.size[several].argmax()]
        self.depth[largest] -= 1
        self.bytes[self.start[largest] : self.end[largest]] -= self.size[largest]
        return self.found[largest]
