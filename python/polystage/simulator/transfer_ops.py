"""npu.dma and npu.gather: operands, cost, numbers."""

from __future__ import annotations

from math import prod

from polystage.dialects.npu.queues import queue_of
from polystage.errors import SimulationError
from polystage.machine import access as shapes
from polystage.machine import cost
from polystage.mlir import ir
from polystage.simulator.access import Alloc, DramRef, DramWindow, View, plain_walk
from polystage.simulator.decode import Decoder, Handler
from polystage.simulator.instructions import Instruction, LookupFailure, Move, Numerics, Times
from polystage.simulator.memory import Array
from polystage.simulator.operands import chip, count_bytes, free_run, transferred
from polystage.simulator.trace import DMA, GATHER


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
    target, size = decoder.program.target, destination.dtype.itemsize
    total = prod(destination.shape) * size
    if total == 0:
        return
    runs = [free_run(v) * size for v in (_repeated(source, destination.shape), destination)]
    sides = sum(isinstance(v.root, DramRef) for v in (source, destination))
    time = cost.dma(target, total, *runs, dram_sides=sides)
    _count_transfer(decoder, op, source, destination, total, cause)
    read, written = (transferred(decoder, op, v) for v in (source, destination))
    decoder.add(
        Instruction(
            decoder.place(op),
            DMA,
            _queue(decoder, op, source, destination, cause),
            _transfer_times(decoder, time, sides * total),
            (read,),
            (written,),
            Move() if decoder.program.numerics else None,
        )
    )


def _transfer_times(
    decoder: Decoder, time: cost.Cost, dram_bytes: float, form_ns: float = 0.0
) -> Times:
    """Return the times of a transfer, whose start-up the timeline adds."""
    alone = cost.Cost(time.busy_ns, time.latency_ns - decoder.program.target.dma.startup_ns)
    return Times(alone, alone, form_ns, dram_bytes)


def _queue(decoder: Decoder, op: ir.Operation, source: View, destination: View, cause: str) -> int:
    """Return the queue that a transfer names, or else the one that its class gives it.

    Raises: SimulationError where it names none, but only queues and semaphores order the program.
    """
    queues, name = decoder.program.queues, queue_of(op)
    if name is not None:
        return queues.number(name)
    if decoder.program.concurrent:
        raise SimulationError(
            f"'{op.name}' in @{decoder.name} names no queue, which concurrent order needs",
            help='run npu-insert-sync, or simulate in order "interlocked"',
            op=op,
        )
    loads = isinstance(source.root, DramRef) and isinstance(destination.root, Alloc)
    stores = isinstance(source.root, Alloc) and isinstance(destination.root, DramRef)
    group = "store" if stores else "copy"
    if loads:
        group = "weight" if cause == "weight" else "load"
    decoder.transfers[group] += 1
    return queues.dma_queue(group, decoder.transfers[group] - 1)


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
    for view, what in ((source, "read"), (destination, "write")):
        if isinstance(view.root, Alloc):
            decoder.count("sbuf", by=total)
            continue
        decoder.count(f"dram_{what}", cause, by=total)
        decoder.count(f"slot_{what}", str(view.root.slot), by=total)
        if cause == "copy":
            decoder.count("offchip_copy", by=total)
    if isinstance(source.root, Alloc) and isinstance(destination.root, Alloc):
        decoder.count("onchip_copy", by=total)


class _LookUp(Numerics):
    def run(self, reads: list[Array], writes: list[Array], value: int) -> None:
        """Check every index, and fetch.

        Raises: LookupFailure for an index outside the table.
        """
        *indices, table = reads
        for d, index in enumerate(indices):
            least, greatest = int(index.min()), int(index.max())
            if least < 0 or greatest >= table.shape[d]:
                wrong = least if least < 0 else greatest
                raise LookupFailure(
                    f"looks up index {wrong} in dimension {d} of a table of extent {table.shape[d]}"
                )
        writes[0][...] = table[tuple(indices)]


def _gather(decoder: Decoder, op: ir.Operation) -> None:
    table, out, *rest = (decoder.view(v) for v in op.operands)
    target, queues = decoder.program.target, decoder.program.queues
    indices = [chip(decoder, op, v) for v in rest]
    destination = chip(decoder, op, out)
    if not isinstance(table.root, DramRef):
        raise SimulationError("the table of 'npu.gather' must lie in DRAM", op=op)
    count, size = prod(rest[0].shape), table.dtype.itemsize
    slice_shape, slice_strides = table.shape[len(rest) :], table.strides[len(rest) :]
    lead = len(rest[0].shape)
    run = min(
        shapes.contiguous_run(slice_shape, slice_strides),
        shapes.contiguous_run(out.shape[lead:], out.strides[lead:]),
    )
    slice_bytes = prod(slice_shape) * size
    times = cost.gather(target, count, slice_bytes, run * size)
    total = count * slice_bytes
    decoder.count("instructions", op.name)
    decoder.count("operations", "gpsimd", by=count)
    decoder.count("sbuf", by=total)
    decoder.count("dram_read", "gather", str(table.root.slot), by=total)
    decoder.count("slot_read", str(table.root.slot), by=total)
    count_bytes(decoder, *indices)
    decoder.add(
        Instruction(
            decoder.place(op),
            GATHER,
            queues.number("gpsimd"),
            _transfer_times(decoder, times.dma, total, times.gpsimd.busy_ns),
            (*indices, DramWindow(table, plain_walk(table))),
            (destination,),
            _LookUp() if decoder.program.numerics else None,
            queues.ports("gpsimd", {"sbuf"}),
        )
    )


HANDLERS: dict[str, Handler] = {
    "npu.dma": _dma,
    "npu.gather": _gather,
}
