"""Which bytes of an on-chip memory the buffers of a kernel take while it is decoded."""

from __future__ import annotations

import numpy as np

from polystage.simulator.memory import ChipBuffer, ChipMemory

GRANULE_BYTES = 4
"""Bytes are told apart in pieces of this size."""


class Occupancy:
    """Finds the buffers that share bytes with another while both are in use.

    Every piece knows the last buffer that was given it. A buffer that is hidden shares bytes with
    the one that hides it, so looking at what is seen is enough.
    """

    def __init__(self, memory: ChipMemory) -> None:
        self._last = np.zeros(-(-memory.bytes_per_partition // GRANULE_BYTES), np.int32)
        self._buffers: list[ChipBuffer] = []
        self._before: list[tuple[slice, np.ndarray, int]] = []
        self._used = 0
        self.peak_bytes = 0

    @property
    def depth(self) -> int:
        """How many buffers can be given back."""
        return len(self._before)

    def take(self, buffer: ChipBuffer, returns: bool) -> None:
        """Give a buffer its bytes; where it `returns` them before the kernel ends, remember whose
        they were."""
        end = buffer.address + buffer.row_bytes
        where = slice(buffer.address // GRANULE_BYTES, -(-end // GRANULE_BYTES))
        taken = self._last[where]
        owners = np.unique(taken[taken > 0])
        for owner in owners.tolist():
            self._buffers[owner - 1].shares_bytes = buffer.shares_bytes = True
        if returns:
            self._before.append((where, taken.copy(), self._used))
        self._used += GRANULE_BYTES * int(np.count_nonzero(taken == 0))
        self.peak_bytes = max(self.peak_bytes, self._used)
        self._buffers.append(buffer)
        taken[...] = len(self._buffers)

    def give_back(self, depth: int) -> None:
        """Give back what was taken since there were `depth` such buffers."""
        while len(self._before) > depth:
            where, taken, self._used = self._before.pop()
            self._last[where] = taken
