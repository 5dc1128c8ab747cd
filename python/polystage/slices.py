"""The parameters of view operations, static ones and those that come from operands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

from polystage.mlir import ir

DYNAMIC = ir.ShapedType.get_dynamic_size()


def static_or_dynamic(
    op: ir.Operation, attribute: str, dynamic: Iterable[Any], marker: int = DYNAMIC
) -> list[Any]:
    """Return the entries of `static_offsets` and the like; dynamic ones come from operands."""
    values = iter(dynamic)
    static = ir.DenseI64ArrayAttr(op.attributes[attribute])
    return [next(values) if entry == marker else entry for entry in static]


def segments(op: ir.Operation, values: Sequence[Any]) -> list[list[Any]]:
    """Return operands (or what stands for them) split by `operandSegmentSizes`."""
    groups, start = [], 0
    for size in ir.DenseI32ArrayAttr(op.attributes["operandSegmentSizes"]):
        groups.append(list(values[start : start + size]))
        start += size
    return groups


def kept_dims(sizes: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Return which dimensions of a slice stay in its type: all but surplus ones of size 1.

    >>> kept_dims([1, 1, 8, 1], [1, 8])
    [0, 2]
    """
    kept: list[int] = []
    for d, size in enumerate(sizes):
        if len(kept) < len(shape) and size == shape[len(kept)]:
            kept.append(d)
    return kept


def slice_parameters(
    op: ir.Operation, values: Sequence[Any], first_group: int = 1
) -> tuple[list[Any], list[Any], list[Any]]:
    """Return offsets, sizes and strides of a subview-like op, given what its operands are."""
    groups = segments(op, values)[first_group:]
    names = ("static_offsets", "static_sizes", "static_strides")
    offsets, sizes, strides = (
        static_or_dynamic(op, name, group) for name, group in zip(names, groups, strict=True)
    )
    return offsets, sizes, strides


def reassociation(op: ir.Operation) -> list[list[int]]:
    """Return the groups of dimensions that an expansion or collapse of a shape makes or joins."""
    groups = ir.ArrayAttr(op.attributes["reassociation"])
    return [[ir.IntegerAttr(d).value for d in ir.ArrayAttr(group)] for group in groups]


def expanded_strides(
    strides: Sequence[int], shape: Sequence[int], groups: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    """Return the strides of `shape`, of which each group divides a dimension with a stride.

    >>> expanded_strides([100, 1], [2, 3, 4], [[0], [1, 2]])
    (100, 4, 1)
    """
    result = [0] * len(shape)
    for stride, group in zip(strides, groups, strict=True):
        for d in reversed(group):
            result[d] = stride
            stride *= shape[d]
    return tuple(result)


def gap(
    shape: Sequence[int], strides: Sequence[int], groups: Sequence[Sequence[int]]
) -> tuple[int, int] | None:
    """Return the first two dimensions of a group that do not continue each other, if any do not.

    >>> gap([2, 3, 4], [100, 4, 1], [[0, 1], [2]])
    (0, 1)
    """
    for group in groups:
        for outer, inner in pairwise(_long(shape, group)):
            if strides[outer] != strides[inner] * shape[inner]:
                return outer, inner
    return None


def collapsed(
    shape: Sequence[int], strides: Sequence[int], groups: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return shape and strides when the dimensions of each group, without a `gap`, become one.

    >>> collapsed([2, 3, 4], [100, 4, 1], [[0], [1, 2]])
    ((2, 12), (100, 1))
    """
    last = [_long(shape, group)[-1:] for group in groups]
    return (
        tuple(prod(shape[d] for d in group) for group in groups),
        tuple(strides[dims[0]] if dims else 1 for dims in last),
    )


def _long(shape: Sequence[int], group: Sequence[int]) -> list[int]:
    """Return the dimensions of a group that have a stride worth the name: not those of extent 1."""
    return [d for d in group if shape[d] != 1] or list(group[-1:])


def permutation(op: ir.Operation) -> list[int]:
    """Return which dimension of its source each dimension of a transposed view is."""
    map_ = ir.AffineMapAttr(op.attributes["permutation"]).value
    return [ir.AffineDimExpr(e).position for e in map_.results]
