"""Which queue executes an instruction, and which ports it needs to itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from polystage.dialects.npu.queues import queue_names
from polystage.machine.target import Target
from polystage.simulator.trace import COMPUTE_QUEUES, PORT_BITS

QUEUE_CLASSES = ("load", "weight", "store", "copy")


class Queues:
    """The queues of a target, and the ports that engines of one program exclude each other from."""

    def __init__(self, target: Target, used_engines: Iterable[str]) -> None:
        used = set(used_engines)
        self.names = queue_names(target)
        self._exclusive = {
            memory: {e for e in engines if e in used}
            for memory, engines in (
                ("sbuf", target.sbuf.exclusive_engines),
                ("psum", target.psum.exclusive_engines),
            )
        }

    def number(self, name: str) -> int:
        """Return the number of a queue."""
        return self.names.index(name)

    def dma_queue(self, queue_class: str, instruction: int) -> int:
        """Return the queue of the i-th transfer of its class in a kernel that names none.

        Every class has its share of the queues, so that what waits for a result to store does not
        hold up what loads the next operand; of two queues, one is for loads.
        """
        first_dma = len(COMPUTE_QUEUES)
        count = len(self.names) - first_dma
        share = max(1, count // len(QUEUE_CLASSES))
        first = QUEUE_CLASSES.index(queue_class) * count // len(QUEUE_CLASSES)
        return first_dma + first + instruction % share

    def ports(self, engine: str, memories: Collection[str]) -> int:
        """Return the bits of the ports that an engine must have to itself to use `memories`."""
        bits = 0
        for memory in memories:
            exclusive = self._exclusive[memory]
            if engine in exclusive and len(exclusive) > 1:
                bits |= PORT_BITS[memory]
        return bits
