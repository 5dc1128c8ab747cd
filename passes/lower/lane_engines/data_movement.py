"""Transfers between DRAM and sbuf, plain and through the array; copies and fills that never leave
DRAM's side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from polystage.dtypes import byte_width
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Linear
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.lane_engines.loop_nest import LoopNest
from polystage.passes.lower.lane_engines.operand import Operand
from polystage.passes.lower.lane_engines.tile_program import Slot, tile_base, tile_extent
from polystage.passes.lower.lane_engines.tiling import staged_rows
from polystage.passes.lower.mosaic import Array, Mosaic, shape_of
from polystage.passes.lower.offset import Offset, Tile

Position = Mapping[int, Tile]
"""The tile of every loop."""

FILL_BYTES = 4096
"""Bytes of the row that a fill sends out again and again: enough for a transfer to run at its
peak rate."""

DIRECT_RUN_BYTES = 16
"""Shortest run for which a copy goes from DRAM to DRAM."""


def window(
    builder: KernelBuilder, operand: Operand, position: Position, order: Sequence[int]
) -> Array:
    """Return the tile of an operand with its dimensions in `order`; dimensions that no loop moves
    are dropped.

    An operand that does not depend on the partition gets a first dimension of 1, which a transfer
    repeats.
    """
    tiles = [position[d].size for d in range(len(position))]
    offsets, sizes = [], []
    for linear in operand.index:
        start = Offset(linear.constant + tile_base(linear, tiles))
        for d in linear.dims:
            start = start + position[d].start * linear.coefficients[d]
        offsets.append(start)
        sizes.append(tile_extent(linear, tiles))
    view = builder.subview(operand.value, offsets, sizes)
    partition = operand.dim_of(0)
    if not operand.dims:  # one element, memref<1>
        return view
    if partition is not None:
        return builder.transpose(view, [partition, *order])
    view = builder.transpose(view, list(order))
    shape = shape_of(view)
    return builder.expand(view, [[1, shape[0]], *([n] for n in shape[1:])])


def slot_order(operand: Operand, slot: Slot) -> list[int]:
    """Return the operand's dimension for every free dimension of a buffer."""
    partition = operand.dim_of(0)
    free = [i for i in operand.memory_order() if i != partition]
    order = []
    for linear in slot.index:
        found = next(i for i in free if operand.index[i] == linear)
        free.remove(found)
        order.append(found)
    return order


def load(
    builder: KernelBuilder,
    operand: Operand,
    slot: Slot,
    buffer: ir.Value,
    parts: Sequence[tuple[ir.Value, Position]],
    staged: int | None,
) -> None:
    """Bring a tile on chip, to parts of its buffer from different positions; `staged` names the
    dimension whose rows are loaded and then transposed."""
    order = slot_order(operand, slot)
    views = [window(builder, operand, position, order) for _, position in parts]
    if staged is None:
        builder.fill_borders(views, buffer)
        for view, (part, _) in zip(views, parts, strict=True):
            builder.dma(view, part, operand.cause)
        return
    row = order.index(staged) + 1
    for view, (whole, _) in zip(views, parts, strict=True):
        for source, part in _row_blocks(builder, view, whole, row):
            stage = _stage(builder, part, row + 1)
            turned = _rows_first(builder, source, row + 1)
            builder.fill_borders([turned], stage)
            builder.dma(turned, stage, operand.cause)
            _transpose(builder, stage, part, row + 1, to_rows=False)


def store(
    builder: KernelBuilder,
    slot: Slot,
    buffer: ir.Value,
    operand: Operand,
    position: Position,
    staged: int | None,
) -> None:
    """Take a tile to DRAM; `staged` names the dimension whose rows are written after
    transposing."""
    order = slot_order(operand, slot)
    view = window(builder, operand, position, order)
    if staged is None:
        builder.dma(buffer, view, operand.cause)
        return
    row = order.index(staged) + 1
    for rows, part in _row_blocks(builder, view, buffer, row):
        stage = _stage(builder, part, row + 1)
        _transpose(builder, stage, part, row + 1, to_rows=True)
        builder.dma(stage, _rows_first(builder, rows, row + 1), operand.cause)


