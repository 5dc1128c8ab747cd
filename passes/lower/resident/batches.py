"""Operators that do the same for every part of a batch: a group of them runs part by part where
not all of the batch fits on chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from polystage.mlir import ir
from polystage.passes.lower.resident.operators import Fold, Product, ResidentOperator, Sum
from polystage.passes.lower.resident.windows import Window, matching_dims

BatchDims = Mapping[ir.Value, int]
"""The dimension of every array that the batch is."""


def batch_dims(operators: Sequence[ResidentOperator]) -> BatchDims | None:
    """Return a dimension of every array along which the operators are independent, or None.

    Part i of each array is made of the parts i of others alone, so that parts can be computed one
    after the other, by all operators each.
    """
    run = [operator for operator in operators if isinstance(operator, Sum | Fold)]
    if len(run) != len(operators):
        return None
    for dim, extent in enumerate(run[0].output.shape):
        if extent > 1 and dim != run[0].partition:
            found = _follow(run, {run[0].output.array: dim}, extent)
            if found is not None:
                return found
    return None


def cut_operators(
    operators: Sequence[ResidentOperator], dims: BatchDims, size: int
) -> list[ResidentOperator]:
    """Return the operators on parts of `size` of a batch."""
    return [
        _cut(operator, dims, size) for operator in operators if isinstance(operator, Sum | Fold)
    ]


def _follow(
    operators: Sequence[Sum | Fold], dims: dict[ir.Value, int], extent: int
) -> BatchDims | None:
    """Return the dimensions of all arrays that belong to those of the first, or None where some
    operator combines different parts, or arrays have more or fewer."""
    for operator in operators:
        pairs = list(_pairs(operator, dims))
        if operator.output.array not in dims or any(dim is None for _, dim in pairs):
            return None
        for array, dim in pairs:
            assert dim is not None
            if dims.setdefault(array, dim) != dim:
                return None
        if operator.output.shape[dims[operator.output.array]] != extent:
            return None
    return dims


def _pairs(
    operator: Sum | Fold, dims: dict[ir.Value, int]
) -> Sequence[tuple[ir.Value, int | None]]:
    """Return, for every array that an operator reads, the dimension that the output's batch is
    there; where the output is not known yet, it follows from a known operand."""
    output = operator.output.array
    if isinstance(operator, Fold):
        known = dims.get(operator.source.array)
        if output not in dims and known is not None:
            loop = operator.source.index[known].single
            found = None if loop is None else operator.output.dim_of(loop)
            if found is not None:
                dims[output] = found
        if output not in dims:
            return ()
        loop = operator.output.index[dims[output]].single
        return [(operator.source.array, None if loop is None else operator.source.dim_of(loop))]
    if output not in dims:
        _from_operands(operator, dims)
    if output not in dims:
        return ()
    loops = [
        (p, d) for p in operator.products for d, dim in p.columns.items() if dim == dims[output]
    ]
    pairs = [(p.moving.array, p.moving.dim_of(d)) for p, d in loops]
    missing = len(operator.products) - len(loops)
    pairs += [(output, None)] * missing
    return pairs + [(w.array, operator.dim_of_addend(w, dims[output])) for w in operator.addends]


def _from_operands(operator: Sum, dims: dict[ir.Value, int]) -> None:
    """Note the output's dimension where an operand's is known."""
    for addend in operator.addends:
        matching = matching_dims(addend, operator.output) or {}
        known = dims.get(addend.array)
        if known is not None and known in matching:
            dims[operator.output.array] = matching[known]
            return
    for product in operator.products:
        known = dims.get(product.moving.array)
        loop = None if known is None else product.moving.index[known].single
        if loop in product.columns:
            dims[operator.output.array] = product.columns[loop]
            return


def _cut(operator: Sum | Fold, dims: BatchDims, size: int) -> ResidentOperator:
    output = _cut_window(operator.output, dims, size)
    if isinstance(operator, Fold):
        loop = operator.output.index[dims[operator.output.array]].single
        extents = tuple(size if d == loop else n for d, n in enumerate(operator.extents))
        source = _cut_window(operator.source, dims, size)
        return replace(operator, output=output, source=source, extents=extents)
    products = tuple(_cut_product(p, dims, operator, size) for p in operator.products)
    addends = tuple(_cut_window(w, dims, size) for w in operator.addends)
    return replace(operator, output=output, products=products, addends=addends)


def _cut_product(product: Product, dims: BatchDims, operator: Sum, size: int) -> Product:
    batch = [d for d, dim in product.columns.items() if dim == dims[operator.output.array]]
    extents = tuple(size if d in batch else n for d, n in enumerate(product.extents))
    return replace(product, extents=extents, moving=_cut_window(product.moving, dims, size))


def _cut_window(window: Window, dims: BatchDims, size: int) -> Window:
    return replace(window, cut=(dims[window.array], size))
