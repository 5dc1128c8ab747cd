"""Operands of instructions: windows on buffers, known but for the loop variables.

What a window touches in every iteration is computed for all iterations at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

from polystage.simulator.index import IndexSpace, Linear
from polystage.simulator.memory import Array, ChipBuffer, ChipMemory, DramBuffer, Window
from polystage.simulator.trace import DRAM, PSUM, SBUF, Bool, Int32, Int64

MEMORY_NUMBERS = {"sbuf": SBUF, "psum": PSUM}


@dataclass(frozen=True, eq=False)
class Alloc:
    """An `npu.alloc`: its executions take the places in turn.

    `execution` counts them within one call; `first_life` tells the lives of the allocs of a kernel
    apart, `first_buffer` numbers the places in the program.
    """

    places: tuple[ChipBuffer, ...]
    execution: Linear
    executions: int
    first_life: int
    first_buffer: int

    @property
    def memory(self) -> ChipMemory:
        """The memory it lies in."""
        return self.places[0].memory

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents; dimension 0 lies across the partitions."""
        return self.places[0].shape

    @property
    def row(self) -> int:
        """Elements per partition, at least 1."""
        return max(1, self.places[0].row)

    @property
    def place(self) -> str:
        """Description, for messages."""
        return self.places[0].place


@dataclass(frozen=True)
class DramRef:
    """A DRAM buffer as a function sees it: a slot of its calls, and the layout of its type."""

    slot: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    name: str


@dataclass(frozen=True, eq=False)
class View:
    """A memref value: a strided window on a buffer; offset and strides in elements.

    Views of one function that are made the same way are one object.
    """

    root: Alloc | DramRef
    offset: Linear
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class Walk:
    """How an instruction visits an operand: extents and strides in elements of its loops.

    Loops that the operand does not depend on have stride 0. `offset` is relative to the view.
    """

    extents: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


def plain_walk(view: View) -> Walk:
    """Return the walk through all elements of a view."""
    return Walk(view.shape, view.strides)