def _row_blocks(
    builder: KernelBuilder, view: Array, buffer: ir.Value, row: int
) -> Iterator[tuple[Any, ir.Value]]:
    """Yield parts of a DRAM view and of its buffer with dimension `row` split into [chunks, rows],
    rows being as many as go through the array at once; what is left over comes as a last part."""
    extent = shape_of(buffer)[row]
    rows = staged_rows(extent, ir.MemRefType(buffer.type).element_type, builder.target)
    main = extent // rows * rows
    for start, size, chunk in ((0, main, rows), (main, extent - main, extent - main)):
        if size:
            tile = Tile(Offset(start), size)
            parts = (_slice(builder, value, row, tile) for value in (view, buffer))
            first, second = (_split(builder, part, row, [size // chunk, chunk]) for part in parts)
            yield first, second


def _split(builder: KernelBuilder, value: Array, dim: int, shape: Sequence[int]) -> Any:
    shapes = [[n] for n in shape_of(value)]
    shapes[dim] = list(shape)
    return builder.expand(value, shapes)


def _slice(builder: KernelBuilder, value: Array, dim: int, tile: Tile) -> Any:
    offsets: list[Offset | int] = [0] * len(shape_of(value))
    sizes = shape_of(value)
    offsets[dim], sizes[dim] = tile.start, tile.size
    return builder.subview(value, offsets, sizes)


def _rows_first(builder: KernelBuilder, value: Array, row: int) -> Any:
    """Return a view with dimension `row` first and the partition, dimension 0, last."""
    others = [i for i in range(1, len(shape_of(value))) if i != row]
    return builder.transpose(value, [row, *others, 0])


def _stage(builder: KernelBuilder, buffer: ir.Value, row: int) -> ir.Value:
    """Return a new buffer with the rows on the partitions, the buffer's partition innermost."""
    shape = shape_of(buffer)
    others = [n for i, n in enumerate(shape) if i not in (0, row)]
    return builder.alloc([shape[row], *others, shape[0]], ir.MemRefType(buffer.type).element_type)


def _transpose(
    builder: KernelBuilder, stage: ir.Value, buffer: ir.Value, row: int, to_rows: bool
) -> None:
    """Move all planes between `stage` [rows, .., partition] and `buffer` [partition, .., rows, ..].

    As many neighbouring planes as a psum bank holds are evicted at once.
    """
    shape = shape_of(stage)
    rows, others, partitions = shape[0], shape[1:-1], shape[-1]
    type_ = ir.MemRefType(stage.type).element_type
    free = partitions if to_rows else rows
    bank = builder.target.psum.bank_bytes // byte_width(type_) // free
    steps = [1] * (len(others) - 1) + [max(bank, 1)] * bool(others)
    for place in builder.tiles_nd(others, steps):
        planes = _planes(builder, stage, place, len(shape) - 1)
        parts = _planes(builder, buffer, place, row)
        source, target = (parts, planes) if to_rows else (planes, parts)
        count = place[-1].size if place else 1
        psum = builder.alloc([rows if to_rows else partitions, count, free], type_, "psum")
        for plane in builder.tiles(count, 1):
            builder.transpose_tile(_plane(builder, source, plane), _plane(builder, psum, plane))
        builder.activate(psum, target)


def _planes(builder: KernelBuilder, value: ir.Value, place: Sequence[Tile], last: int) -> ir.Value:
    """Return neighbouring planes as [partition, plane, last]; `place` says which, along the
    dimensions that are neither the partition nor `last`."""
    shape = shape_of(value)
    others = [i for i in range(1, len(shape)) if i != last]
    offsets: list[Offset | int] = [0] * len(shape)
    sizes = list(shape)
    for i, tile in zip(others, place, strict=True):
        offsets[i], sizes[i] = tile.start, tile.size
    view = builder.subview(value, offsets, sizes, drop=others[:-1])
    if not others:
        return builder.expand(view, [[shape[0]], [1, shape[last]]])
    return view if others[-1] < last else builder.transpose(view, [0, 2, 1])


def _plane(builder: KernelBuilder, value: ir.Value, tile: Tile) -> ir.Value:
    """Return plane `tile` of [partition, plane, last] as a matrix."""
    shape = shape_of(value)
    return builder.subview(value, [0, tile.start, 0], [shape[0], 1, shape[2]], drop=[1])


# --- DRAM to DRAM ---------------------------------------------------------------------------------


def copy_directly(builder: KernelBuilder, nest: LoopNest, source: Operand) -> bool:
    """Copy `source` to the output by one transfer within DRAM, where both sides have long runs;
    else return False.

    Loops of the nest are collapsed already.
    """
    destination = nest.outputs[0]
    loops = [linear.single for linear in destination.index]
    places = [source.dim_of(d) for d in loops if d is not None]
    plain = all(d is not None for d in loops) and len(set(loops)) == len(loops)
    moving = [i for i, linear in enumerate(source.index) if linear.dims]
    if not plain or sorted(p for p in places if p is not None) != moving:
        return False
    if not _runs_are_long(nest, source, destination):
        return False
    view = source.value
    if moving:
        view = builder.transpose(view, [p for p in places if p is not None])
        view = _with_unit_dims(builder, view, places)
    elif len(loops) > 1:
        view = builder.expand(view, [[1] * len(loops)])
    builder.dma(view, destination.value, "copy")
    if isinstance(view, Mosaic) and view.fill is not None:
        _fill_rest(builder, view, destination, view.fill)
    return True


def _fill_rest(
    builder: KernelBuilder, view: Mosaic, destination: Operand, value: float | int
) -> None:
    """Write the constant to a copy of a mosaic where no piece is."""
    shape = destination.shape
    for box in view.rest():
        box = [(0, n) if m == 1 else r for r, m, n in zip(box, view.shape, shape, strict=True)]
        part = builder.subview(destination.value, [a for a, _ in box], [b - a for a, b in box])
        fill(builder, replace(destination, value=part), value)


def _with_unit_dims(
    builder: KernelBuilder, view: ir.Value, places: Sequence[int | None]
) -> ir.Value:
    """Return `view` with a unit dimension wherever `places` has None."""
    shapes: list[list[int]] = []
    pending: list[int] = []
    extents = iter(shape_of(view))
    for place in places:
        if place is None:
            pending.append(1)
        else:
            shapes.append([*pending, next(extents)])
            pending = []
    shapes[-1] += pending
    return builder.expand(view, shapes)


def _runs_are_long(nest: LoopNest, source: Operand, destination: Operand) -> bool:
    """Whether both sides walk through neighbouring elements together for a while, or the copy is
    tiny."""
    width = byte_width(destination.element_type)
    if prod(nest.extents) * width <= DIRECT_RUN_BYTES:
        return True
    innermost = min(range(len(destination.index)), key=lambda i: destination.strides[i])
    loop = destination.index[innermost].single
    assert loop is not None
    place = source.dim_of(loop)
    return (
        place is not None
        and source.strides[place] == 1
        and destination.strides[innermost] == 1
        and nest.extents[loop] * width >= DIRECT_RUN_BYTES
    )


def fill(builder: KernelBuilder, destination: Operand, value: float | int) -> None:
    """Set a DRAM view to a constant: one row is set on chip and sent out with repetition."""
    shape = destination.shape
    order = sorted(range(len(shape)), key=lambda i: -destination.strides[i])
    view = builder.transpose(destination.value, order)
    width = byte_width(destination.element_type)
    extent = shape_of(view)[-1]
    row = min(extent, max(1, FILL_BYTES // width), builder.target.sbuf.bytes_per_partition // width)
    buffer = builder.alloc([1, row], destination.element_type)
    builder.memset(buffer, value)
    main = extent // row * row
    last = len(shape) - 1
    for start, size, length in ((0, main, row), (main, extent - main, extent - main)):
        if size == 0:
            continue
        part = _slice(builder, view, last, Tile(Offset(start), size))
        shapes = [[n] for n in shape_of(part)]
        shapes[-1] = [size // length, length]
        part = builder.expand(part, shapes)
        source = builder.subview(buffer, [0, 0], [1, length])
        builder.dma(builder.expand(source, [[1] * (len(shape)), [length]]), part, destination.cause)


def copy_nest(
    extents: Sequence[int], source: ir.Value, destination: ir.Value, causes: Sequence[str]
) -> LoopNest:
    """Return the nest of `destination[i..] = source[i..]`."""
    loops = [d for d, extent in enumerate(extents) if extent > 1]
    index = tuple(Linear(0, tuple(int(i == d) for i in loops)) for d in range(len(extents)))
    return LoopNest(
        tuple(extents[d] for d in loops),
        len(loops),
        {0: Operand(source, index, causes[0])},
        (Operand(destination, index, causes[1]),),
        {},
    )
