"""Brings the operands of a contraction into sbuf, the contracted dimension across the
partitions."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from polystage.mlir import ir
from polystage.passes.lower.generic_op import Access
from polystage.passes.lower.kernel_builder import Cut, KernelBuilder
from polystage.passes.lower.mosaic import Array, Mosaic, shape_of
from polystage.passes.lower.offset import Offset, Tile
from polystage.passes.lower.tensor_engine.block_time import footprint
from polystage.passes.lower.tensor_engine.contraction import Contraction, element_bytes
from polystage.passes.lower.tensor_engine.plan import ContractionPlan, stage_bytes
from polystage.passes.lower.tensor_engine.spread_load import SpreadLoad, is_spread
from polystage.passes.lower.tensor_engine.transposed_load import TransposedLoad, load_transposed

Box = dict[int, Tile]
"""A tile of some loop dimensions; a dimension that is missing is not walked."""


@dataclass(frozen=True)
class Segment:
    """`count` channel tiles of `size` channels each, from channel `start`."""

    start: int
    count: int
    size: int


@dataclass(frozen=True)
class Resident:
    """An operand's window in sbuf: [partition, channel tile, *kept operand dimensions].

    In the operand dimensions of `dense` only the elements that are used were loaded, so that a
    column walks them with stride 1.
    """

    buffer: ir.Value
    access: Access
    kept: tuple[int, ...]
    dense: frozenset[int]

    def view(
        self, builder: KernelBuilder, channel: Offset, box: Box, order: Sequence[int]
    ) -> ir.Value:
        """Return [partition, *order] at one channel tile, with `order` naming loop dimensions.

        Starts in `box` are relative to the window.
        """
        partitions = ir.MemRefType(self.buffer.type).shape[0]
        offsets, sizes, steps, drop = [Offset(), channel], [partitions, 1], [1, 1], [1]
        present: list[int] = []
        for position, dim in enumerate(self.kept, start=2):
            linear = self.access.index[dim]
            offset, size, step = Offset(), 1, 1
            for d in (d for d in linear.dims if d in box):
                coefficient = 1 if dim in self.dense else linear.coefficients[d]
                offset += box[d].start * coefficient
                if box[d].size > 1:
                    size, step = box[d].size, coefficient
            offsets.append(offset)
            sizes.append(size)
            steps.append(step)
            walked = [d for d in linear.dims if d in order]
            present += walked
            if not walked:
                drop.append(position)
        view = builder.subview(self.buffer, offsets, sizes, steps, drop)
        return builder.transpose(view, [0, *(1 + present.index(d) for d in order)])


class OperandLoader:
    """Loads windows of the stationary and the moving operand."""

    def __init__(
        self,
        builder: KernelBuilder,
        contraction: Contraction,
        plan: ContractionPlan,
        row: int,
        values: Sequence[Array],
        causes: Sequence[str],
    ) -> None:
        self.builder = builder
        self.contraction = contraction
        self.extents = contraction.generic.extents
        self.plan = plan
        self.walked = {row, *contraction.columns, *plan.loose}
        self.values = values
        self.causes = causes
        self.segments = list(self._segments())

    def _segments(self) -> Iterator[Segment]:
        channels, tile = self.contraction.channels, self.plan.channel_tile
        full = channels // tile
        yield Segment(0, full, tile)
        if channels % tile:
            yield Segment(full * tile, 1, channels % tile)

    def load_block(self, access: Access, box: Box) -> list[Resident]:
        """Load all channels and loose taps of an operand's window, one buffer per segment."""
        box = box | {d: Tile(Offset(), self.extents[d]) for d in self.plan.loose}
        return [self.load(access, box, segment) for segment in self.segments]

    def load(
        self, access: Access, box: Box, segment: Segment, channels: Tile | None = None
    ) -> Resident:
        """Load a window of a segment: all its channel tiles, or only tiles `channels`."""
        kept = tuple(i for i, x in enumerate(access.index) if self.walked.intersection(x.dims))
        dense = self._dense(access)
        shape = [self._extent(access, dim, box, dense) for dim in kept]
        partitions = segment.size * prod(self.extents[d] for d in self.plan.packed)
        some = channels or Tile(Offset(), segment.count)
        buffer = self.builder.alloc([partitions, some.size, *shape], access.element_type)
        resident = Resident(buffer, access, kept, dense)
        if self._is_loaded_transposed(resident):
            self._load_transposed(resident, box, segment, some.start, some.size)
        elif channels is not None or not self._load_spread(resident, box, segment):
            cut = self.channel_cut(segment) if channels is None else None
            for tile in self.builder.tiles(some.size, 1, cut):
                place = some.start + tile.start
                self._load_directly(resident, box, segment, place, tile.start)
        return resident

    def _dense(self, access: Access) -> frozenset[int]:
        """Return the strided dimensions of which only the elements needed are loaded.

        With its tap on the partitions, a strided dimension is walked without overlap. The innermost
        dimension is loaded whole all the same: long runs beat few bytes.
        """
        return frozenset(
            i
            for i, linear in enumerate(access.index)
            if any(d in self.plan.packed for d in linear.dims)
            and not any(d in self.plan.loose for d in linear.dims)
            and access.strides[i] != 1
        )

    @staticmethod
    def _extent(access: Access, dim: int, box: Box, dense: frozenset[int]) -> int:
        sizes = {d: box[d].size for d in access.index[dim].dims if d in box}
        if dim in dense:
            return prod(sizes.values())
        return footprint(access.index[dim], sizes)

    # --- straight into place ---------------------------------------------------------------------

    def _load_directly(
        self, resident: Resident, box: Box, segment: Segment, tile: Offset, slot: Offset
    ) -> None:
        """Load channel tile `tile` into place `slot`, one transfer per packed tap."""
        packed, cause = self.plan.packed, self.causes[resident.access.argument]
        shape = list(ir.MemRefType(resident.buffer.type).shape)
        still = [0] * len(resident.kept)
        windows: list[Array] = []
        for taps in product(*(range(self.extents[d]) for d in packed)):
            at = box | {d: Tile(Offset(t), 1) for d, t in zip(packed, taps, strict=True)}
            windows.append(self._window(resident, at, self._channels(segment, tile, 1)))
        if isinstance(windows[0], Mosaic):
            sizes = [shape[0], 1, *shape[2:]]
            place = self.builder.subview(resident.buffer, [0, slot, *still], sizes, drop=[1])
            self.builder.fill_borders(windows, place)
        for number, source in enumerate(windows):
            starts = [number * segment.size, slot, *still]
            sizes = [segment.size, 1, *shape[2:]]
            place = self.builder.subview(resident.buffer, starts, sizes, drop=[1])
            self.builder.dma(source, place, cause)

    def _load_spread(self, resident: Resident, box: Box, segment: Segment) -> bool:
        """Load a window with a border by way of a buffer without it, where that is faster."""
        access = resident.access
        array = self.values[access.argument]
        if self.plan.packed or access is not self.contraction.moving:
            return False
        if not isinstance(array, Mosaic) or len(array.pieces) != 1:
            return False
        window = self._window(resident, box, self._channels(segment, Offset(), 1))
        if not is_spread(self.builder.target, window, segment.count, self.plan.spare_bytes):
            return False
        spread = SpreadLoad(self.builder, window, resident.buffer)
        for tile in self.builder.tiles(segment.count, 1):
            spread.load(tile, self._window(resident, box, self._channels(segment, tile.start, 1)))
        spread.finish()
        return True

    def _channels(self, segment: Segment, tile: Offset, count: int) -> Tile:
        return Tile(tile * segment.size + segment.start, segment.size * count)

    def _window(
        self, resident: Resident, box: Box, channels: Tile, partition_first: bool = True
    ) -> Array:
        """Return the window in DRAM: [channel, *kept dimensions], or [*kept dimensions,
        channel]."""
        access, channel_dim = resident.access, -1
        offsets, sizes, steps = [], [], []
        for dim, linear in enumerate(access.index):
            start, size, step = Offset(linear.constant), 1, 1
            for d in linear.dims:
                if d == self.contraction.channel:
                    start, size, channel_dim = start + channels.start, channels.size, dim
                elif d in box:
                    start += box[d].start * linear.coefficients[d]
                    if dim in resident.dense and box[d].size > 1:
                        step = linear.coefficients[d]
            if dim in resident.kept:
                size = self._extent(access, dim, box, resident.dense)
            offsets.append(start)
            sizes.append(size)
            steps.append(step)
        order = list(resident.kept)
        if channel_dim >= 0:
            order = [channel_dim, *order] if partition_first else [*order, channel_dim]
        value = self.values[access.argument]
        kept = sorted(order) or [0]
        drop = [d for d in range(len(sizes)) if d not in kept]
        view = self.builder.subview(value, offsets, sizes, steps, drop)
        view = self.builder.transpose(view, [kept.index(d) for d in order or [0]])
        if channel_dim < 0 and order:
            extents = shape_of(view)
            view = self.builder.expand(view, [[1, extents[0]], *([n] for n in extents[1:])])
        return view

    # --- through the tensor engine ---------------------------------------------------------------

    def _is_loaded_transposed(self, resident: Resident) -> bool:
        """Whether the channels are contiguous in DRAM, so that rows are loaded and turned on chip.

        Only where that is worth it: for a few elements, one descriptor each costs less.
        """
        access, channel = resident.access, self.contraction.channel
        shape = list(ir.MemRefType(resident.buffer.type).shape)
        wide = [n for n in shape[2:] if n > 1]
        if channel < 0 or not wide or shape[0] == 1:
            return False
        place = next(i for i, x in enumerate(access.index) if x.single == channel)
        if access.strides[place] != 1:
            return False
        dma = self.builder.target.dma
        is_matrix = len(wide) == 1 and not self.plan.packed
        descriptors_ns = prod(shape) * dma.descriptor_overhead_ns / dma.engines
        return is_matrix or descriptors_ns > dma.startup_ns / 2

    def _load_transposed(
        self, resident: Resident, box: Box, segment: Segment, first: Offset, count: int
    ) -> None:
        """Load rows [free, channels], then turn every channel tile."""
        access, packed = resident.access, self.plan.packed
        channels = self._channels(segment, first, count)
        windows: list[Array] = []
        for taps in product(*(range(self.extents[d]) for d in packed)):
            at = box | {d: Tile(Offset(t), 1) for d, t in zip(packed, taps, strict=True)}
            windows.append(self._window(resident, at, channels, partition_first=False))
        room = stage_bytes(self.builder.target, element_bytes(access))
        cause = self.causes[access.argument]
        load_transposed(
            self.builder, TransposedLoad(windows, resident.buffer, segment.size, room, cause)
        )

    # --- which tiles cut the pieces of a mosaic alike ---------------------------------------------

    def cut(self, dim: int, open_dims: Collection[int]) -> Cut | None:
        """Return what tells tiles of loop dimension `dim` apart, `open_dims` being the dimensions
        of loops around the loads."""
        accesses = [
            access
            for access in (self.contraction.stationary, self.contraction.moving)
            if isinstance(access.array, Mosaic) and dim in access.dims
        ]
        if not accesses:
            return None

        def cut(start: int, size: int) -> Hashable:
            return tuple(self._ranges(a, dim, open_dims, start, size) for a in accesses)

        return cut

    def _ranges(
        self, access: Access, dim: int, open_dims: Collection[int], start: int, size: int
    ) -> Hashable:
        (place,) = (i for i, x in enumerate(access.index) if dim in x.dims)
        linear = access.index[place]
        if any(d in open_dims for d in linear.dims if d != dim):
            return start  # it depends on other loops too: every tile on its own
        packed = [d for d in linear.dims if d in self.plan.packed]
        sizes = {d: self.extents[d] for d in linear.dims if d not in packed} | {dim: size}
        array = access.array
        assert isinstance(array, Mosaic)
        first = linear.constant + linear.coefficients[dim] * start
        return tuple(
            array.ranges(
                place,
                first + sum(linear.coefficients[d] * t for d, t in zip(packed, taps, strict=True)),
                footprint(linear, sizes),
            )
            for taps in product(*(range(self.extents[d]) for d in packed))
        )

    def channel_cut(self, segment: Segment) -> Cut | None:
        """Return what tells the channel tiles of a segment apart."""
        channel = self.contraction.channel
        places = [
            (access.array, next(i for i, x in enumerate(access.index) if x.single == channel))
            for access in (self.contraction.stationary, self.contraction.moving)
            if isinstance(access.array, Mosaic) and channel >= 0
        ]
        if not places:
            return None

        def cut(start: int, size: int) -> Hashable:
            first, extent = segment.start + start * segment.size, size * segment.size
            return tuple(array.ranges(place, first, extent) for array, place in places)

        return cut
