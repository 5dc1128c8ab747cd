"""Fills that only initialise what the next operation accumulates into: they cost no kernel."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.program_order import Order, touches


def initialising_fills(
    operations: Sequence[ir.Operation],
) -> dict[ir.Operation, tuple[ir.Operation, Initial]]:
    """Return, for every fill that needs no kernel, the operation that accumulates into the filled
    buffer, and the constant.

    Not among them are fills of buffers at which anything may look in between. `operations` are in
    program order.
    """
    found: dict[ir.Operation, tuple[ir.Operation, Initial]] = {}
    order: Order | None = None
    for op in operations:
        value = _filled_value(op)
        if value is None:
            continue
        if order is None or order.block != op.block:
            order = Order(op.block)
        consumer = _accumulation(op, order)
        if consumer is not None:
            found[op] = (consumer, Initial(value))
    return found


def _accumulation(op: ir.Operation, order: Order) -> ir.Operation | None:
    """Return the operation that accumulates into what `op` fills, if that is its next user."""
    buffer = op.opview.outputs[0]
    consumer = _next_user(op, buffer, order)
    if consumer is None or consumer.name != "linalg.generic":
        return None
    generic = GenericOp.from_op(consumer.opview)
    outputs = [o for o in generic.outputs if consumer.operands[o.argument] == buffer]
    if len(generic.outputs) != 1 or len(outputs) != 1:
        return None
    if any(touches(consumer.operands[i.argument], buffer) for i in generic.inputs):
        return None
    covered = all(
        x.single is not None or n == 1
        for x, n in zip(outputs[0].index, outputs[0].shape, strict=True)
    )
    return consumer if covered else None


def _filled_value(op: ir.Operation) -> float | int | None:
    """Return the constant that a linalg.generic writes everywhere, or None."""
    if op.name != "linalg.generic" or len(op.opview.outputs) != 1:
        return None
    yielded = list(op.regions[0].blocks[0].operations)[-1].operands[0]
    constant = defining_op(yielded)
    if constant is None or constant.name != "arith.constant":
        return None
    map_ = ir.AffineMapAttr(op.opview.indexing_maps[len(op.operands) - 1]).value
    if not map_.is_permutation:
        return None
    return constant.attributes["value"].value


def _next_user(op: ir.Operation, value: ir.Value, order: Order) -> ir.Operation | None:
    """Return the user of `value` that comes next after `op`, if all its other users come later in
    the same block and nothing touches its elements through other names before."""
    users = [use.owner.operation for use in value.uses]
    if any(user not in order.place for user in users):
        return None
    own = order.place[op]
    places = [order.place[user] for user in users if user != op]
    if not places or min(places) < own:
        return None
    if order.is_touched(value, own + 1, min(places)):
        return None
    return order.operations[min(places)]
