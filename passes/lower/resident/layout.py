"""How an array lies in the scratchpad while a group runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

from polystage.dtypes import byte_width
from polystage.machine.components import AccessPattern
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.memref_types import row_major_strides

Range = tuple[int, int, int]
"""Start, size and step in one dimension."""


def partitions_of(target: Target) -> int:
    """Return across how many partitions a tile of an array lies: what the array takes and gives."""
    return min(target.sbuf.partitions, target.tensor.rows, target.tensor.columns)


@dataclass(frozen=True)
class Layout:
    """Dimension `partition` lies across the partitions, in tiles; around the others is a border of
    `fill`, where windows reach over the edge. A `REPLICATED` array is one tile, the same on all
    partitions.

    Shapes: the buffer is [partitions, tiles, *other dimensions with their borders].
    """

    shape: tuple[int, ...]
    element_type: ir.Type
    partition: int | None
    partitions: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    fill: float | int | None = None

    @property
    def tiles(self) -> int:
        """How many tiles lie behind each other."""
        if self.partition is None:
            return 1
        return ceil(self.shape[self.partition] / self.partitions)

    @property
    def free(self) -> list[int]:
        """The dimensions that lie within a partition."""
        return [d for d in range(len(self.shape)) if d != self.partition]

    @property
    def buffer_shape(self) -> list[int]:
        """The extents of the buffer."""
        widths = [self.before[d] + self.shape[d] + self.after[d] for d in self.free]
        return [self.partitions, self.tiles, *widths]

    @property
    def bytes(self) -> int:
        """The bytes in each partition."""
        return prod(self.buffer_shape[1:]) * byte_width(self.element_type)

    def suits(self, pattern: AccessPattern) -> bool:
        """Whether an engine can walk a tile of the array."""
        shape = self.buffer_shape
        strides = row_major_strides(shape)
        wide = [stride for n, stride in zip(shape[2:], strides[2:], strict=True) if n > 1]
        most, longest = pattern.max_free_dims, pattern.max_stride
        return len(wide) <= most and all(stride <= longest for stride in wide)

    def count(self, tile: int) -> int:
        """Return how many partitions a tile takes."""
        if self.partition is None:
            return self.partitions
        return min(self.partitions, self.shape[self.partition] - tile * self.partitions)

    def widened(self, reach: Sequence[tuple[int, int]], fill: float | int | None) -> Layout | None:
        """Return the layout with a border as far as a window reaches, or None where the border is
        filled with something else already, or lies across the partitions."""
        before = tuple(max(b, -low) for b, (low, _) in zip(self.before, reach, strict=True))
        over = [high - n + 1 for (_, high), n in zip(reach, self.shape, strict=True)]
        after = tuple(max(a, o) for a, o in zip(self.after, over, strict=True))
        if all(low >= 0 for low, _ in reach) and all(o <= 0 for o in over):
            return self
        if fill is None or self.fill not in (None, fill):
            return None
        if self.partition is None or before[self.partition] or after[self.partition]:
            return None
        return replace(self, before=before, after=after, fill=fill)


def alloc_at(
    builder: KernelBuilder, shape: Sequence[int], element_type: ir.Type, address: int
) -> ir.Value:
    """Reserve a buffer of sbuf at an address, which npu-allocate-scratchpad keeps."""
    buffer = builder.alloc(shape, element_type)
    i64 = ir.IntegerType.get_signless(64, element_type.context)
    buffer.owner.attributes["address"] = ir.IntegerAttr.get(i64, address)
    return buffer


@dataclass(frozen=True)
class ResidentArray:
    """An array in its buffer."""

    layout: Layout
    buffer: ir.Value

    def view(self, builder: KernelBuilder, tile: int, box: Sequence[Range]) -> Any:
        """Return one tile of the elements in `box`, a range for every dimension but that of the
        partitions: [partition, *dimensions of more than one element].

        Starts are relative to the array, and may lie in its border.
        """
        layout = self.layout
        starts = [
            layout.before[d] + start for d, (start, _, _) in zip(layout.free, box, strict=True)
        ]
        sizes, steps = [size for _, size, _ in box], [step for _, _, step in box]
        drop = [1, *(i for i, size in enumerate(sizes, start=2) if size == 1)]
        if len(drop) == len(sizes) + 1:
            drop = drop[:-1]  # something has to be left beside the partition
        return builder.subview(
            self.buffer,
            [0, tile, *starts],
            [layout.count(tile), 1, *sizes],
            [1, 1, *steps],
            drop,
        )

    def inside(self, builder: KernelBuilder, tile: int) -> Any:
        """Return one tile of all elements without the border: [partition, *other dimensions]."""
        layout = self.layout
        return builder.subview(
            self.buffer,
            [0, tile, *(layout.before[d] for d in layout.free)],
            [layout.count(tile), 1, *(layout.shape[d] for d in layout.free)],
            drop=[1],
        )

    def fill_border(self, builder: KernelBuilder) -> None:
        """Write the border, one strip for each side of a dimension."""
        layout = self.layout
        if layout.fill is None:
            return
        whole = [(0, n) for n in layout.buffer_shape]
        for place, d in enumerate(layout.free, start=2):
            end = layout.before[d] + layout.shape[d]
            for start, size in ((0, layout.before[d]), (end, layout.after[d])):
                for tile in range(layout.tiles if size else 0):
                    strip = [*whole[:place], (start, size), *whole[place + 1 :]]
                    strip[1] = tile, 1
                    self._fill(builder, strip, layout.fill)
            whole[place] = layout.before[d], layout.shape[d]

    def _fill(
        self, builder: KernelBuilder, strip: Sequence[tuple[int, int]], value: float | int
    ) -> None:
        starts, sizes = [start for start, _ in strip], [size for _, size in strip]
        drop = [i for i, size in enumerate(sizes) if i and size == 1]
        view = builder.subview(self.buffer, starts, sizes, drop=drop)
        builder.memset(view, value, engine="gpsimd")
