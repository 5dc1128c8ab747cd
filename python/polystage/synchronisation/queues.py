"""Which DMA queue executes a transfer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from polystage.dialects.npu import space_of
from polystage.mlir import ir

CLASSES = ("load", "weight", "store", "copy")


def transfer_class(op: ir.Operation) -> str:
    """Return what a transfer is for: `load` or `weight` from DRAM, `store` to it, or `copy`."""
    source, destination = (space_of(v.type) == "dram" for v in op.operands)
    if source == destination:
        return "copy"
    if destination:
        return "store"
    return "weight" if ir.StringAttr(op.attributes["cause"]).value == "weight" else "load"


def class_queue(kind: str, queues: int) -> str:
    """Return the first of the queues that transfers of a class take."""
    return f"dma{CLASSES.index(kind) * queues // len(CLASSES)}"


def assign_queues(transfers: Iterable[ir.Operation], queues: int) -> int:
    """Give the transfers of a kernel queues in turn, and return how many had none.

    Every class has its share of the queues, so that what waits for a result to store does not hold
    up what loads the next operand; of two queues, one is for loads.
    """
    share = max(1, queues // len(CLASSES))
    seen: Counter[str] = Counter()
    for op in transfers:
        kind = transfer_class(op)
        first = CLASSES.index(kind) * queues // len(CLASSES)
        queue = first + seen[kind] % share
        if "queue" not in op.attributes:
            op.attributes["queue"] = ir.StringAttr.get(f"dma{queue}")
        seen[kind] += 1
    return seen.total()
