"""What crosses the border of a run of resident operators."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.dialects.npu.overlay import is_overlay
from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir
from polystage.passes.lower.program_order import Order, accessed, touches, writes
from polystage.passes.lower.resident.operators import REPLICATED, ResidentOperator
from polystage.passes.lower.resident.reading import users_of

Reached = dict[ir.Value, ir.Operation]
"""Arrays, each with an operation that touches it."""


def inputs_of(operators: Sequence[ResidentOperator]) -> Reached:
    """Return the arrays that a run of operators reads before it writes them."""
    found: Reached = {}
    written: set[ir.Value] = set()
    for operator in operators:
        read = [window.array for window, _, _ in operator.reads]
        read += [product.moving.array for product in operator.weighted if product.packed]
        found |= {array: operator.ops[-1] for array in read if array not in written}
        written.add(operator.output.array)
    return found


def obstacle_at_border(operators: Sequence[ResidentOperator]) -> str | None:
    """Return why a run of operators cannot be a group by itself, or None.

    What all partitions have alike has no such form in memory.
    """
    replicated = {o.output.array for o in operators if o.partition is REPLICATED}
    replicated |= {w.array for o in operators for w, dim, _ in o.reads if dim is REPLICATED}
    border = {*inputs_of(operators), *outputs_of(operators)}
    if any(is_overlay(array) for array in border):
        return "constants beside what an operation writes would cross the border of its group"
    if replicated & border:
        return "a statistic, which all partitions have alike, would cross the border of its group"
    return None


def outputs_of(operators: Sequence[ResidentOperator]) -> Reached:
    """Return the arrays that a run of operators writes and others use."""
    mine = {op for operator in operators for op in operator.ops}
    return {
        operator.output.array: operator.ops[-1]
        for operator in operators
        if defining_op(operator.output.array) is None
        or any(user not in mine for user in users_of(operator.output.array))
    }


def first_overtaken(runs: Sequence[Sequence[ResidentOperator]]) -> tuple[int, ir.Operation] | None:
    """Return the number of a run, each of which is carried out where its last operation stands, and
    an operation outside of it that it would wrongly come after; None where there is none."""
    if not runs:
        return None
    order = Order(runs[0][0].ops[0].block)
    mine = [{op for operator in run for op in operator.ops} for run in runs]
    time = dict(order.place)
    for ops in mine:
        time |= dict.fromkeys(ops, max(order.place[op] for op in ops))
    for number, ops in enumerate(mine):
        first, last = min(order.place[op] for op in ops), max(time[op] for op in ops)
        between = order.operations[first:last]
        overtaken = [op for op in between if op not in ops and time[op] < last and _computes(op)]
        for op in overtaken:
            before = [o for o in ops if order.place[o] < order.place[op]]
            if any(_depend(o, op) for o in before):
                return number, op
    return None


def _computes(op: ir.Operation) -> bool:
    return next(accessed(op), None) is not None


def _depend(op: ir.Operation, other: ir.Operation) -> bool:
    """Whether an element that both operations access is written by one of them."""
    return any(
        (writes(op, a) or writes(other, b)) and touches(a, b)
        for a in accessed(op)
        for b in accessed(other)
    )
