"""Loads windows with a border: dense from DRAM, then an engine spreads their rows.

A transfer into the middle of a buffer takes a descriptor for each row. For images of few pixels
that is longer than one transfer of all of them and a copy on chip.

    image in DRAM [channel, 14 x 14]  ->  stage [channel, 14, 14]  ->  buffer [channel, 16, 16]
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from polystage.dialects.npu.views import access_pattern
from polystage.dtypes import byte_width
from polystage.machine import cost
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.mosaic import Array, Mosaic, Piece
from polystage.passes.lower.offset import Offset, Tile
from polystage.passes.memref_types import row_major_strides


def is_spread(target: Target, window: Array, count: int, room: int) -> bool:
    """Whether `count` windows like [channel, free..] are there sooner by way of a stage, which may
    take `room` bytes per partition."""
    if not isinstance(window, Mosaic) or len(window.pieces) != 1:
        return False
    (piece,) = window.pieces
    shape, strides = piece.shape, row_major_strides(window.shape)
    if shape[0] != window.shape[0] or not isinstance(window.element_type, ir.FloatType):
        return False
    if len(access_pattern(shape[1:], strides[1:])) >= target.access_pattern.max_free_dims:
        return False
    width = byte_width(window.element_type)
    free = prod(shape[1:])
    if count * free * width > room:
        return False
    source = _run(shape, piece.strides) * width
    total = shape[0] * free * width
    direct = cost.dma(target, total, source, _run(shape[1:], strides[1:]) * width)
    staged = cost.dma(target, total, source, free * width)
    copy = cost.activate(target, free, partitions=shape[0])
    return staged.busy_ns + copy.latency_ns < direct.busy_ns


def _run(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many elements follow each other in memory."""
    run = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride == run:
            run *= size
    return run


class SpreadLoad:
    """The load of `buffer` [channel, tile, free..]; `window` is that of any of its tiles."""

    def __init__(self, builder: KernelBuilder, window: Mosaic, buffer: ir.Value) -> None:
        self.builder = builder
        self.buffer = buffer
        self.window = window
        (self.piece,) = window.pieces
        self.count = ir.MemRefType(buffer.type).shape[1]
        channels, *self.free = self.piece.shape
        self.stage = builder.alloc([channels, self.count, *self.free], window.element_type)

    def load(self, tile: Tile, window: Mosaic) -> None:
        """Bring the rows of one tile to the stage."""
        builder = self.builder
        (piece,) = window.pieces
        builder.dma(
            piece.value, self._part(self.stage, tile.start, [0] * len(self.free)), piece.cause
        )

    def finish(self) -> None:
        """Write the border of all tiles, and move their rows to the buffer."""
        builder, shape = self.builder, self.window.shape
        places = list(self.piece.offsets[1:])
        staged = Piece((0, 0, *places), self.stage, self.piece.cause)
        whole = Mosaic(
            (shape[0], self.count, *shape[1:]),
            self.window.element_type,
            (staged,),
            self.window.fill,
        )
        builder.fill_borders([whole], self.buffer)
        for tile in builder.tiles(self.count, 1):
            zero = [0] * len(places)
            source = self._part(self.stage, tile.start, zero)
            builder.activate(source, self._part(self.buffer, tile.start, places))

    def _part(self, value: ir.Value, tile: Offset, starts: Sequence[int]) -> Any:
        sizes = [self.piece.shape[0], 1, *self.free]
        return self.builder.subview(value, [0, tile, *starts], sizes, drop=[1])
