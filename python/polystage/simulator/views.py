"""On-chip buffers and views of buffers, as the decoder sees them."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from polystage.dialects.npu import space_of, strides_of
from polystage.dialects.npu.queue_rules import places_of
from polystage.dtypes import numpy_dtype
from polystage.errors import SimulationError
from polystage.mlir import ir
from polystage.simulator.access import Alloc, View
from polystage.simulator.decode import Decoder, Handler
from polystage.simulator.index import Linear
from polystage.simulator.memory import ChipBuffer
from polystage.slices import (
    collapsed,
    expanded_strides,
    gap,
    kept_dims,
    permutation,
    reassociation,
    slice_parameters,
)


def _alloc(decoder: Decoder, op: ir.Operation) -> None:
    type_ = ir.MemRefType(op.results[0].type)
    addresses = places_of(op.opview)
    if not addresses:
        raise SimulationError(
            f"buffer {type_} of @{decoder.name} has no address",
            help="run npu-allocate-scratchpad",
            op=op,
        )
    dtype, program = numpy_dtype(type_), decoder.program
    memory, shape = program.memories[space_of(type_)], tuple(type_.shape)
    name = f"{'x'.join(str(n) for n in shape)}x{type_.element_type}"
    places = tuple(ChipBuffer(memory, shape, dtype, a, name) for a in addresses)
    for buffer in places:
        _check_buffer(decoder, op, buffer)
    alloc = Alloc(places, _execution(decoder), decoder.trips, decoder.lives, len(program.buffers))
    decoder.lives += alloc.executions
    program.buffers.extend(places)
    decoder.allocs.append(alloc)
    for buffer in places:
        decoder.occupancy(memory).take(buffer, returns=bool(decoder.loops))
    decoder.views[op.results[0]] = View(alloc, Linear(), shape, tuple(strides_of(type_)), dtype)


def _execution(decoder: Decoder) -> Linear:
    """Return how often the present operation was executed before, in this call."""
    total = Linear()
    for depth, loop in enumerate(decoder.loops):
        total = total * loop.trips + decoder.space.loop(range(loop.trips), depth)
    return total


def _check_buffer(decoder: Decoder, op: ir.Operation, buffer: ChipBuffer) -> None:
    memory, end = buffer.memory, buffer.address + buffer.row_bytes
    if buffer.shape[0] > memory.partitions:
        raise SimulationError(
            f"{buffer.place} in @{decoder.name} takes {buffer.shape[0]} partitions, "
            f"but {memory.name} has {memory.partitions}",
            op=op,
        )
    if buffer.address < 0 or end > memory.bytes_per_partition:
        raise SimulationError(
            f"{buffer.place} in @{decoder.name} takes bytes [{buffer.address}, {end}), "
            f"but a partition of {memory.name} ends at {memory.bytes_per_partition}",
            help="choose a smaller tile, or another address",
            op=op,
        )
    if buffer.address % buffer.dtype.itemsize:
        raise SimulationError(
            f"{buffer.place} in @{decoder.name} is not aligned to its elements of "
            f"{buffer.dtype.itemsize} bytes",
            op=op,
        )


# --- views ---


def _subview(decoder: Decoder, op: ir.Operation) -> None:
    source = decoder.view(op.operands[0])
    if len(op.operands) > 1:
        decoder.views[op.results[0]] = _slice(decoder, op, source)
        return
    # the type alone does not say which window it is: the source may start anywhere
    key = source, op.results[0].type, op.attributes["static_offsets"]
    view = decoder.static_views.get(key)
    if view is None:
        view = decoder.static_views[key] = _slice(decoder, op, source)
    decoder.views[op.results[0]] = view


def _slice(decoder: Decoder, op: ir.Operation, source: View) -> View:
    offsets, sizes, steps = _parameters(decoder, op)
    total, shape, strides = source.offset, [], []
    for d, (offset, n, s) in enumerate(zip(offsets, sizes, steps, strict=True)):
        message = _leaves(decoder, op, source, d)
        decoder.check(offset, (n - 1) * s, source.shape[d], message, op)
        total = total + offset * source.strides[d]
        shape.append(n)
        strides.append(source.strides[d] * s)
    kept = kept_dims(shape, list(ir.MemRefType(op.results[0].type).shape))
    return View(
        source.root,
        total,
        tuple(shape[d] for d in kept),
        tuple(strides[d] for d in kept),
        source.dtype,
    )


def _parameters(
    decoder: Decoder, op: ir.Operation
) -> tuple[list[Linear], tuple[int, ...], tuple[int, ...]]:
    """Return offsets, sizes and strides of a window."""
    operands: list[Any] = [None, *(decoder.index(v) for v in list(op.operands)[1:])]
    offsets, sizes, steps = (
        [x if isinstance(x, Linear) else Linear(x) for x in group]
        for group in slice_parameters(op, operands)
    )
    if any(not x.is_constant for x in (*sizes, *steps)):
        raise SimulationError(f"sizes and strides of '{op.name}' must be constant", op=op)
    return offsets, tuple(x.constant for x in sizes), tuple(x.constant for x in steps)


def where(view: View) -> str:
    """Say which buffer a view lies in."""
    root = view.root
    return (
        f"{root.place} in {root.memory.name}"
        if isinstance(root, Alloc)
        else f"'{root.name}' in DRAM"
    )


def _leaves(
    decoder: Decoder, op: ir.Operation, source: View, dimension: int
) -> Callable[[int, int], str]:
    def message(low: int, high: int) -> str:
        extent = source.shape[dimension]
        return (
            f"{op.name} in @{decoder.name} reaches [{low}, {high}] in dimension {dimension} of "
            f"extent {extent} of {where(source)}"
        )

    return message


def _expand(decoder: Decoder, op: ir.Operation) -> None:
    source = decoder.view(op.operands[0])
    shape = tuple(ir.MemRefType(op.results[0].type).shape)
    strides = expanded_strides(source.strides, shape, reassociation(op))
    decoder.views[op.results[0]] = View(source.root, source.offset, shape, strides, source.dtype)


def _collapse(decoder: Decoder, op: ir.Operation) -> None:
    source, groups = decoder.view(op.operands[0]), reassociation(op)
    apart = gap(source.shape, source.strides, groups)
    if apart:
        raise SimulationError(
            f"'{op.name}' in @{decoder.name} joins dimensions {apart[0]} and {apart[1]} of "
            f"{where(source)}, which do not continue each other",
            op=op,
        )
    shape, strides = collapsed(source.shape, source.strides, groups)
    decoder.views[op.results[0]] = View(source.root, source.offset, shape, strides, source.dtype)


def _transpose(decoder: Decoder, op: ir.Operation) -> None:
    source, order = decoder.view(op.operands[0]), permutation(op)
    shape = tuple(source.shape[d] for d in order)
    strides = tuple(source.strides[d] for d in order)
    decoder.views[op.results[0]] = View(source.root, source.offset, shape, strides, source.dtype)


def _reinterpret(decoder: Decoder, op: ir.Operation) -> None:
    source = decoder.view(op.operands[0])
    if len(op.operands) > 1:
        decoder.views[op.results[0]] = _window(decoder, op, source)
        return
    key = source, op.results[0].type
    view = decoder.static_views.get(key)
    if view is None:
        view = decoder.static_views[key] = _window(decoder, op, source)
    decoder.views[op.results[0]] = view


def _window(decoder: Decoder, op: ir.Operation, source: View) -> View:
    type_ = ir.MemRefType(op.results[0].type)
    shape = tuple(type_.shape)
    steps, start = type_.get_strides_and_offset()
    strides, offset = tuple(steps), Linear(start)
    if len(op.operands) > 1:
        (offset, *_), shape, strides = _parameters(decoder, op)
    reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    root = source.root
    count = prod(root.shape)

    def message(low: int, high: int) -> str:
        return (
            f"{op.name} in @{decoder.name} reaches elements [{low}, {high}] of {where(source)}, "
            f"which has {count}"
        )

    decoder.check(offset, reach, count, message, op)
    return View(root, offset, shape, strides, source.dtype)


def _same_view(decoder: Decoder, op: ir.Operation) -> None:
    decoder.views[op.results[0]] = decoder.view(op.operands[0])


HANDLERS: dict[str, Handler] = {
    "npu.alloc": _alloc,
    "memref.subview": _subview,
    "memref.expand_shape": _expand,
    "memref.collapse_shape": _collapse,
    "memref.transpose": _transpose,
    "memref.reinterpret_cast": _reinterpret,
    "memref.cast": _same_view,
}
