"""Execution of a scalar body over an iteration box, vectorised.

This is what linalg.generic and the npu engines compute.

Operands come as *loop views*: arrays with one axis per loop dimension, of the dimension's extent,
or of extent 1 where the operand does not depend on it. An output has extent 1 exactly in the
reduction dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from polystage.evaluator.scalar_body import Combiner, Hooks, ScalarBody, held
from polystage.linear import linear_form
from polystage.mlir import ir

Array = np.ndarray

CHUNK_ELEMENTS = 1 << 25  # largest operand of a contraction that is copied at once
FEW_STEPS = 32  # reductions this short run as a loop over whole arrays

_UFUNCS: dict[str, np.ufunc] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "maxnum": np.fmax,
    "minnum": np.fmin,
    "umax": np.maximum,
    "umin": np.minimum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@dataclass(frozen=True)
class LinearAccess:
    """A linear indexing map: operand index r is `constants[r] + sum_d coefficients[r][d] * d`."""

    constants: tuple[int, ...]
    coefficients: tuple[tuple[int, ...], ...]


def linear_access(map_: ir.AffineMap) -> LinearAccess | None:
    """Return an affine map as numbers, or None where it is not linear in its dimensions."""
    rows = [linear_form(expression, map_.n_dims) for expression in map_.results]
    if any(row is None for row in rows):
        return None
    return LinearAccess(
        tuple(row[0] for row in rows if row), tuple(tuple(row[1]) for row in rows if row)
    )


def loop_view(array: Array, access: LinearAccess, extents: Sequence[int]) -> Array:
    """Return `array` as a loop view through a linear access."""
    offset = (..., *(slice(c, None) for c in access.constants))
    strides = [
        sum(row[d] * s for row, s in zip(access.coefficients, array.strides, strict=True))
        for d in range(len(extents))
    ]
    depends = [any(row[d] for row in access.coefficients) for d in range(len(extents))]
    shape = [n if used else 1 for n, used in zip(extents, depends, strict=True)]
    return as_strided(array[offset], shape, strides)


def run(
    body: ScalarBody,
    ins: Sequence[Array],
    outs: Sequence[Array],
    extents: Sequence[int],
    hooks: Hooks | None = None,
) -> None:
    """Execute `body` over the box of `extents` and write the loop views `outs`."""
    if 0 in extents:
        return
    axes = tuple(
        d for d, n in enumerate(extents) if n > 1 and all(out.shape[d] == 1 for out in outs)
    )
    with np.errstate(all="ignore"):
        if axes:
            _reduce(body, ins, outs, extents, axes, hooks)
        else:
            _store(outs, body.run([*ins, *outs], hooks))


def _store(outs: Sequence[Array], results: Sequence[Array]) -> None:
    if len(outs) > 1:  # one may be an operand as it was, which another overwrites
        results = [
            np.array(r) if any(np.may_share_memory(r, out) for out in outs) else r for r in results
        ]
    for out, result in zip(outs, results, strict=True):
        out[...] = result


def index_hook(extents: Sequence[int], fixed: dict[int, int] | None = None) -> Callable[[int], Any]:
    """Return the coordinates of a loop dimension as an array that broadcasts over the box."""
    fixed = fixed or {}

    def index(dimension: int) -> Any:
        if dimension in fixed:
            return np.int64(fixed[dimension])
        shape = [1] * len(extents)
        shape[dimension] = extents[dimension]
        return np.arange(extents[dimension], dtype=np.int64).reshape(shape)

    return index


# --- reductions ---


def _reduce(
    body: ScalarBody,
    ins: Sequence[Array],
    outs: Sequence[Array],
    extents: Sequence[int],
    axes: tuple[int, ...],
    hooks: Hooks | None,
) -> None:
    hooks = replace(hooks or Hooks(), index=index_hook(extents))
    arguments: list[Array | None] = [*ins, *([None] * len(outs))]
    if not body.combiners:
        _reduce_in_order(body, ins, outs, extents, axes, hooks)
        return
    if len(outs) == 1 and body.combiners[0].factors is not None:
        left, right = body.factors(arguments, hooks)
        total = contract(_full_rank(left, extents), _full_rank(right, extents), extents, axes)
        _accumulate(outs[0], body.combiners[0], body.result_dtypes[0], total)
        return
    folded = [
        _fold(combiner, term, extents, axes)
        for combiner, term in zip(body.combiners, body.terms(arguments, hooks), strict=True)
    ]
    if any(
        c.ordered_nan and np.isnan(f).any() for c, f in zip(body.combiners, folded, strict=True)
    ):
        _reduce_in_order(body, ins, outs, extents, axes, hooks)
        return
    for out, combiner, dtype, value in zip(
        outs, body.combiners, body.result_dtypes, folded, strict=True
    ):
        _accumulate(out, combiner, dtype, value)


def _full_rank(value: Any, extents: Sequence[int]) -> Array:
    array = np.asarray(value)
    return array if array.ndim == len(extents) else array.reshape([1] * len(extents))


def _bits(value: Array, combiner: Combiner) -> Array:
    """Return what the combiner's ufunc works on: the same bits unsigned for umax and umin."""
    return value.view(f"u{value.dtype.itemsize}") if combiner.kind in ("umax", "umin") else value


