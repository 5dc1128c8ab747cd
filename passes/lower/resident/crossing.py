"""What crosses the border of a run of resident operators."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.dialects.npu.overlay import is_overlay
from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir
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
