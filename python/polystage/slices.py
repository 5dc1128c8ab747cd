"""The parameters of subview-like operations, static ones and those that come from operands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
