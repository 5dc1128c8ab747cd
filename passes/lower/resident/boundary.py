"""What crosses the boundary of a resident group, and what time the group saves."""

from __future__ import annotations

from math import prod

from polystage.dialects.npu.views import defining_op
from polystage.dtypes import byte_width
from polystage.machine import cost
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.resident.groups import ResidentGroup
from polystage.passes.lower.resident.layout import Layout
from polystage.passes.lower.resident.reading import users_of

Reached = dict[ir.Value, ir.Operation]
"""Arrays, each with an operation that touches it."""


def inputs_of(group: ResidentGroup) -> Reached:
    """Return the arrays that a group reads before it writes them."""
    found: Reached = {}
    written: set[ir.Value] = set()
    for operator in group.operators:
        read = [window.array for window, _, _ in operator.reads]
        read += [product.moving.array for product in operator.weighted if product.packed]
        found |= {array: operator.ops[-1] for array in read if array not in written}
        written.add(operator.output.array)
    return found


def outputs_of(group: ResidentGroup) -> Reached:
    """Return the arrays that a group writes and others use."""
    mine = {op for operator in group.operators for op in operator.ops}
    return {
        operator.output.array: operator.ops[-1]
        for operator in group.operators
        if defining_op(operator.output.array) is None
        or any(user not in mine for user in users_of(operator.output.array))
    }


def saved_ns(group: ResidentGroup, target: Target) -> float:
    """Estimate the time that a group saves: that of the transfers of arrays that stay on chip, less
    what others take longer because memory has them in another order.

    Where channels are the innermost dimension, every element comes with a descriptor of its own.
    """
    outputs = outputs_of(group)
    saved = 0.0
    for operator in group.operators:
        array = operator.output.array
        if array not in outputs:
            transfer = cost.dram_bound_ns(target, _bytes(group.layouts[array]))
            saved += 2 * (transfer + target.dma.startup_ns)
    crossing = {**inputs_of(group), **outputs}
    layouts = [group.layouts[array] for array in crossing if array in group.layouts]
    return saved - sum(_delay_ns(layout, target) for layout in layouts)


def _delay_ns(layout: Layout, target: Target) -> float:
    """Return how much longer the transfer of an array takes than one of long runs."""
    total, width = _bytes(layout), byte_width(layout.element_type)
    in_memory = prod(layout.shape[layout.partition + 1 :]) * width
    has_border = layout.fill is not None
    on_chip = (layout.shape[layout.free[-1]] if has_border else in_memory) * width
    return cost.dma(target, total, in_memory, on_chip).busy_ns - cost.dram_bound_ns(target, total)


def _bytes(layout: Layout) -> int:
    return prod(layout.shape) * byte_width(layout.element_type)
