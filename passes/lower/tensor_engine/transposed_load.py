"""Loads operands whose contracted dimension is contiguous in DRAM: rows come in and are turned.

A strided load would take one descriptor for each element.

    window [free.., channels]  ->  stage [free, channels]  ->  psum [channels, free]  ->  buffer
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from polystage.dtypes import byte_width
from polystage.errors import PassError
from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import Cut, KernelBuilder
from polystage.passes.lower.mosaic import Array, Mosaic, element_type_of, shape_of, strides_of
from polystage.passes.lower.offset import Offset, Tile


@dataclass(frozen=True)
class TransposedLoad:
    """`buffer` [partition, channel tile, free..] holds windows [free.., channel], one for each
    packed tap, with `channels` channels in a tile. `room` bytes per partition are for staging."""

    windows: Sequence[Array]
    buffer: ir.Value
    channels: int
    room: int
    cause: str


def load_transposed(builder: KernelBuilder, load: TransposedLoad) -> None:
    """Bring windows on chip with their channels across the partitions, packed taps behind each
    other."""
    _Writer(builder, _merged(builder, load)).write()


def _merged(builder: KernelBuilder, load: TransposedLoad) -> TransposedLoad:
    """Return the load with free dimensions merged where all windows run through them as one."""
    free = len(shape_of(load.buffer)) - 2
    groups: list[int] = []
    for d in range(free):
        if d and all(_continues(window, d - 1) for window in load.windows):
            groups[-1] += 1
        else:
            groups.append(1)
    windows = [builder.collapse(window, [*groups, 1]) for window in load.windows]
    buffer = builder.collapse(load.buffer, [1, 1, *groups])
    return TransposedLoad(windows, buffer, load.channels, load.room, load.cause)


def _continues(array: Array, dim: int) -> bool:
    if isinstance(array, Mosaic):
        return array.merges(dim, dim + 1)
    shape, strides = shape_of(array), strides_of(array)
    return strides[dim] == strides[dim + 1] * shape[dim + 1]


class _Writer:
    """The loops of one load. Of the free dimensions, `wide` goes through the array and `plane`, if
    there is one, is staged as far as it fits; the others are walked one by one."""

    def __init__(self, builder: KernelBuilder, load: TransposedLoad) -> None:
        self.builder = builder
        self.load = load
        self.type = element_type_of(load.buffer)
        self.partitions, self.count, *self.free = shape_of(load.buffer)
        dims = range(len(self.free))
        self.wide = max(dims, key=lambda d: self.free[d])
        others = [d for d in dims if d != self.wide and self.free[d] > 1]
        self.plane = max(others, key=lambda d: self.free[d], default=None)

    def write(self) -> None:
        builder, array = self.builder, self.builder.target.tensor
        row = self.partitions * byte_width(self.type)
        at_once = max(1, min(self.count, self.load.room // row))
        planes = max(1, self.load.room // (row * at_once))
        steps = [planes if d == self.plane else 1 for d in range(len(self.free))]
        bank = builder.target.psum.bank_bytes // byte_width(self.type)
        steps[self.wide] = min(array.rows, array.columns, bank)
        cuts = [self._cut(d, 1) for d in range(len(self.free))]
        channel_cut = self._cut(len(self.free), self.load.channels)
        for box in builder.tiles_nd(self.free, steps, cuts):
            for tiles in builder.tiles(self.count, at_once, channel_cut):
                self._turn(box, tiles, self._stage(box, tiles))

    def _cut(self, dim: int, scale: int) -> Cut | None:
        """Return what tells tiles of a dimension of the windows apart, `scale` elements each."""
        mosaics = [w for w in self.load.windows if isinstance(w, Mosaic)]
        if not mosaics:
            return None

        def cut(start: int, size: int) -> Hashable:
            return tuple(m.ranges(dim, start * scale, size * scale) for m in mosaics)

        return cut

    @property
    def _walked(self) -> list[int]:
        return [d for d in range(len(self.free)) if d not in (self.wide, self.plane)]

    def _stage(self, box: Sequence[Tile], tiles: Tile) -> ir.Value:
        """Load rows [wide, plane, channels of all packed taps]."""
        builder, channels = self.builder, tiles.size * self.load.channels
        planes = [] if self.plane is None else [box[self.plane].size]
        width = channels * len(self.load.windows)
        stage = builder.alloc([box[self.wide].size, *planes, width], self.type)
        starts = [*(tile.start for tile in box), tiles.start * self.load.channels]
        sizes = [*(tile.size for tile in box), channels]
        for number, window in enumerate(self.load.windows):
            part = builder.subview(window, starts, sizes, drop=self._walked)
            if self.plane is not None and self.plane < self.wide:
                part = builder.transpose(part, [1, 0, 2])
            offsets = [0] * (1 + len(planes)) + [number * channels]
            place = builder.subview(stage, offsets, shape_of(part))
            builder.fill_borders([part], place)
            builder.dma(part, place, self.load.cause)
        return stage

    def _turn(self, box: Sequence[Tile], tiles: Tile, stage: ir.Value) -> None:
        """Move the staged rows to the buffer, as many planes at once as a psum bank holds."""
        builder, free = self.builder, box[self.wide].size
        planes = 1 if self.plane is None else box[self.plane].size
        bank = builder.target.psum.bank_bytes // byte_width(self.type)
        for tile in builder.tiles(tiles.size, 1):
            for some in builder.tiles(planes, max(1, bank // free)):
                for rows in self._pieces():
                    extents = [] if self.plane is None else [some.size]
                    psum = builder.alloc([len(rows), *extents, free], self.type, "psum")
                    for plane in builder.tiles(some.size, 1):
                        column = tile.start * self.load.channels + rows.start
                        at = [some.start + plane.start, column]
                        turned = psum
                        if self.plane is not None:
                            sizes = [len(rows), 1, free]
                            turned = builder.subview(psum, [0, plane.start, 0], sizes, drop=[1])
                        builder.transpose_tile(self._matrix(stage, at, free, rows), turned)
                    place = self._place(box, tiles.start + tile.start, some, rows)
                    builder.activate(psum, place)

    def _pieces(self) -> list[range]:
        """Return the partitions of the buffer in pieces of no more than the array's columns, whose
        starts are legal."""
        target = self.builder.target
        columns, piece = target.tensor.columns, target.sbuf.partition_start_granule
        if self.partitions <= columns:
            return [range(self.partitions)]
        if piece > columns:
            raise PassError(
                f"an operand of {self.partitions} partitions cannot be turned: the array of "
                f"'{target.name}' has {columns} columns, but accesses start at multiples of "
                f"{piece}",
                help="use a target whose sbuf.partition_start_granule is at most tensor.columns",
            )
        while 2 * piece <= columns:
            piece *= 2
        starts = range(0, self.partitions, piece)
        return [range(start, min(start + piece, self.partitions)) for start in starts]

    def _matrix(self, stage: ir.Value, at: Sequence[Offset], free: int, rows: range) -> ir.Value:
        plane, column = at
        if self.plane is None:
            return self.builder.subview(stage, [0, column], [free, len(rows)])
        return self.builder.subview(stage, [0, plane, column], [free, 1, len(rows)], drop=[1])

    def _place(self, box: Sequence[Tile], tile: Offset, planes: Tile, rows: range) -> ir.Value:
        """Return the part of the buffer for some rows of a channel tile: [partition, plane,
        wide]."""
        starts = [part.start for part in box]
        sizes = [part.size for part in box]
        if self.plane is not None:
            starts[self.plane] += planes.start
            sizes[self.plane] = planes.size
        drop = [1, *(2 + d for d in self._walked)]
        view = self.builder.subview(
            self.load.buffer, [rows.start, tile, *starts], [len(rows), 1, *sizes], drop=drop
        )
        if self.plane is not None and self.wide < self.plane:
            view = self.builder.transpose(view, [0, 2, 1])
        return view
