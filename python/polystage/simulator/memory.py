"""Memories as they are: one array of bytes per on-chip memory, one per DRAM buffer.

An on-chip buffer is a window on the memory at its allocated address, so a wrong address gives a
wrong number. Every buffer knows which of its elements were written since it was allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import numpy as np

from polystage.simulator.hazards import MANY, Hazards, Region, Window, halved, latest_end

Array = np.ndarray
DramKind = Literal["input", "constant", "intermediate", "output"]

GRANULE = 64
"""Bytes per partition for which one time stands on the board that outlives a kernel."""

# Partitions lie this much further apart than their bytes, so that columns do not share cache sets.
_PITCH_PADDING = 192


class ChipMemory:
    """One on-chip memory: `partitions` rows of `bytes_per_partition` bytes."""

    def __init__(self, name: str, partitions: int, bytes_per_partition: int) -> None:
        self.name = name
        self.partitions = partitions
        self.bytes_per_partition = bytes_per_partition
        self.pitch = bytes_per_partition + _PITCH_PADDING
        self.bytes: Array | None = None
        self.board = np.zeros(-(-bytes_per_partition // GRANULE))

    def materialise(self) -> None:
        """Make the bytes; a run without numerics needs none."""
        self.bytes = np.zeros(self.partitions * self.pitch, np.uint8)


class ChipBuffer:
    """An `npu.alloc`: `shape` elements from `address` in every partition, dimension 0 across them.

    `rivals` are buffers of the same kernel whose bytes overlap, `clashes` those of them that live
    at
    the same time. `array_writes` are the writes of the
    tensor engine, which keeps its own order on the way into psum.
    """

    def __init__(
        self, memory: ChipMemory, shape: Sequence[int], dtype: np.dtype, address: int, place: str
    ) -> None:
        self.memory = memory
        self.shape = tuple(shape)
        self.dtype = dtype
        self.address = address
        self.place = place
        self.row = prod(self.shape[1:])
        self.row_bytes = self.row * dtype.itemsize
        self.rivals: list[ChipBuffer] = []
        self.clashes: list[ChipBuffer] = []
        self.hazards = Hazards()
        self.array_writes: dict[Region, float] = {}
        self.version = 0
        self.full = False
        self.mask: Array | None = None
        self.taken_by: str | None = None

    def may_read(self, region: Region, ready: float) -> float:
        """Return when a read that is ready at `ready` may start."""
        hazards = self.hazards
        ready = max(ready, hazards.floor)
        if hazards.writes:
            ready = hazards.after_writes(region, ready)
        if self.array_writes:
            ready = latest_end(self.array_writes, region, ready)
        return ready

    def may_write(self, region: Region, ready: float, by_array: bool = False) -> float:
        """Return when a write may start; `by_array` says that the tensor engine writes."""
        hazards = self.hazards
        ready = max(ready, hazards.floor)
        if hazards.writes:
            ready = hazards.after_writes(region, ready)
        if hazards.reads:
            ready = hazards.after_reads(region, ready)
        if self.array_writes and not by_array:
            ready = latest_end(self.array_writes, region, ready)
        for rival in self.rivals:
            ready = rival.after_rival(region, ready)
        return ready

    def after_rival(self, region: Region, ready: float) -> float:
        """Return when no access to this buffer is in the way of one to the same bytes."""
        ready = self.hazards.after_rival(region, ready)
        for other, end in self.array_writes.items():
            if end > ready and region.meets_bytes(other):
                ready = end
        return ready

    def has_read(self, region: Region, end: float) -> None:
        """Note that a read ends."""
        self.hazards.record_read(region, end)

    def has_written(self, region: Region, end: float, by_array: bool = False) -> None:
        """Note that a write ends."""
        self.version += 1
        if not by_array:
            if region.full:
                self.array_writes = {}
            self.hazards.record_write(region, end)
            return
        if region.full:
            self.hazards.writes, self.hazards.reads = {}, {}
            self.array_writes = {region: end}
            return
        self.array_writes[region] = end
        if len(self.array_writes) > MANY:
            self.array_writes = halved(self.array_writes)

    def enter(self) -> None:
        """Start with what used the bytes before, when a kernel begins."""
        board = self.memory.board[self._granules()]
        self.hazards = Hazards(floor=float(board.max()) if board.size else 0.0)
        self.array_writes = {}

    def leave(self) -> None:
        """Note on the board when the bytes are free, when a kernel ends."""
        board = self.memory.board[self._granules()]
        end = max(self.hazards.latest(), max(self.array_writes.values(), default=0.0))
        np.maximum(board, end, out=board)

    def _granules(self) -> slice:
        return slice(self.address // GRANULE, -(-(self.address + self.row_bytes) // GRANULE))

    def begin(self) -> None:
        """Start a new life: nothing is written yet."""
        self.full = False
        self.taken_by = None
        if self.mask is not None:
            self.mask[...] = False

    def written(self, window: Window, full: bool) -> None:
        """Remember that the elements of a window (offset, shape, strides) were written."""
        if self.full:
            return
        if full:
            self.full = True
            self.taken_by = None
            return
        self.mask_view(window)[...] = True

    def is_written(self, window: Window) -> bool:
        """Say whether all elements of a window were written."""
        if self.full:
            return True
        if self.mask is None or not self.mask_view(window).all():
            return False
        self.full = bool(self.mask.all())
        return True

    def mask_view(self, window: Window) -> Array:
        """Return one flag per element of a window."""
        if self.mask is None:
            self.mask = np.zeros(prod(self.shape), np.bool_)
        offset, shape, strides = window
        return np.ndarray(shape, np.bool_, self.mask, offset, strides)

    def lose(self, low: int, high: int, partitions: tuple[int, int], taken_by: str) -> None:
        """Forget the elements whose bytes (in each of the partitions) another buffer was given."""
        if self.mask is None:
            if not self.full:
                return
            self.mask = np.ones(prod(self.shape), np.bool_)
        elif self.full:
            self.mask[...] = True
        self.full = False
        first = max(0, (low - self.address) // self.dtype.itemsize)
        last = min(self.row, -(-(high - self.address) // self.dtype.itemsize))
        rows = self.mask.reshape(self.shape[0], self.row)
        rows[partitions[0] : partitions[1], first:last] = False
        self.taken_by = taken_by


class DramBuffer:
    """A buffer in DRAM: `count` elements in row-major order."""

    def __init__(self, name: str, kind: DramKind, count: int, dtype: np.dtype) -> None:
        self.name = name
        self.kind: DramKind = kind
        self.count = count
        self.dtype = dtype
        self.array: Array | None = None
        self.splat: Array | None = None
        self.hazards = Hazards()
        self.full = kind in ("input", "constant")
        self.mask: Array | None = None
        self.freed = False
        self.read_bytes = 0
        self.written_bytes = 0

        self.tracked = kind not in ("input", "constant")

    @property
    def bytes(self) -> int:
        """Size of the buffer."""
        return self.count * self.dtype.itemsize

    def may_read(self, region: Region, ready: float) -> float:
        """Return when a read that is ready at `ready` may start."""
        return self.hazards.after_writes(region, ready) if self.tracked else ready

    def may_write(self, region: Region, ready: float) -> float:
        """Return when a write may start."""
        return self.hazards.after_reads(region, self.hazards.after_writes(region, ready))

    def has_read(self, region: Region, end: float) -> None:
        """Note that a read ends."""
        if self.tracked:
            self.hazards.record_read(region, end)

    def has_written(self, region: Region, end: float) -> None:
        """Note that a write ends."""
        self.hazards.record_write(region, end)

    def fill(self, values: Array) -> None:
        """Give the buffer its values; a splat is kept as one value."""
        if values.size > 1 and all(s == 0 for s in values.strides):
            self.splat = values
        else:
            self.array = np.ascontiguousarray(values).reshape(-1).view(np.uint8)

    def materialise(self) -> None:
        """Make an empty buffer."""
        self.array = np.zeros(self.bytes, np.uint8)

    def view(
        self, dtype: np.dtype, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Array:
        """Return a window; `offset` and `strides` in elements."""
        size = dtype.itemsize
        if self.splat is not None:
            value = self.splat[(0,) * self.splat.ndim].reshape(1).view(dtype)[0]
            return np.broadcast_to(np.asarray(value, dtype), shape)
        return np.ndarray(
            shape, dtype, self.array, offset * size, tuple([s * size for s in strides])
        )

    def written(self, window: Window) -> None:
        """Remember that the elements of a window were written."""
        if self.full:
            return
        if self.mask is None:
            self.mask = np.zeros(self.count, np.bool_)
        offset, shape, strides = window
        np.ndarray(shape, np.bool_, self.mask, offset, strides)[...] = True

    def is_written(self, window: Window) -> bool:
        """Say whether all elements of a window were written."""
        if self.full:
            return True
        if self.mask is None:
            return False
        if self.mask.all():
            self.full, self.mask = True, None
            return True
        offset, shape, strides = window
        return bool(np.ndarray(shape, np.bool_, self.mask, offset, strides).all())
