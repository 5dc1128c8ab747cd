"""Operands of instructions: windows on buffers, known but for the loop variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polystage.simulator.hazards import Box, Region
from polystage.simulator.index import Linear, Range, Values
from polystage.simulator.memory import ChipBuffer, DramBuffer

CACHED_REGIONS = 4096


class Frame:
    """What changes while a function runs: index values, and the DRAM buffers of its memrefs.

    `buffers[i]` starts for this function at element `offsets[i]`.
    """

    __slots__ = ("buffers", "offsets", "values")

    def __init__(self, slots: int, buffers: Sequence[DramBuffer], offsets: Sequence[int]) -> None:
        self.values: Values = [0] * slots
        self.buffers = list(buffers)
        self.offsets = list(offsets)


@dataclass(frozen=True)
class DramRef:
    """A DRAM buffer as a function sees it: a slot of its frame, and the layout of its type."""

    slot: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    name: str


@dataclass(frozen=True)
class View:
    """A memref value: a strided window on a buffer; offset and strides in elements."""

    root: ChipBuffer | DramRef
    offset: Linear
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @property
    def memory(self) -> str:
        """Name of the memory it lies in."""
        return self.root.memory.name if isinstance(self.root, ChipBuffer) else "dram"


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


class _Layout:
    """Turns an element offset into the box that a walk touches in a row-major or strided buffer."""

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...], walk: Walk) -> None:
        self.divisors = [(s, n) for s, n in zip(strides, shape, strict=True)]
        self.spans: list[int] | None = self._spans(walk)
        self.low = sum(min(0, (n - 1) * s) for n, s in zip(walk.extents, walk.strides, strict=True))
        self.high = sum(
            max(0, (n - 1) * s) for n, s in zip(walk.extents, walk.strides, strict=True)
        )

    def _spans(self, walk: Walk) -> list[int] | None:
        """Return how far the walk reaches in every dimension of the buffer, or None if it is no
        box."""
        spans = [1] * len(self.divisors)
        for extent, stride in zip(walk.extents, walk.strides, strict=True):
            if extent == 1 or stride == 0:
                continue
            dims = [
                d
                for d, (s, n) in enumerate(self.divisors)
                if n > 1 and s > 0 and stride > 0 and stride % s == 0
            ]
            if not dims:
                return None
            d = max(dims, key=lambda d: self.divisors[d][0])
            spans[d] += (extent - 1) * (stride // self.divisors[d][0])
        return spans

    def box(self, offset: int) -> Box | None:
        """Return the box of the walk from element `offset`, or None where rows are crossed."""
        if self.spans is None:
            return None
        result = []
        for (stride, extent), span in zip(self.divisors, self.spans, strict=True):
            start = 0
            if extent > 1 and stride:  # a dimension that only repeats is always at 0
                start, offset = divmod(offset, stride)
            if start + span > extent:
                return None
            result.append((start, start + span))
        return None if offset else tuple(result)


class ChipAccess:
    """A window on an on-chip buffer. Regions are kept by offset: loops come back to them."""

    def __init__(self, view: View, walk: Walk, ranges: Sequence[Range]) -> None:
        assert isinstance(view.root, ChipBuffer)
        self.buffer = view.root
        self.view = view
        self.walk = walk
        offset = view.offset + walk.offset
        self.element_offset = offset.evaluator()
        self.dtype = view.dtype
        row = max(1, self.buffer.row)
        self.partition = offset.range(ranges)[0] // row
        self.partitions, self.numpy_shape, self.byte_strides, self.mask_strides = self._numpy(row)
        strides = _row_major(self.buffer.shape)
        self.layout = _Layout(self.buffer.shape, strides, walk)
        self._regions: dict[int, Region] = {}

    def _numpy(self, row: int) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return partitions, shape, strides in bytes of the memory, strides in the buffer's
        flags."""
        pitch, size = self.buffer.memory.pitch, self.dtype.itemsize
        partitions, shape, strides, mask = 1, [], [], []
        for d, (extent, stride) in enumerate(
            zip(self.walk.extents, self.walk.strides, strict=True)
        ):
            across = d == 0 and extent > 1 and stride != 0
            partitions = extent if across else partitions
            shape.append(extent if stride else 1)
            strides.append((stride // row) * pitch if across else stride * size)
            mask.append(stride)
        return partitions, tuple(shape), tuple(strides), tuple(mask)

    def locate(self, frame: Frame) -> tuple[ChipBuffer, Region]:
        """Return the buffer and what is touched of it in the present iteration."""
        return self.buffer, self.region(frame.values)

    def region(self, values: Values) -> Region:
        """Return what is touched in the present iteration."""
        offset = self.element_offset(values)
        region = self._regions.get(offset)
        return self._make(offset) if region is None else region

    def _make(self, offset: int) -> Region:
        if len(self._regions) >= CACHED_REGIONS:
            self._regions.clear()
        buffer, size, row = self.buffer, self.dtype.itemsize, max(1, self.buffer.row)
        free = offset - self.partition * row
        reach = self.layout.high - (self.partitions - 1) * row
        box = self.layout.box(offset)
        full = box is not None and all(
            start == 0 and stop == extent
            for (start, stop), extent in zip(box, buffer.shape, strict=True)
        )
        region = Region(
            buffer.address + (free + self.layout.low) * size,
            buffer.address + (free + reach + 1) * size,
            box,
            full and self._is_dense(),
            (self.partition, self.partition + self.partitions),
        )
        region.window = (offset, self.numpy_shape, self.mask_strides)
        if buffer.memory.bytes is not None:
            region.view = np.ndarray(
                self.numpy_shape,
                self.dtype,
                buffer.memory.bytes,
                self.partition * buffer.memory.pitch + buffer.address + free * size,
                self.byte_strides,
            )
        self._regions[offset] = region
        return region

    def _is_dense(self) -> bool:
        """Say whether the walk visits as many elements as the buffer has."""
        return int(np.prod(self.numpy_shape)) >= int(np.prod(self.buffer.shape))


class DramAccess:
    """A window on a DRAM buffer of the frame."""

    def __init__(self, view: View, walk: Walk) -> None:
        assert isinstance(view.root, DramRef)
        self.ref = view.root
        self.slot = view.root.slot
        self.view = view
        self.element_offset = (view.offset + walk.offset).evaluator()
        self.dtype = view.dtype
        self.numpy_shape = tuple(
            n if s else 1 for n, s in zip(walk.extents, walk.strides, strict=True)
        )
        self.strides = walk.strides
        self.layout = _Layout(view.root.shape, view.root.strides, walk)

    def locate(self, frame: Frame) -> tuple[DramBuffer, Region]:
        """Return the buffer and what is touched of it in the present iteration."""
        buffer = frame.buffers[self.slot]
        inside = self.element_offset(frame.values)
        base = frame.offsets[self.slot]
        offset, size = base + inside, self.dtype.itemsize
        layout = self.layout
        region = Region(
            (offset + layout.low) * size,
            (offset + layout.high + 1) * size,
            layout.box(inside),
            False,
            (0, 1),
            (base, *self.ref.strides),
        )
        region.window = (offset, self.numpy_shape, self.strides)
        if buffer.array is not None or buffer.splat is not None:
            region.view = buffer.view(self.dtype, *region.window)
        return buffer, region


Access = ChipAccess | DramAccess


def _row_major(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)
