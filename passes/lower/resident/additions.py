"""Decides which engine adds arrays to sums of contractions.

As a product by an identity, an addition takes the array one step more for every column; the vector
engine takes longer for it, reading psum and sbuf at once, but runs beside the array.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from math import ceil, prod

from polystage.dtypes import cost_dtype
from polystage.machine import cost
from polystage.machine.lane_passes import LaneOperand, LaneOperation, lane_passes
from polystage.machine.target import Target
from polystage.passes.lower.resident.batches import batch_dims
from polystage.passes.lower.resident.layout import partitions_of
from polystage.passes.lower.resident.operators import Fold, Product, ResidentOperator, Sum
from polystage.passes.lower.resident.packing import packing_of


def divide_additions(
    operators: Sequence[ResidentOperator], target: Target
) -> list[ResidentOperator]:
    """Return the operators of a group, with what the vector engine adds.

    It adds where a group has several images, and it has less to do altogether than the array: what
    it does for one of them hides behind contractions of another. In a group of one image, all that
    comes behind a sum would wait longer for it.
    """
    if batch_dims(operators) is None:
        return list(operators)
    adding = [o for o in operators if isinstance(o, Sum) and o.products and o.addends]
    array_ns = sum(_products_ns(o, target) for o in operators if isinstance(o, Sum))
    vector_ns = sum(_fold_ns(o, target) for o in operators if isinstance(o, Fold))
    vector_ns += sum(_addition_ns(o, target) for o in adding)
    if vector_ns > array_ns:
        return list(operators)
    return [replace(o, vector_adds=True) if o in adding else o for o in operators]


def _row_tiles(operator: Sum | Fold, target: Target) -> int:
    return ceil(operator.output.shape[operator.partition] / partitions_of(target))


def _columns(operator: Sum) -> int:
    return prod(operator.output.shape) // operator.output.shape[operator.partition]


def _products_ns(operator: Sum, target: Target) -> float:
    """Return the time of the array for the products of a sum."""
    if not operator.products:
        return 0.0
    dtype = cost_dtype(operator.products[0].moving.element_type)
    cycles = cost.stream_cycles(target, _columns(operator), dtype)
    steps = sum(_matmuls(product, target) for product in operator.products)
    return _row_tiles(operator, target) * steps * cycles / target.tensor.clock_ghz


def _matmuls(product: Product, target: Target) -> int:
    """Return how many matmuls a tile of the result takes."""
    packing = packing_of(product, target) if product.packed else None
    if packing is not None:
        return packing.matmuls
    taps = prod(product.extents[d] for d in product.taps)
    return taps * ceil(product.channels / partitions_of(target))


def _addition_ns(operator: Sum, target: Target) -> float:
    """Return the time of the vector engine to add an array in sbuf to what is in psum."""
    addition = LaneOperation("arith.addf", ("sum", "addend"), "result")
    operands: dict[Hashable, LaneOperand] = {
        "sum": LaneOperand(in_psum=True),
        "addend": LaneOperand(),
    }
    passes = lane_passes(target.vector, [addition], operands, {"result": LaneOperand()})
    columns = _columns(operator)
    spent = cost.lanes(target, "vector", columns, passes=passes, uses_psum=True)
    return _row_tiles(operator, target) * spent.busy_ns


def _fold_ns(operator: Fold, target: Target) -> float:
    elements = prod(operator.extents) // operator.output.shape[operator.partition]
    return _row_tiles(operator, target) * cost.lanes(target, "vector", elements).busy_ns
