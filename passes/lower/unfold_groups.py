"""Gives the channels of grouped convolutions a dimension of their own."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import shape_of
from polystage.mlir import ir, memref
from polystage.passes.lower.generic_op import GenericOp, Linear
from polystage.passes.memref_types import expanded_type, reassociation


def unfold_groups(op: ir.Operation) -> None:
    """Split dimensions of inputs that a linalg.generic accesses at `group * size + channel`.

        x[t + k, g * 48 + c] on memref<177x768>  ->  x[t + k, g, c] on memref<177x16x48>

    Only then do the channels lie in a dimension that a contraction can put on the partitions. A
    group is a loop that other inputs walk too; windows such as `2 * h + k` are none.
    """
    generic = GenericOp.from_op(op.opview)
    for access in generic.inputs:
        others = {d for a in generic.inputs if a is not access for d in a.dims}
        dims = zip(access.index, access.shape, strict=True)
        groups = [_radix(generic, linear, extent, others) for linear, extent in dims]
        if any(groups):
            _unfold(op, access.argument, generic, groups)


def _radix(generic: GenericOp, linear: Linear, extent: int, walked: set[int]) -> list[int]:
    """Return the loops of an expression that runs through a dimension, outermost first, where they
    are groups and one channel; else nothing."""
    dims = sorted(linear.dims, key=lambda d: -linear.coefficients[d])
    reduced = [d for d in dims if d in generic.reductions]
    if len(dims) < 2 or linear.constant or len(reduced) != 1 or not walked.issuperset(dims):
        return []
    step = 1
    for d in reversed(dims):
        if linear.coefficients[d] != step:
            return []
        step *= generic.extents[d]
    return dims if step == extent else []


def _unfold(
    op: ir.Operation, number: int, generic: GenericOp, groups: Sequence[Sequence[int]]
) -> None:
    value = op.operands[number]
    shapes = [
        [generic.extents[d] for d in dims] if dims else [n]
        for dims, n in zip(groups, shape_of(value), strict=True)
    ]
    layers, _ = overlay.pieces(value)
    split = [i for i, shape in enumerate(shapes) if len(shape) > 1]
    if any(shape_of(source)[i] != prod(shapes[i]) for _, source in layers for i in split):
        return
    maps = [ir.AffineMapAttr(a).value for a in ir.ArrayAttr(op.attributes["indexing_maps"])]
    results: list[ir.AffineExpr] = []
    for expression, dims in zip(maps[number].results, groups, strict=True):
        results += [ir.AffineExpr.get_dim(d) for d in dims] or [expression]
    maps[number] = ir.AffineMap.get(maps[number].n_dims, 0, results)
    with ir.InsertionPoint(op), op.location:
        op.operands[number] = _expanded(value, shapes)
    op.attributes["indexing_maps"] = ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps])


def _expanded(value: ir.Value, shapes: Sequence[Sequence[int]]) -> ir.Value:
    """Return an array or an overlay with dimension i split into `shapes[i]`, where that is more
    than one."""
    if not overlay.is_overlay(value):
        return _split(value, shapes)
    layers, fill = overlay.pieces(value)
    whole = [n for shape in shapes for n in shape]
    result: ir.Value | None = None
    for offsets, source in reversed(layers):
        starts = [
            start
            for offset, shape in zip(offsets, shapes, strict=True)
            for start in (offset, *[0] * (len(shape) - 1))
        ]
        part = _split(source, shapes)
        result = overlay.overlay(part, starts, whole, result, fill if result is None else None)
    assert result is not None
    return result


def _split(source: ir.Value, shapes: Sequence[Sequence[int]]) -> ir.Value:
    sizes = [
        list(shape) if len(shape) > 1 else [n]
        for shape, n in zip(shapes, shape_of(source), strict=True)
    ]
    type_ = expanded_type(ir.MemRefType(source.type), sizes)
    groups = reassociation([len(size) for size in sizes])
    flat = [n for size in sizes for n in size]
    return memref.ExpandShapeOp(type_, source, groups, [], flat).result