class Layout:
    """Turns element offsets into the boxes that a walk touches in a strided buffer.

    `low` and `high` are the first and last element of the walk, relative to its offset.
    """

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...], walk: Walk) -> None:
        self.dims = list(zip(strides, shape, strict=True))
        self.spans: list[int] | None = self._spans(walk)
        reaches = [(n - 1) * s for n, s in zip(walk.extents, walk.strides, strict=True)]
        self.low = sum(min(0, reach) for reach in reaches)
        self.high = sum(max(0, reach) for reach in reaches)

    def _spans(self, walk: Walk) -> list[int] | None:
        """Return how far the walk reaches in every dimension of the buffer, or None if it is no
        box.

        A run through whole rows reaches through the rows and along them:

        >>> Layout((8, 6), (6, 1), Walk((12,), (1,))).spans
        [2, 6]
        """
        spans = [1] * len(self.dims)
        for extent, stride in zip(walk.extents, walk.strides, strict=True):
            while extent > 1 and stride:
                d = self._widest(stride)
                if d is None:
                    return None
                step, size = self.dims[d][0], self.dims[d][1]
                apart = stride // step
                rows = size // apart
                if apart * extent > size and self._goes_on(d, apart, extent):
                    spans[d] += (rows - 1) * apart
                    extent, stride = extent // rows, step * size
                else:
                    spans[d] += (extent - 1) * apart
                    extent = 1
        return spans

    def _widest(self, stride: int) -> int | None:
        """Return the dimension of the largest stride that divides another."""
        fitting = [
            d for d, (s, n) in enumerate(self.dims) if n > 1 and 0 < s <= stride and stride % s == 0
        ]
        return max(fitting, key=lambda d: self.dims[d][0], default=None)

    def _goes_on(self, dimension: int, apart: int, extent: int) -> bool:
        """Say whether a run along a dimension goes on in whole rows of the one outside of it."""
        step, size = self.dims[dimension]
        if size % apart or extent % (size // apart):
            return False
        return any(s == step * size and n > 1 for s, n in self.dims)

    def boxes(self, offsets: Int64) -> tuple[Int32, Bool]:
        """Return (start, stop) of every dimension for every offset, and which of them are boxes:
        not those that cross rows."""
        box = np.zeros((len(offsets), 2 * len(self.dims)), np.int32)
        if self.spans is None:
            return box, np.zeros(len(offsets), np.bool_)
        rest, valid = offsets, np.ones(len(offsets), np.bool_)
        for d, ((stride, extent), span) in enumerate(zip(self.dims, self.spans, strict=True)):
            start: Int64 | int = 0
            if extent > 1 and stride:  # a dimension that only repeats is always at 0
                start, rest = np.divmod(rest, stride)
            box[:, 2 * d], box[:, 2 * d + 1] = start, start + span
            valid &= box[:, 2 * d + 1] <= extent
        return box, valid & (rest == 0)


@dataclass(frozen=True)
class Touched:
    """What a window touches, by offset: bytes, boxes, and whether that is the whole buffer.

    Bytes of a window in DRAM are relative to where the call's buffer starts.
    """

    low: Int64
    high: Int64
    box: Int32
    has_box: Bool
    full: Bool


@lru_cache(maxsize=1 << 14)
def layout_of(shape: tuple[int, ...], strides: tuple[int, ...], walk: Walk) -> Layout:
    """Return a layout, made once for all the windows that differ in their place only."""
    return Layout(shape, strides, walk)


class ChipWindow:
    """A window on an on-chip buffer, in some partitions that do not depend on the loops."""

    def __init__(self, view: View, walk: Walk, space: IndexSpace) -> None:
        assert isinstance(view.root, Alloc)
        self.root = view.root
        self.walk = walk
        self.offset = view.offset + walk.offset if walk.offset else view.offset
        self.dtype = view.dtype
        self.view_shape = view.shape
        row = self.root.row
        self.partition = space.range(self.offset)[0] // row
        self.partitions = 1
        self.shape, self.strides, self.byte_strides = self._numpy(row)
        self.layout = layout_of(self.root.shape, row_major(self.root.shape), walk)
        self.reach = self.layout.high - (self.partitions - 1) * row

    def _numpy(self, row: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return shape, strides in elements of the buffer, strides in bytes of the memory."""
        pitch, size = self.root.memory.pitch, self.dtype.itemsize
        shape, strides = [], []
        for d, (extent, stride) in enumerate(
            zip(self.walk.extents, self.walk.strides, strict=True)
        ):
            across = d == 0 and extent > 1 and stride != 0
            self.partitions = extent if across else self.partitions
            shape.append(extent if stride else 1)
            strides.append((stride // row) * pitch if across else stride * size)
        return tuple(shape), self.walk.strides, tuple(strides)

    @property
    def memory(self) -> int:
        """Number of the memory it lies in."""
        return MEMORY_NUMBERS[self.root.memory.name]

    @property
    def key(self) -> object:
        """What windows that always touch the same elements in the same order have in common."""
        return self.root, self.shape, _that_matter(self), self.partition, self.dtype

    def touched(self, offsets: Int64, addresses: Int64) -> Touched:
        """Return what the window touches at element offsets of buffers at some addresses."""
        size = self.dtype.itemsize
        free = offsets - self.partition * self.root.row
        box, has_box = self.layout.boxes(offsets)
        extents = np.array(self.root.shape, np.int64)
        whole = has_box & (box[:, ::2] == 0).all(1) & (box[:, 1::2] == extents).all(1)
        return Touched(
            addresses + (free + self.layout.low) * size,
            addresses + (free + self.reach + 1) * size,
            box,
            has_box,
            whole & (prod(self.shape) >= prod(self.root.shape)),
        )

    def numpy(self, buffer: ChipBuffer, offset: int) -> Array:
        """Return the window at an element offset of a buffer whose memory has bytes."""
        free = offset - self.partition * self.root.row
        start = self.partition * buffer.memory.pitch + buffer.address + free * self.dtype.itemsize
        return np.ndarray(self.shape, self.dtype, buffer.memory.bytes, start, self.byte_strides)

    def elements(self, offset: int) -> Window:
        """Return the window on the buffer's elements."""
        return offset, self.shape, self.strides


class DramWindow:
    """A window on a DRAM buffer."""

    partition = 0
    partitions = 1
    memory = DRAM

    def __init__(self, view: View, walk: Walk) -> None:
        assert isinstance(view.root, DramRef)
        self.root = view.root
        self.offset = view.offset + walk.offset
        self.dtype = view.dtype
        self.shape = tuple(n if s else 1 for n, s in zip(walk.extents, walk.strides, strict=True))
        self.strides = walk.strides
        self.layout = layout_of(view.root.shape, view.root.strides, walk)

    @property
    def key(self) -> object:
        """What windows that always touch the same elements in the same order have in common."""
        return self.root.slot, self.shape, _that_matter(self), self.dtype

    def touched(self, offsets: Int64) -> Touched:
        """Return what the window touches at element offsets of the call's buffer."""
        size = self.dtype.itemsize
        box, has_box = self.layout.boxes(offsets)
        low, high = (offsets + self.layout.low) * size, (offsets + self.layout.high + 1) * size
        return Touched(low, high, box, has_box, np.zeros(len(offsets), np.bool_))

    def numpy(self, buffer: DramBuffer, offset: int) -> Array:
        """Return the window at an element offset of a buffer."""
        return buffer.view(self.dtype, offset, self.shape, self.strides)

    def elements(self, offset: int) -> Window:
        """Return the window on the buffer's elements."""
        return offset, self.shape, self.strides


OperandWindow = ChipWindow | DramWindow


def _that_matter(window: OperandWindow) -> tuple[int, ...]:
    """Return the strides, without those of extents of 1."""
    return tuple(s if n > 1 else 0 for n, s in zip(window.shape, window.strides, strict=True))


@lru_cache(maxsize=1 << 12)
def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a dense row-major buffer."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)
