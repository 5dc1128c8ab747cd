"""npu.dma and npu.gather: operands, cost, numbers."""

from __future__ import annotations

from math import prod

from polystage.errors import SimulationError
from polystage.machine import access as shapes
from polystage.machine import cost
from polystage.mlir import ir
from polystage.simulator.access import DramAccess, View, plain_walk
from polystage.simulator.decode import Decoder, Handler
from polystage.simulator.instructions import (
    Dma,
    Gather,
)
from polystage.simulator.memory import ChipBuffer
from polystage.simulator.operands import (
    chip,
    count_bytes,
    free_run,
    operand,
    raw,
)


def _dma(decoder: Decoder, op: ir.Operation) -> None:
    source, destination = (decoder.view(v) for v in op.operands)
    cause = ir.StringAttr(op.attributes["cause"]).value
    add_transfer(decoder, op, source, destination, cause)


def add_transfer(
    decoder: Decoder, op: ir.Operation, source: View, destination: View, cause: str
) -> None:
    """Add a DMA from one view to another."""
    pairs = zip(source.shape, destination.shape, strict=False)
    if len(source.shape) != len(destination.shape) or any(a not in (1, b) for a, b in pairs):
        raise SimulationError(
            f"'{op.name}' cannot copy shape {list(source.shape)} to {list(destination.shape)}",
            op=op,
        )
    machine, size = decoder.program.machine, destination.dtype.itemsize
    repeated = _repeated(source, destination.shape)
    total = prod(destination.shape) * size
    if total == 0:
        return
    in_dram = [not isinstance(v.root, ChipBuffer) for v in (source, destination)]
    time = cost.dma(
        machine.target,
        total,
        free_run(repeated) * size,
        free_run(destination) * size,
        dram_sides=sum(in_dram),
    )
    _count_transfer(decoder, op, source, destination, total, cause)
    accesses = [operand(decoder, op, raw(v)) for v in (source, destination)]
    group = "store" if in_dram[1] else "copy"
    if in_dram[0] and not in_dram[1]:
        group = "weight" if cause == "weight" else "load"
    if all(in_dram):
        group = "copy"
    queue = machine.queue_of(group, decoder.transfers[group])
    decoder.transfers[group] += 1
    decoder.out.append(
        Dma(
            machine,
            queue,
            time,
            accesses[0],
            accesses[1],
            decoder.place(op),
            decoder.program.numerics,
        )
    )


def _repeated(source: View, shape: tuple[int, ...]) -> View:
    """Return the source as it is read: extents of 1 repeated with stride 0."""
    strides = tuple(
        0 if n == 1 and wanted > 1 else s
        for n, wanted, s in zip(source.shape, shape, source.strides, strict=True)
    )
    return View(source.root, source.offset, shape, strides, source.dtype)


def _count_transfer(
    decoder: Decoder,
    op: ir.Operation,
    source: View,
    destination: View,
    total: int,
    cause: str,
) -> None:
    decoder.count("instructions", op.name)
    sides = [not isinstance(v.root, ChipBuffer) for v in (source, destination)]
    for view, what, in_dram in zip((source, destination), ("read", "write"), sides, strict=True):
        if isinstance(view.root, ChipBuffer):
            decoder.count("sbuf", by=total)
        else:
            decoder.count(f"dram_{what}", cause, by=total)
            decoder.count(f"slot_{what}", str(view.root.slot), by=total)
        if in_dram and cause == "copy":
            decoder.count("offchip_copy", by=total)
    if not any(sides):
        decoder.count("onchip_copy", by=total)


def _gather(decoder: Decoder, op: ir.Operation) -> None:
    table, out, *rest = (decoder.view(v) for v in op.operands)
    machine = decoder.program.machine
    indices = [chip(decoder, op, v) for v in rest]
    destination = chip(decoder, op, out)
    if isinstance(table.root, ChipBuffer):
        raise SimulationError("the table of 'npu.gather' must lie in DRAM", op=op)
    count, size = prod(rest[0].shape), table.dtype.itemsize
    slice_shape, slice_strides = table.shape[len(rest) :], table.strides[len(rest) :]
    lead = len(rest[0].shape)
    run = min(
        shapes.contiguous_run(slice_shape, slice_strides),
        shapes.contiguous_run(out.shape[lead:], out.strides[lead:]),
    )
    slice_bytes = prod(slice_shape) * size
    times = cost.gather(machine.target, count, slice_bytes, run * size)
    total = count * slice_bytes
    decoder.count("instructions", op.name)
    decoder.count("operations", "gpsimd", by=count)
    decoder.count("sbuf", by=total)
    decoder.count("dram_read", "gather", str(table.root.slot), by=total)
    decoder.count("slot_read", str(table.root.slot), by=total)
    count_bytes(decoder, *indices)
    decoder.out.append(
        Gather(
            machine,
            machine.queue_of("load", decoder.transfers["load"]),
            (times.gpsimd, times.dma),
            DramAccess(table, plain_walk(table)),
            indices,
            destination,
            decoder.place(op),
            decoder.program.numerics,
        )
    )


HANDLERS: dict[str, Handler] = {
    "npu.dma": _dma,
    "npu.gather": _gather,
}
