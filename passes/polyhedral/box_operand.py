"""Operands of operations on boxes: the window of an array that a box touches, and its map."""

from collections.abc import Sequence
from dataclasses import dataclass

from polystage.mlir import ir, memref
from polystage.passes.polyhedral.index_arithmetic import index_value
from polystage.polyhedral.expressions import from_terms, linear_terms, used_dims

_DYNAMIC_OFFSET = ir.ShapedType.get_dynamic_stride_or_offset()


class NoWindowError(Exception):
    """The access is no window of the array with constant strides; the text says why."""


@dataclass(frozen=True)
class Operand:
    """A memref, and one expression over the operation's dims per dimension of it."""

    value: ir.Value
    exprs: tuple[ir.AffineExpr, ...]


@dataclass(frozen=True)
class _Index:
    """One array index: `sum(coefficients * dims) + offset`, where the offset holds symbols only."""

    coefficients: dict[int, int]
    offset: ir.AffineExpr


def input_operand(
    array: ir.Value,
    exprs: Sequence[ir.AffineExpr],
    extents: Sequence[int],
    symbols: Sequence[ir.Value],
) -> Operand:
    """Return the smallest window of `array` that holds `exprs`, dims that do not move left out."""
    shape = ir.MemRefType(array.type).shape
    offsets, sizes, strides = [], [], []
    kept: list[int] = []
    results: list[ir.AffineExpr] = []
    for place, expr in enumerate(exprs):
        index = _linear_index(expr)
        if index is None:  # a division: the whole dimension, the division in the map
            if _has_symbols(expr):
                raise NoWindowError("a divided index moves with a loop that stays")
            window = (_zero(), shape[place], 1, expr)
        else:
            window = _window(index, extents)
        offsets.append(window[0])
        sizes.append(window[1])
        strides.append(window[2])
        if index is None or index.coefficients:
            kept.append(place)
            results.append(window[3])
    if not kept:
        kept, results = [len(shape) - 1], [_zero()]
    return Operand(_subview(array, offsets, sizes, strides, kept, symbols), tuple(results))


def output_operand(
    array: ir.Value,
    exprs: Sequence[ir.AffineExpr],
    extents: Sequence[int],
    symbols: Sequence[ir.Value],
) -> Operand:
    """Return the window of `array` that `exprs` write, with one plain dim per dimension.

    A diagonal or a flattened index becomes a reinterpret_cast with strides that add up.
    """
    indices = [_linear_index(expr) for expr in exprs]
    if any(index is None for index in indices):
        raise NoWindowError("the index of a write is divided")
    linear = [index for index in indices if index is not None]
    moving = [dim for index in linear for dim in index.coefficients]
    is_plain = len(moving) == len(set(moving)) and all(len(i.coefficients) <= 1 for i in linear)
    if is_plain:
        return input_operand(array, exprs, extents, symbols)
    return _strided_operand(array, linear, extents, symbols)


def _linear_index(expr: ir.AffineExpr) -> _Index | None:
    terms, constant = linear_terms(expr)
    coefficients: dict[int, int] = {}
    moving: dict[ir.AffineExpr, int] = {}
    for atom, coefficient in terms.items():
        if isinstance(atom, ir.AffineDimExpr):
            coefficients[atom.position] = coefficient
        elif isinstance(atom, ir.AffineSymbolExpr) or not used_dims(atom):
            moving[atom] = coefficient
        else:
            return None
    return _Index(coefficients, from_terms(moving, constant))


def _has_symbols(expr: ir.AffineExpr) -> bool:
    expr = expr.maybe_downcast()
    if isinstance(expr, ir.AffineSymbolExpr):
        return True
    if isinstance(expr, ir.AffineDimExpr | ir.AffineConstantExpr):
        return False
    return _has_symbols(expr.lhs) or _has_symbols(expr.rhs)


def _zero() -> ir.AffineExpr:
    return ir.AffineConstantExpr.get(0)


def _window(index: _Index, extents: Sequence[int]) -> tuple[ir.AffineExpr, int, int, ir.AffineExpr]:
    """Return offset, size and stride of the window, and the index within it."""
    moves = index.coefficients
    if len(moves) == 1:
        ((dim, stride),) = moves.items()
        if stride > 0:
            return index.offset, extents[dim], stride, ir.AffineExpr.get_dim(dim)
    low = sum(c * (extents[dim] - 1) for dim, c in moves.items() if c < 0)
    size = sum(abs(c) * (extents[dim] - 1) for dim, c in moves.items()) + 1
    inside = from_terms({ir.AffineExpr.get_dim(dim): c for dim, c in moves.items()}, -low)
    return index.offset + low, size, 1, inside


def _subview(
    array: ir.Value,
    offsets: list[ir.AffineExpr],
    sizes: list[int],
    strides: list[int],
    kept: list[int],
    symbols: Sequence[ir.Value],
) -> ir.Value:
    type_ = ir.MemRefType(array.type)
    starts = [linear_terms(offset) for offset in offsets]
    at_start = all(not terms and constant == 0 for terms, constant in starts)
    if at_start and sizes == list(type_.shape) and len(kept) == len(sizes) and set(strides) == {1}:
        return array
    array_strides, array_offset = type_.get_strides_and_offset()
    static = [_DYNAMIC_OFFSET if terms else constant for terms, constant in starts]
    dynamic = [
        index_value(o, (), symbols) for o, (terms, _) in zip(offsets, starts, strict=True) if terms
    ]
    offset = _DYNAMIC_OFFSET
    if not dynamic and array_offset != _DYNAMIC_OFFSET:
        offset = array_offset + sum(o * s for o, s in zip(static, array_strides, strict=True))
    layout = ir.StridedLayoutAttr.get(offset, [strides[k] * array_strides[k] for k in kept])
    shape = [sizes[k] for k in kept]
    result = ir.MemRefType.get(shape, type_.element_type, layout, type_.memory_space)
    return memref.SubViewOp(result, array, dynamic, [], [], static, sizes, strides).result


def _strided_operand(
    array: ir.Value, indices: list[_Index], extents: Sequence[int], symbols: Sequence[ir.Value]
) -> Operand:
    type_ = ir.MemRefType(array.type)
    array_strides, array_offset = type_.get_strides_and_offset()
    strides: dict[int, int] = {}
    terms: dict[ir.AffineExpr, int] = {}
    constant = array_offset
    for index, stride in zip(indices, array_strides, strict=True):
        for dim, coefficient in index.coefficients.items():
            strides[dim] = strides.get(dim, 0) + coefficient * stride
        own, own_constant = linear_terms(index.offset)
        constant += own_constant * stride
        for atom, coefficient in own.items():
            terms[atom] = terms.get(atom, 0) + coefficient * stride
    dims = sorted(strides)
    if any(strides[dim] <= 0 for dim in dims):
        raise NoWindowError("the index of a write runs backwards")
    dynamic = [index_value(from_terms(terms, constant), (), symbols)] if terms else []
    offset = _DYNAMIC_OFFSET if terms else constant
    sizes = [extents[dim] for dim in dims]
    steps = [strides[dim] for dim in dims]
    layout = ir.StridedLayoutAttr.get(offset, steps)
    result = ir.MemRefType.get(sizes, type_.element_type, layout, type_.memory_space)
    cast = memref.ReinterpretCastOp(result, array, dynamic, [], [], [offset], sizes, steps)
    return Operand(cast.result, tuple(ir.AffineExpr.get_dim(dim) for dim in dims))
