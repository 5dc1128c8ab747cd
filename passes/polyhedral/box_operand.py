"""Operands of operations on boxes: the window of an array that a box touches, and its map."""

from collections.abc import Sequence
from dataclasses import dataclass

from polystage.mlir import ir, memref
from polystage.passes.polyhedral.index_arithmetic import index_value
from polystage.polyhedral.expressions import (
    from_terms,
    linear_terms,
    merge_divisions,
    used_dims,
)

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
    if not exprs:
        return Operand(_with_rank_one(array), (_zero(),))
    indices = [_linear_index(expr) for expr in exprs]
    if all(index is not None for index in indices):
        windows = [_window(index, extents) for index in indices if index is not None]
    else:
        address = _address(array, exprs)
        if address is not None:
            return _strided_operand(array, address, extents, symbols)
        if any(map(_has_symbols, exprs)):
            raise NoWindowError("a divided index moves with a loop that stays")
        windows = [
            (_zero(), extent, 1, expr)
            for extent, expr in zip(ir.MemRefType(array.type).shape, exprs, strict=True)
        ]
    kept = [place for place, window in enumerate(windows) if used_dims(window[3])]
    results = tuple(windows[place][3] for place in kept)
    if not kept:
        kept, results = [len(windows) - 1], (_zero(),)
    offsets, sizes, strides = ([window[part] for window in windows] for part in range(3))
    return Operand(_subview(array, offsets, sizes, strides, kept, symbols), results)


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
    moving = [dim for index in indices if index is not None for dim in index.coefficients]
    is_plain = len(moving) == len(set(moving)) and all(
        index is not None and len(index.coefficients) <= 1 for index in indices
    )
    if is_plain:
        return input_operand(array, exprs, extents, symbols)
    address = _address(array, exprs)
    if address is None:
        raise NoWindowError("the index of a write is divided")
    return _strided_operand(array, address, extents, symbols)


def _with_rank_one(array: ir.Value) -> ir.Value:
    type_ = ir.MemRefType(array.type)
    result = ir.MemRefType.get([1], type_.element_type, None, type_.memory_space)
    groups = ir.ArrayAttr.get([])
    return memref.ExpandShapeOp(result, array, groups, [], [1]).result


def _address(array: ir.Value, exprs: Sequence[ir.AffineExpr]) -> _Index | None:
    """Return the offset in the buffer, if it is linear: `(i floordiv 4, i mod 4)` is `i`."""
    strides, offset = ir.MemRefType(array.type).get_strides_and_offset()
    if _DYNAMIC_OFFSET in (*strides, offset):
        return None
    total: dict[ir.AffineExpr, int] = {}
    constant = offset
    for expr, stride in zip(exprs, strides, strict=True):
        terms, own = linear_terms(expr)
        constant += own * stride
        for atom, coefficient in terms.items():
            total[atom] = total.get(atom, 0) + coefficient * stride
    index = _linear_index(from_terms(*merge_divisions(total, constant)))
    if index is None or any(stride <= 0 for stride in index.coefficients.values()):
        return None
    return index


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
    if not moves:
        return index.offset, 1, 1, _zero()
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
    array: ir.Value, address: _Index, extents: Sequence[int], symbols: Sequence[ir.Value]
) -> Operand:
    """Return the window with one dimension per dim that moves, from the start of the buffer."""
    type_ = ir.MemRefType(array.type)
    dims = sorted(address.coefficients)
    sizes = [extents[dim] for dim in dims]
    strides = [address.coefficients[dim] for dim in dims]
    terms, constant = linear_terms(address.offset)
    dynamic = [index_value(address.offset, (), symbols)] if terms else []
    offset = _DYNAMIC_OFFSET if terms else constant
    layout = ir.StridedLayoutAttr.get(offset, strides)
    result = ir.MemRefType.get(sizes, type_.element_type, layout, type_.memory_space)
    cast = memref.ReinterpretCastOp(result, array, dynamic, [], [], [offset], sizes, strides)
    return Operand(cast.result, tuple(ir.AffineExpr.get_dim(dim) for dim in dims))
