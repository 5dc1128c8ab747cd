"""Gives buffers in loops several places to take in turn, so that loads, computation and stores
overlap.

While the engines work on one tile, the next comes in through the second place of its buffer and the
one before goes out.
"""

from __future__ import annotations

from polystage.dialects.npu.queues import queue_of
from polystage.dialects.npu.views import defining_op
from polystage.mlir import func, ir


def rotate_buffers(kernel: func.FuncOp, depth: int) -> int:
    """Let every buffer in a loop that hands data from one queue to another have `depth` places, at
    most one for each execution; return how many have more than one.

    "npu.alloc"()  ->  "npu.alloc"() {buffers = 2 : i64}

    What one engine both writes and reads needs no second place: it works in order.
    """
    if depth == 1:
        return 0
    rotated = 0
    i64 = ir.IntegerType.get_signless(64, kernel.context)
    for op, executions in _allocs(kernel.entry_block, 1):
        count = min(depth, executions)
        if count > 1 and len(_queues(op)) > 1:
            op.attributes["buffers"] = ir.IntegerAttr.get(i64, count)
            rotated += 1
    return rotated


def _allocs(block: ir.Block, executions: int) -> list[tuple[ir.Operation, int]]:
    """Return the buffers of a block, each with how often it is allocated in a call."""
    found: list[tuple[ir.Operation, int]] = []
    for view in block.operations:
        op = view.operation
        if op.name == "npu.alloc":
            found.append((op, executions))
        for region in op.regions:
            for inner in region.blocks:
                found += _allocs(inner, executions * trip_count(op))
    return found


def trip_count(loop: ir.Operation) -> int:
    """Return the iterations of an `scf.for` with constant bounds."""
    start, stop, step = (_constant(value) for value in list(loop.operands)[:3])
    return max(0, -(-(stop - start) // step))


def _constant(value: ir.Value) -> int:
    op = defining_op(value)
    assert op is not None, "bounds of loops in kernels are constants"
    return ir.IntegerAttr(op.attributes["value"]).value


def users_of(op: ir.Operation) -> list[tuple[ir.Operation, ir.Value]]:
    """Return the instructions that use a buffer, directly or through views, each with the operand
    by which it does."""
    users: list[tuple[ir.Operation, ir.Value]] = []
    for result in op.results:
        for use in result.uses:
            user = use.owner.operation
            if user.name.startswith("memref."):
                users += users_of(user)
            else:
                users.append((user, result))
    return users


def _queues(alloc: ir.Operation) -> set[str]:
    """Return the queues that use a buffer; transfers to it and from it are in different ones."""
    return {_queue(user, value) for user, value in users_of(alloc)}


def _queue(user: ir.Operation, value: ir.Value) -> str:
    if user.name == "npu.dma":
        return "load" if user.operands[1] == value else "store"
    return queue_of(user) or user.name
