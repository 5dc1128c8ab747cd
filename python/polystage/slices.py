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
    """Return which dimensions of a slice stay in its type: all but surplus ones of size 1."""
    surplus = len(sizes) - len(shape)
    kept: list[int] = []
    for d, size in enumerate(sizes):
        wanted = shape[len(kept)] if len(kept) < len(shape) else None
        if (
            surplus
            and size == 1
            and (wanted != 1 or _fits_later(sizes[d + 1 :], shape[len(kept) :], surplus - 1))
        ):
            surplus -= 1
            continue
        kept.append(d)
    return kept


def _fits_later(sizes: Sequence[int], shape: Sequence[int], surplus: int) -> bool:
    """Say whether `sizes` can become `shape` by dropping `surplus` entries of 1."""
    if surplus < 0 or len(sizes) - surplus != len(shape):
        return False
    return [s for s in sizes if s != 1] == [s for s in shape if s != 1]


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
