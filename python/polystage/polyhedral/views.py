"""Views on arrays, folded in pull direction: from the index of the view to the index of the array.

A chain subview, collapse_shape, transpose, ... becomes one quasi-affine expression per array
dimension. Dims are the indices of the view; symbol `k` is the index of the `k`-th enclosing loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polystage.mlir import ir
from polystage.polyhedral.expressions import (
    NotAffineError,
    Range,
    constant_value,
    from_terms,
    substitute,
)
from polystage.slices import permutation, reassociation

DYNAMIC = ir.ShapedType.get_dynamic_size()
DYNAMIC_STRIDE = ir.ShapedType.get_dynamic_stride_or_offset()

IndexOf = Callable[[ir.Value], ir.AffineExpr]
"""The expression, in symbols, of an index value; raises NotAffineError."""


@dataclass(frozen=True)
class View:
    """A memref value as a window on an array."""

    array: str | None
    """None where it cannot be told which array it is."""
    shape: tuple[int, ...]
    exprs: tuple[ir.AffineExpr, ...] | None
    """One expression per dimension of the array; None where the window is not affine."""
    reason: str = ""

    @property
    def ranges(self) -> list[Range]:
        """The ranges of the view's indices."""
        return [(0, extent - 1) for extent in self.shape]


def whole(array: str, shape: Sequence[int]) -> View:
    """Return the view that is the array itself."""
    return View(array, tuple(shape), tuple(ir.AffineExpr.get_dim(i) for i in range(len(shape))))


def fold_view(
    op: Any, source: View, array_shape: Sequence[int], index_of: IndexOf, symbols: list[Range]
) -> View:
    """Return the view that `op` makes of `source`, whose array has `array_shape`."""
    result = ir.MemRefType(op.results[0].type)
    view = replace(source, shape=tuple(result.shape))
    if source.exprs is None:
        return view
    try:
        if op.name == "memref.reinterpret_cast":
            exprs = _reinterpret(op, view, array_shape, index_of, symbols)
        else:
            indices = _FOLDERS[op.name](op, source, view, index_of)
            exprs = tuple(
                substitute(expr, indices, (), view.ranges, symbols) for expr in source.exprs
            )
    except NotAffineError as error:
        return replace(view, exprs=None, reason=str(error))
    return replace(view, exprs=exprs)


def _mixed(op: Any, what: str, segment: int, index_of: IndexOf) -> list[ir.AffineExpr]:
    """Return the static and dynamic offsets, sizes or strides of `op` as expressions."""
    sizes = list(op.attributes["operandSegmentSizes"])
    first = sum(sizes[:segment])
    operands = iter(list(op.operands)[first : first + sizes[segment]])
    dynamic = DYNAMIC if what == "static_sizes" else DYNAMIC_STRIDE
    return [
        index_of(next(operands)) if value == dynamic else ir.AffineConstantExpr.get(value)
        for value in op.attributes[what]
    ]


def _times(left: ir.AffineExpr, right: ir.AffineExpr) -> ir.AffineExpr:
    for one, other in ((left, right), (right, left)):
        factor = constant_value(one)
        if factor is not None:
            return other * factor
    raise NotAffineError(f"stride {right} is not constant")


def _subview(op: Any, source: View, view: View, index_of: IndexOf) -> list[ir.AffineExpr]:
    offsets = _mixed(op, "static_offsets", 1, index_of)
    strides = _mixed(op, "static_strides", 3, index_of)
    kept = _kept_dims(list(op.attributes["static_sizes"]), view.shape)
    return [
        offset if dim is None else _times(ir.AffineExpr.get_dim(dim), stride) + offset
        for offset, stride, dim in zip(offsets, strides, kept, strict=True)
    ]


