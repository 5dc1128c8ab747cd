"""Memories as they are: one array of bytes per on-chip memory, one per DRAM buffer.

An on-chip buffer is a window on the memory at its allocated address, so a wrong address gives a
wrong number. Every buffer knows which of its elements were written in which of its lives: every
execution of its allocation begins a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import numpy as np

Array = np.ndarray
DramKind = Literal["input", "constant", "auxiliary", "intermediate", "output"]
"""Auxiliary are constants that are no part of the model, as an identity is."""
Window = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Offset, shape and strides, in elements."""

ALWAYS = -1
"""The life of what was written before the program starts."""

_NEVER = -(1 << 30)

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
        self.holders: dict[ChipBuffer, None] = {}
        """Buffers that hold something, of those that share bytes with another."""

    def materialise(self) -> None:
        """Make the bytes; a run without numerics needs none."""
        self.bytes = np.zeros(self.partitions * self.pitch, np.uint8)


class Written:
    """Which elements of a buffer were written, and in which life.

    `whole` is the life in which all elements were; where there is none, every element has the life
    of its last write.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.whole = _NEVER
        self.lives: Array | None = None
        self.taken_by = ""
        self._life = _NEVER
        self._unseen = 0
        self._lost = 0

    def note(self, window: Window, life: int, full: bool) -> None:
        """Remember that the elements of a window were written."""
        if self.whole == life:
            return
        if full or life != self._life:
            self.taken_by = ""
            self._life = life
        if full:
            self.whole = life
            return
        self.view(window)[...] = life
        self._unseen += prod(window[1])

    def has(self, window: Window, life: int) -> bool:
        """Say whether all elements of a window were written in a life."""
        if self.whole == life:
            return True
        if self.lives is None or self.whole != _NEVER:
            return False
        if not (self.view(window) == life).all():
            return False
        if self._unseen >= self.count:
            self._unseen = 0
            if (self.lives == life).all():
                self.whole = life
        return True

    def has_any(self, window: Window) -> bool:
        """Say whether all elements of a window were written in some life, and not lost since."""
        if self.whole != _NEVER:
            return True
        return self.lives is not None and bool((self.view(window) != _NEVER).all())

    def view(self, window: Window) -> Array:
        """Return the life of every element of a window, to be changed."""
        if self.lives is None:
            self.lives = np.full(self.count, self.whole, np.int32)
        elif self.whole != _NEVER:
            self.lives[...] = self.whole
        self.whole = _NEVER
        offset, shape, strides = window
        return np.ndarray(shape, np.int32, self.lives, offset * 4, tuple(s * 4 for s in strides))

    def lose(self, window: Window, taken_by: str) -> bool:
        """Forget the elements of a window, whose bytes another buffer was given.

        Return whether nothing is left, as far as that is known: all are looked at when as many
        have been lost as there are.
        """
        self.view(window)[...] = _NEVER
        self.taken_by = taken_by
        self._lost += prod(window[1])
        if self._lost < self.count:
            return False
        self._lost = 0
        return bool((self.lives == _NEVER).all())


class ChipBuffer:
    """One place of an `npu.alloc`: `shape` elements from `address` in every partition, dimension 0
    across them.

    `shares_bytes` says that another has some of its bytes while both are in use.
    """

    def __init__(
        self, memory: ChipMemory, shape: Sequence[int], dtype: np.dtype, address: int, name: str
    ) -> None:
        self.memory = memory
        self.shape = tuple(shape)
        self.dtype = dtype
        self.address = address
        self.name = name
        self.row = prod(self.shape[1:])
        self.row_bytes = self.row * dtype.itemsize
        self.shares_bytes = False
        self.written = Written(prod(self.shape))

    @property
    def place(self) -> str:
        """Description, for messages."""
        return f"buffer {self.name} at address {self.address}"

    def overlaps(self, other: ChipBuffer) -> bool:
        """Say whether two buffers of one memory share bytes."""
        return (
            self.address < other.address + other.row_bytes
            and other.address < self.address + self.row_bytes
        )

    def lose(self, low: int, high: int, partitions: tuple[int, int], taken_by: str) -> bool:
        """Forget the elements with a byte in [low, high) of some partitions.

        Return whether nothing is left, as far as that is known.
        """
        first = max(0, (low - self.address) // self.dtype.itemsize)
        last = min(self.row, -(-(high - self.address) // self.dtype.itemsize))
        start, stop = partitions[0], min(partitions[1], self.shape[0])
        if first >= last or start >= stop:
            return False
        window = (start * self.row + first, (stop - start, last - first), (self.row, 1))
        return self.written.lose(window, taken_by)


class DramBuffer:
    """A buffer in DRAM: `count` elements in row-major order."""

    def __init__(self, name: str, kind: DramKind, count: int, dtype: np.dtype) -> None:
        self.name = name
        self.kind: DramKind = kind
        self.count = count
        self.dtype = dtype
        self.array: Array | None = None
        self.splat: Array | None = None
        self.written = Written(count)
        self.read_bytes = 0
        self.written_bytes = 0

    @property
    def bytes(self) -> int:
        """Size of the buffer."""
        return self.count * self.dtype.itemsize

    def fill(self, values: Array) -> None:
        """Give the buffer its values; a splat is kept as one value."""
        if values.size > 1 and all(s == 0 for s in values.strides):
            self.splat = values
        else:
            self.array = np.ascontiguousarray(values).reshape(-1).view(np.uint8)

    def materialise(self) -> None:
        """Make an empty buffer, unless it has values."""
        if self.array is None and self.splat is None:
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
