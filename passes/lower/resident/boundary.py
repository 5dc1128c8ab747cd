"""What time a resident group saves."""

from __future__ import annotations

from math import prod

from polystage.dtypes import byte_width
from polystage.machine import cost
from polystage.machine.target import Target
from polystage.passes.lower.resident.crossing import inputs_of, outputs_of
from polystage.passes.lower.resident.groups import ResidentGroup
from polystage.passes.lower.resident.layout import Layout


def saved_ns(group: ResidentGroup, target: Target) -> float:
    """Estimate the time that a group saves: that of the transfers of arrays that stay on chip, less
    what others take longer because memory has them in another order.

    Where channels are the innermost dimension, and the array is not turned on chip, every element
    comes with a descriptor of its own.
    """
    outputs = outputs_of(group.operators)
    saved = 0.0
    for operator in group.operators:
        array = operator.output.array
        if array not in outputs:
            transfer = cost.dram_bound_ns(target, _bytes(group.layouts[array]))
            saved += 2 * (transfer + target.dma.startup_ns)
    crossing = {**inputs_of(group.operators), **outputs}
    return saved - sum(
        _delay_ns(group.layouts[array], array in group.turned, target)
        for array in crossing
        if array in group.layouts
    )


def _delay_ns(layout: Layout, turned: bool, target: Target) -> float:
    """Return how much longer the transfer of an array takes than one of long runs."""
    total, width = _bytes(layout), byte_width(layout.element_type)
    if layout.partition is None:
        return 0.0
    if turned:
        row = layout.shape[layout.partition] * width
        return cost.dma(target, total, row, row).busy_ns - cost.dram_bound_ns(target, total)
    in_memory = prod(layout.shape[layout.partition + 1 :]) * width
    has_border = layout.fill is not None
    on_chip = (layout.shape[layout.free[-1]] if has_border else in_memory) * width
    return cost.dma(target, total, in_memory, on_chip).busy_ns - cost.dram_bound_ns(target, total)


def _bytes(layout: Layout) -> int:
    return prod(layout.shape) * byte_width(layout.element_type)