def _accumulate(out: Array, combiner: Combiner, dtype: np.dtype, value: Array) -> None:
    present = _bits(held(out, dtype), combiner)
    result = _UFUNCS[combiner.kind](present, _bits(value, combiner)).astype(present.dtype)
    if present.dtype.kind == "u" and dtype.kind == "i":
        result = result.view(dtype)
    out[...] = result.astype(dtype, copy=False)


def _fold(combiner: Combiner, term: Any, extents: Sequence[int], axes: tuple[int, ...]) -> Array:
    """Fold a term over `axes`, which stay with extent 1."""
    full = _full_rank(term, extents)
    shape = [extents[d] if d in axes else full.shape[d] for d in range(len(extents))]
    full = np.broadcast_to(full, shape)
    ufunc = _UFUNCS[combiner.kind]
    values = _bits(np.ascontiguousarray(full) if combiner.kind[0] == "u" else full, combiner)
    steps = math.prod(extents[d] for d in axes)
    if steps <= FEW_STEPS and values.size > 64 * steps:
        folded = _fold_in_steps(ufunc, values, axes)
    else:
        folded = ufunc.reduce(values, axis=axes, keepdims=True, dtype=values.dtype)
    return folded.view(full.dtype)


def _fold_in_steps(ufunc: np.ufunc, values: Array, axes: tuple[int, ...]) -> Array:
    total: Array | None = None
    for part in _slices(values.shape, axes):
        total = values[part].copy() if total is None else ufunc(total, values[part], out=total)
    assert total is not None
    return total


def _slices(shape: Sequence[int], axes: tuple[int, ...]) -> Any:
    """Yield, in loop order, index tuples that fix `axes` to one coordinate each."""
    for point in np.ndindex(*(shape[d] for d in axes)):
        part: list[slice] = [slice(None)] * len(shape)
        for d, i in zip(axes, point, strict=True):
            part[d] = slice(i, i + 1)
        yield tuple(part)


def _reduce_in_order(
    body: ScalarBody,
    ins: Sequence[Array],
    outs: Sequence[Array],
    extents: Sequence[int],
    axes: tuple[int, ...],
    hooks: Hooks,
) -> None:
    """Fold point after point of the reduction, vectorised over the parallel dimensions."""
    accumulators: list[Array] = [
        out.astype(dtype) for out, dtype in zip(outs, body.result_dtypes, strict=True)
    ]
    for part in _slices(extents, axes):
        point = {d: part[d].start for d in axes}
        here = [
            a[tuple(s if n > 1 else slice(None) for s, n in zip(part, a.shape, strict=True))]
            for a in ins
        ]
        results = body.run([*here, *accumulators], replace(hooks, index=index_hook(extents, point)))
        accumulators = [
            np.broadcast_to(r, a.shape) for r, a in zip(results, accumulators, strict=True)
        ]
    _store(outs, accumulators)