def _kept_dims(sizes: list[int], shape: Sequence[int]) -> list[int | None]:
    """Return for each dimension of a rank-reducing subview its place in the result.

    Only dimensions of size 1 are dropped, and their index is 0 either way, so that the first
    match is right.
    """
    kept: list[int | None] = []
    place = 0
    for index, size in enumerate(sizes):
        left = len(sizes) - index
        if place < len(shape) and size == shape[place] and (size != 1 or left >= 1):
            kept.append(place)
            place += 1
        else:
            kept.append(None)
    if place != len(shape):
        raise NotAffineError("rank-reducing subview of unknown shape")
    return kept


def _expand(op: Any, source: View, view: View, index_of: IndexOf) -> list[ir.AffineExpr]:
    indices: list[ir.AffineExpr] = []
    for group in reassociation(op):
        stride = 1
        terms: dict[ir.AffineExpr, int] = {}
        for dim in reversed(group):
            if view.shape[dim] != 1:
                terms[ir.AffineExpr.get_dim(dim)] = stride
            stride *= view.shape[dim]
        indices.append(from_terms(dict(reversed(terms.items()))))
    return indices


def _collapse(op: Any, source: View, view: View, index_of: IndexOf) -> list[ir.AffineExpr]:
    indices: list[ir.AffineExpr] = []
    for dim, group in enumerate(reassociation(op)):
        extents = [source.shape[place] for place in group]
        indices += _delinearize(ir.AffineExpr.get_dim(dim), extents)
    while len(indices) < len(source.shape):  # collapse to rank 0
        indices.append(ir.AffineConstantExpr.get(0))
    return indices


def _delinearize(linear: ir.AffineExpr, extents: Sequence[int]) -> list[ir.AffineExpr]:
    """Return the index in a row-major array of `extents` of the element at offset `linear`."""
    indices: list[ir.AffineExpr] = []
    stride = 1
    for place in range(len(extents) - 1, -1, -1):
        index = linear if stride == 1 else ir.AffineExpr.get_floor_div(linear, stride)
        outermost = all(extent == 1 for extent in extents[:place])
        if extents[place] == 1:
            index = ir.AffineConstantExpr.get(0)
        elif not outermost:
            index = ir.AffineExpr.get_mod(index, extents[place])
        indices.insert(0, index)
        stride *= extents[place]
    return indices


def _transpose(op: Any, source: View, view: View, index_of: IndexOf) -> list[ir.AffineExpr]:
    indices: list[ir.AffineExpr] = [ir.AffineConstantExpr.get(0)] * len(source.shape)
    for place, dim in enumerate(permutation(op)):
        indices[dim] = ir.AffineExpr.get_dim(place)
    return indices


def _identity(op: Any, source: View, view: View, index_of: IndexOf) -> list[ir.AffineExpr]:
    return [ir.AffineExpr.get_dim(dim) for dim in range(len(source.shape))]


def _reinterpret(
    op: Any, view: View, array_shape: Sequence[int], index_of: IndexOf, symbols: list[Range]
) -> tuple[ir.AffineExpr, ...]:
    """Fold a reinterpret_cast: its offset and strides count from the start of the array."""
    strides = _mixed(op, "static_strides", 3, index_of)
    linear = _mixed(op, "static_offsets", 1, index_of)[0]
    for dim, stride in enumerate(strides):
        if view.shape[dim] != 1:
            linear = linear + _times(ir.AffineExpr.get_dim(dim), stride)
    dims = _identity(op, view, view, index_of)
    return tuple(
        substitute(expr, dims, (), view.ranges, symbols)
        for expr in _delinearize(linear, array_shape)
    )


_FOLDERS: dict[str, Callable[[Any, View, View, IndexOf], list[ir.AffineExpr]]] = {
    "memref.subview": _subview,
    "memref.expand_shape": _expand,
    "memref.collapse_shape": _collapse,
    "memref.transpose": _transpose,
    "memref.cast": _identity,
    "memref.memory_space_cast": _identity,
}

VIEW_OPS = frozenset(_FOLDERS) | {"memref.reinterpret_cast"}
"""Operations whose result is a window on their first operand."""
