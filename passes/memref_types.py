"""Types of views on memrefs, as MLIR infers them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from polystage.dialects.npu.views import DYNAMIC
from polystage.mlir import ir


def row_major_strides(shape: Sequence[int]) -> list[int]:
    """Return the strides, in elements, of an array of `shape` without gaps, the last dim fastest.

    >>> row_major_strides([2, 3, 4])
    [12, 4, 1]
    """
    return [prod(shape[d + 1 :]) for d in range(len(shape))]


def window_type(
    source: ir.MemRefType,
    starts: Sequence[int],
    sizes: Sequence[int],
    steps: Sequence[int],
    kept: Sequence[int],
) -> ir.MemRefType:
    """Return the type of `source[start : start + size * step : step]` with the dimensions `kept`.

    A start that is not constant is `DYNAMIC`; in a dimension that only repeats, none matters.
    """
    strides, base = source.get_strides_and_offset()
    moving = [(s, d) for s, d in zip(starts, strides, strict=True) if d]
    offset = base + sum(s * d for s, d in moving)
    if DYNAMIC in (base, *(s for s, _ in moving)):
        offset = DYNAMIC
    return _view(source, [sizes[d] for d in kept], [strides[d] * steps[d] for d in kept], offset)


def transposed_type(source: ir.MemRefType, permutation: Sequence[int]) -> ir.MemRefType:
    """Return the type whose dimension i is dimension `permutation[i]` of `source`."""
    strides, offset = source.get_strides_and_offset()
    shape = [source.shape[d] for d in permutation]
    return _view(source, shape, [strides[d] for d in permutation], offset)


def expanded_type(source: ir.MemRefType, shapes: Sequence[Sequence[int]]) -> ir.MemRefType:
    """Return the type with dimension i split, row-major, into `shapes[i]`."""
    strides, offset = source.get_strides_and_offset()
    new_strides: list[int] = []
    for stride, shape in zip(strides, shapes, strict=True):
        new_strides += [stride * inner for inner in row_major_strides(shape)]
    return _reshaped(source, [s for shape in shapes for s in shape], new_strides, offset)


def collapsed_type(source: ir.MemRefType, groups: Sequence[int]) -> ir.MemRefType:
    """Return the type with runs of `groups[i]` adjacent, contiguous dimensions merged."""
    strides, offset = source.get_strides_and_offset()
    extents = list(source.shape)
    shape: list[int] = []
    new_strides: list[int] = []
    first = 0
    for count in groups:
        shape.append(prod(extents[first : first + count]))
        new_strides.append(_merged_stride(extents, strides, first, count))
        first += count
    return _reshaped(source, shape, new_strides, offset)


def reassociation(groups: Sequence[int]) -> ir.ArrayAttr:
    """Return the attribute that groups adjacent dimensions: [1, 2] is [[0], [1, 2]]."""
    i64 = ir.IntegerType.get_signless(64)
    rows: list[ir.Attribute] = []
    first = 0
    for count in groups:
        members = range(first, first + count)
        rows.append(ir.ArrayAttr.get([ir.IntegerAttr.get(i64, d) for d in members]))
        first += count
    return ir.ArrayAttr.get(rows)


def _view(
    source: ir.MemRefType, shape: Sequence[int], strides: Sequence[int], offset: int
) -> ir.MemRefType:
    with source.context:
        layout = ir.StridedLayoutAttr.get(offset, list(strides))
        return _type(source, shape, layout)


def _reshaped(
    source: ir.MemRefType, shape: Sequence[int], strides: Sequence[int], offset: int
) -> ir.MemRefType:
    """Return the type of a reshape, which keeps the identity layout of its source."""
    if not _is_contiguous(source):
        return _view(source, shape, strides, offset)
    with source.context:
        return _type(source, shape, None)


def _type(
    source: ir.MemRefType, shape: Sequence[int], layout: ir.Attribute | None
) -> ir.MemRefType:
    return ir.MemRefType.get(
        list(shape), source.element_type, layout, source.memory_space, loc=ir.Location.unknown()
    )


def _merged_stride(shape: Sequence[int], strides: Sequence[int], first: int, count: int) -> int:
    """Return the stride of dimensions first..first+count merged; unit dimensions do not matter."""
    for d in range(first + count - 1, first - 1, -1):
        if shape[d] != 1:
            return strides[d]
    return strides[first] if count else 1


def _is_contiguous(type_: ir.MemRefType) -> bool:
    """Whether MLIR takes the layout for the identity: none, or `strided<[1]>` of rank 1."""
    if not isinstance(type_.layout, ir.StridedLayoutAttr):
        return True
    return type_.rank == 1 and type_.get_strides_and_offset() == ([1], 0)
