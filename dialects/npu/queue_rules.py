"""The legality rules of queues, semaphores and rotating buffers.

As in `rules`, one rule is one function whose docstring is the rule.
"""

from __future__ import annotations

from polystage.dialects.npu.attributes import ENGINES
from polystage.dialects.npu.queues import (
    SEMAPHORES,
    dma_queue_names,
    is_dma_queue_name,
    queue_names,
    semaphores_of,
)
from polystage.machine.target import Target
from polystage.mlir import ir


def queue_is_a_name(op: ir.OpView) -> str | None:
    """`queue` names a compute engine or a DMA queue."""
    attribute = op.attributes["queue"]
    if not isinstance(attribute, ir.StringAttr):
        return f"has the queue {attribute}, which must be a string"
    name = attribute.value
    if name not in ENGINES and not is_dma_queue_name(name):
        return f"queue '{name}' does not exist, allowed are {', '.join(ENGINES)} and dma0, dma1, .."
    return None


def queue_is_of_the_target(op: ir.OpView, target: Target) -> str | None:
    """The target has the queue."""
    return _unknown(ir.StringAttr(op.attributes["queue"]).value, queue_names(target), target)


def dma_queue_is_a_name(op: ir.OpView) -> str | None:
    """`queue`, absent until `npu-insert-sync` has run, names a DMA queue."""
    if "queue" not in op.attributes:
        return None
    attribute = op.attributes["queue"]
    if not isinstance(attribute, ir.StringAttr):
        return f"has the queue {attribute}, which must be a string"
    if attribute.value in ENGINES:
        return f"queue '{attribute.value}' moves no data, allowed are dma0, dma1, .."
    if not is_dma_queue_name(attribute.value):
        return f"queue '{attribute.value}' does not exist, allowed are dma0, dma1, .."
    return None


def dma_queue_is_of_the_target(op: ir.OpView, target: Target) -> str | None:
    """The target has the DMA queue."""
    if "queue" not in op.attributes:
        return None
    return _unknown(ir.StringAttr(op.attributes["queue"]).value, dma_queue_names(target), target)


def _unknown(name: str, allowed: tuple[str, ...], target: Target) -> str | None:
    if name in allowed:
        return None
    return f"queue '{name}' does not exist, '{target.name}' has {', '.join(allowed)}"


def semaphore_is_declared(op: ir.OpView) -> str | None:
    """`semaphore` numbers one of the initial values in the module's `npu.semaphores`, none of them
    negative."""
    attribute = op.attributes["semaphore"]
    if not isinstance(attribute, ir.IntegerAttr):
        return f"has the semaphore {attribute}, which must be an integer"
    number = attribute.value
    if number < 0:
        return f"has semaphore {number}, but semaphores are numbered from 0"
    module = _module_around(op.operation)
    if module is None:
        return None
    values = semaphores_of(module)
    if values is None:
        return (
            f"has semaphore {number}, but the module declares none in {SEMAPHORES} = array<i64: ..>"
        )
    if number >= len(values):
        return f"has semaphore {number}, but {SEMAPHORES} of the module declares {len(values)}"
    if values[number] < 0:
        return f"has semaphore {number} of initial value {values[number]}, which must be at least 0"
    return None


def _module_around(op: ir.Operation | None) -> ir.Operation | None:
    while op is not None and op.name != "builtin.module":
        try:
            op = op.parent
        except ValueError:  # a clone that is in no block yet
            return None
    return op.operation if op is not None else None


def address_is_an_integer(op: ir.OpView) -> str | None:
    """`address`, absent until `npu-allocate-scratchpad` has run, and `hint` are integers."""
    for name in ("address", "hint"):
        value = op.attributes.get(name, None)
        if value is not None and not isinstance(value, ir.IntegerAttr):
            return f"has the {name} {value}, which must be an integer"
    return None


def alloc_rotates(op: ir.OpView) -> str | None:
    """`buffers` in a loop is the number of places that its executions take in turn, and
    `addresses` names them all, the first of which is `address`."""
    if "buffers" not in op.attributes:
        return "has addresses, but no buffers" if "addresses" in op.attributes else None
    attribute = op.attributes["buffers"]
    if not isinstance(attribute, ir.IntegerAttr) or attribute.value < 1:
        return f"has buffers = {attribute}, but needs a positive integer"
    count = attribute.value
    if count > 1 and not _is_in_a_loop(op.operation):
        return f"has {count} buffers, but is in no loop that takes them in turn"
    if "addresses" not in op.attributes:
        if count > 1 and "address" in op.attributes:
            return f"has {count} buffers, but only one address"
        return None
    addresses = op.attributes["addresses"]
    if not isinstance(addresses, ir.DenseI64ArrayAttr) or len(addresses) != count:
        return (
            f"has the addresses {addresses}, "
            f"but needs array<i64: ..> with one for each of {count} buffers"
        )
    first = op.attributes.get("address", None)
    if first is None or ir.IntegerAttr(first).value != addresses[0]:
        return f"has addresses that start with {addresses[0]}, which must be its address too"
    return None


def _is_in_a_loop(op: ir.Operation) -> bool:
    try:
        parent = op.parent
    except ValueError:  # a clone that is in no block yet
        return True
    return parent is None or parent.name == "scf.for"


def places_of(op: ir.OpView) -> list[int]:
    """Return the address of every place of an `npu.alloc`; none before placement."""
    if "addresses" in op.attributes:
        return list(ir.DenseI64ArrayAttr(op.attributes["addresses"]))
    return [ir.IntegerAttr(op.attributes["address"]).value] if "address" in op.attributes else []


def buffers_of(op: ir.OpView) -> int:
    """Return how many places the executions of an `npu.alloc` take in turn."""
    return ir.IntegerAttr(op.attributes["buffers"]).value if "buffers" in op.attributes else 1
