"""Queues of a core, by name: one for each compute engine, then those of the DMA engines."""

from __future__ import annotations

import re

from polystage.dialects.npu.attributes import ENGINES, attribute_name
from polystage.machine.target import Target
from polystage.mlir import ir

SEMAPHORES = "npu.semaphores"
"""Attribute of a module: the initial value of every semaphore."""

_ENGINE_OF = {
    "npu.matmul": "tensor",
    "npu.transpose": "tensor",
    "npu.activate": "scalar",
    "npu.iota": "gpsimd",
    "npu.gather": "gpsimd",
}


def queue_names(target: Target) -> tuple[str, ...]:
    """Return the queues of a target: `tensor vector scalar gpsimd dma0 ..`."""
    return (*ENGINES, *dma_queue_names(target))


def dma_queue_names(target: Target) -> tuple[str, ...]:
    """Return the DMA queues of a target: `dma0 ..`."""
    return tuple(f"dma{i}" for i in range(target.dma.queues))


def is_dma_queue_name(name: str) -> bool:
    """Say whether a name is that of a DMA queue of some target."""
    return re.fullmatch(r"dma(0|[1-9][0-9]*)", name) is not None


def queue_of(op: ir.Operation) -> str | None:
    """Return the queue that executes an operation; None where none does, as for views, or where a
    transfer has none yet."""
    if op.name in _ENGINE_OF:
        return _ENGINE_OF[op.name]
    if not op.name.startswith("npu."):
        return None
    if "engine" in op.attributes:
        return attribute_name(op.attributes["engine"])
    return ir.StringAttr(op.attributes["queue"]).value if "queue" in op.attributes else None


def semaphores_of(module: ir.Operation) -> list[int] | None:
    """Return the initial values of a module's semaphores, or None where it declares none."""
    attribute = module.attributes.get(SEMAPHORES, None)
    return list(attribute) if isinstance(attribute, ir.DenseI64ArrayAttr) else None
