"""The view operations that a plan consists of: described first, created when it is carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from polystage.mlir import ir, memref
from polystage.passes.memref_types import (
    collapsed_type,
    expanded_type,
    reassociation,
    transposed_type,
    window_type,
)
from polystage.passes.polyhedral.access_rewriting.index_forms import IndexForm, to_affine
from polystage.passes.polyhedral.index_arithmetic import index_value

_DYNAMIC = ir.ShapedType.get_dynamic_stride_or_offset()


class ViewStep(Protocol):
    """One view operation."""

    def emit(self, value: ir.Value, indices: Sequence[ir.Value]) -> ir.Value:
        """Create the operation on `value`; `indices` are those of the loops around."""
        ...


@dataclass(frozen=True)
class Collapse:
    """Merge runs of `groups[i]` neighbouring dimensions of a contiguous array."""

    groups: tuple[int, ...]

    def emit(self, value: ir.Value, indices: Sequence[ir.Value]) -> ir.Value:
        """Create a memref.collapse_shape."""
        type_ = collapsed_type(ir.MemRefType(value.type), self.groups)
        return memref.CollapseShapeOp(type_, value, reassociation(self.groups)).result


@dataclass(frozen=True)
class Expand:
    """Split dimension i, row-major, into `shapes[i]`."""

    shapes: tuple[tuple[int, ...], ...]

    def emit(self, value: ir.Value, indices: Sequence[ir.Value]) -> ir.Value:
        """Create a memref.expand_shape."""
        type_ = expanded_type(ir.MemRefType(value.type), self.shapes)
        groups = reassociation([len(shape) for shape in self.shapes])
        extents = [extent for shape in self.shapes for extent in shape]
        return memref.ExpandShapeOp(type_, value, groups, [], extents).result


@dataclass(frozen=True)
class Cut:
    """Take `sizes[i]` elements from `offsets[i]` on, `strides[i]` apart; drop what is not kept.

    Offsets are forms over the indices of the loops around. Only dimensions of size 1 are dropped.
    """

    offsets: tuple[IndexForm, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    kept: tuple[int, ...]

    def emit(self, value: ir.Value, indices: Sequence[ir.Value]) -> ir.Value:
        """Create a memref.subview, with dynamic offsets where loops around move the window."""
        type_ = ir.MemRefType(value.type)
        starts = [_DYNAMIC if form.terms else form.constant for form in self.offsets]
        dynamic = [_value(form, indices) for form in self.offsets if form.terms]
        result = window_type(type_, starts, self.sizes, self.strides, self.kept)
        op = memref.SubViewOp(result, value, dynamic, [], [], starts, self.sizes, self.strides)
        return op.result


@dataclass(frozen=True)
class Transpose:
    """Order dimensions so that dimension i is `permutation[i]` of before."""

    permutation: tuple[int, ...]

    def emit(self, value: ir.Value, indices: Sequence[ir.Value]) -> ir.Value:
        """Create a memref.transpose."""
        type_ = transposed_type(ir.MemRefType(value.type), self.permutation)
        map_ = ir.AffineMap.get_permutation(list(self.permutation))
        return memref.TransposeOp(type_, value, ir.AffineMapAttr.get(map_)).result


@dataclass(frozen=True)
class Reinterpret:
    """Walk a row-major array from its start with strides that may overlap, or be 0."""

    offset: IndexForm
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    def emit(self, value: ir.Value, indices: Sequence[ir.Value]) -> ir.Value:
        """Create a memref.reinterpret_cast."""
        type_ = ir.MemRefType(value.type)
        offset = _DYNAMIC if self.offset.terms else self.offset.constant
        dynamic = [_value(self.offset, indices)] if self.offset.terms else []
        layout = ir.StridedLayoutAttr.get(offset, list(self.strides))
        result = ir.MemRefType.get(list(self.sizes), type_.element_type, layout, type_.memory_space)
        cast = memref.ReinterpretCastOp(
            result, value, dynamic, [], [], [offset], self.sizes, self.strides
        )
        return cast.result


def _value(form: IndexForm, indices: Sequence[ir.Value]) -> ir.Value:
    dims = [ir.AffineExpr.get_dim(d) for d in range(len(indices))]
    return index_value(to_affine(form, dims), indices, ())