# --- contractions ---


def contract(left: Array, right: Array, extents: Sequence[int], axes: tuple[int, ...]) -> Array:
    """Return the sum over `axes` of left * right as a loop view, by one batched matrix product.

    Shorter floats than f32 come as f32. Integers are exact: they go through f64 where the sum
    surely fits its 53 bits.
    """
    repeat = math.prod(extents[d] for d in axes if left.shape[d] == right.shape[d] == 1)
    left, right = _sum_unshared(left, right, axes), _sum_unshared(right, left, axes)
    dtype = np.result_type(left, right)
    if dtype.kind in "iu" and _fits_double(left, right, extents, axes):
        product = _matrix_product(left, right, axes, np.dtype(np.float64))
        product = product.astype(np.int64).astype(dtype)
    else:
        product = _matrix_product(left, right, axes, dtype)
    return product if repeat == 1 else product * dtype.type(repeat)


def _sum_unshared(array: Array, other: Array, axes: tuple[int, ...]) -> Array:
    own = tuple(d for d in axes if array.shape[d] > 1 and other.shape[d] == 1)
    return array.sum(axis=own, keepdims=True, dtype=array.dtype) if own else array


def _fits_double(left: Array, right: Array, extents: Sequence[int], axes: tuple[int, ...]) -> bool:
    if left.size == 0 or right.size == 0:
        return False
    greatest = [max(abs(int(a.max())), abs(int(a.min()))) for a in (left, right)]
    return greatest[0] * greatest[1] * math.prod(extents[d] for d in axes) < 1 << 53


def _matrix_product(left: Array, right: Array, axes: tuple[int, ...], dtype: np.dtype) -> Array:
    """Sort the axes into batch, rows, columns and contracted ones, and multiply."""
    rank = left.ndim
    if left.size > CHUNK_ELEMENTS:
        rows = [d for d in range(rank) if d not in axes and left.shape[d] > 1]
        if rows:
            return _in_chunks(left, right, axes, dtype, max(rows, key=lambda d: left.shape[d]))
    inner = [d for d in axes if left.shape[d] > 1 and right.shape[d] > 1]
    outer = [d for d in range(rank) if d not in axes]
    batch = [d for d in outer if left.shape[d] > 1 and right.shape[d] > 1]
    rows = [d for d in outer if left.shape[d] > 1 and right.shape[d] == 1]
    columns = [d for d in outer if d not in batch and d not in rows]
    flat_left = _flatten(left, (batch, rows, inner), dtype)
    flat_right = _flatten(right, (batch, inner, columns), dtype)
    product = np.matmul(flat_left, flat_right)
    order = [*batch, *rows, *columns]
    shape = [max(left.shape[d], right.shape[d]) for d in order]
    product = product.reshape([*shape, *([1] * len(axes))])
    return product.transpose(np.argsort([*order, *axes]))


def _in_chunks(
    left: Array, right: Array, axes: tuple[int, ...], dtype: np.dtype, along: int
) -> Array:
    pieces = min(left.shape[along], -(-left.size // CHUNK_ELEMENTS))
    lefts = np.array_split(left, pieces, axis=along)
    split = right.shape[along] > 1
    rights = np.array_split(right, pieces, axis=along) if split else [right] * pieces
    return np.concatenate(
        [_matrix_product(a, b, axes, dtype) for a, b in zip(lefts, rights, strict=True)], along
    )


def _flatten(array: Array, groups: Sequence[Sequence[int]], dtype: np.dtype) -> Array:
    """Return the array with one axis per group of dimensions; the others have extent 1."""
    order = [d for group in groups for d in group]
    kept = array[tuple(slice(None) if d in order else 0 for d in range(array.ndim))]
    position = {d: i for i, d in enumerate(sorted(order))}
    sizes = [math.prod(array.shape[d] for d in group) for group in groups]
    return kept.transpose([position[d] for d in order]).reshape(sizes).astype(dtype, copy=False)
