"""npu.signal and npu.wait: which queue waits for which."""

from __future__ import annotations

from polystage.dialects.npu.queues import queue_of
from polystage.errors import SimulationError
from polystage.mlir import ir
from polystage.simulator.decode import Decoder, Handler
from polystage.simulator.instructions import NO_TIME, Instruction
from polystage.simulator.trace import SIGNAL, WAIT


def _add(decoder: Decoder, op: ir.Operation, kind: int) -> None:
    """Add a signal or a wait; orders other than the concurrent one need none."""
    program = decoder.program
    if not program.concurrent:
        return
    queue = queue_of(op)
    assert queue is not None
    semaphore = ir.IntegerAttr(op.attributes["semaphore"]).value
    other = program.sides.setdefault((semaphore, kind), queue)
    if other != queue:
        verb = "signalled by" if kind == SIGNAL else "waited on in"
        raise SimulationError(
            f"semaphore {semaphore} is {verb} queue '{queue}' in @{decoder.name}, "
            f"and '{other}' elsewhere",
            help="a semaphore has one queue on each side; use one for every pair",
            op=op,
        )
    decoder.count("instructions", op.name)
    number = program.queues.number(queue)
    decoder.add(Instruction(decoder.place(op), kind, number, NO_TIME, semaphore=semaphore))


HANDLERS: dict[str, Handler] = {
    "npu.signal": lambda decoder, op: _add(decoder, op, SIGNAL),
    "npu.wait": lambda decoder, op: _add(decoder, op, WAIT),
}
