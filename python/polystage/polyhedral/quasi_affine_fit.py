"""Quasi-affine functions that run through given integers: what a constant vector of indices says.

`[0, 4, 1, 5, 2, 6, 3, 7]` is `(i floordiv 2) + 4 * (i mod 2)`, a channel shuffle. All that is found
equals the given integers everywhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polystage.mlir import ir
from polystage.polyhedral.model import Bound

NESTING = 2
"""How deep a division may stand in another."""

MAX_RUNS = 4
"""With more, a gather is no simple movement of data any more."""


@dataclass(frozen=True)
class Run:
    """An expression, and the bounds within which it holds; none where it holds everywhere."""

    expr: ir.AffineExpr
    where: tuple[Bound, ...] = ()


def fit_box(values: np.ndarray) -> list[Run] | None:
    """Return the fewest runs that give `values[d0, d1, ..]` as functions of the dims, or None.

    The values are a sum of functions of one dim each, at most one of them in several runs, or a
    function of the row-major number of the element. An extent of 1 stands for a dim that does not
    matter.
    """
    origin = (0,) * values.ndim
    first = int(values[origin])
    columns = [
        values[tuple(slice(None) if d == dim else 0 for d in range(values.ndim))] - first
        for dim in range(values.ndim)
    ]
    dims = [ir.AffineExpr.get_dim(dim) for dim in range(values.ndim)]
    total: np.ndarray = np.array(first)
    for dim, column in enumerate(columns):
        total = total + column.reshape([-1 if d == dim else 1 for d in range(values.ndim)])
    if np.array_equal(total, values):
        return _sum_of_columns(first, columns, dims)
    number: ir.AffineExpr = ir.AffineConstantExpr.get(0)
    for dim, extent in zip(dims, values.shape, strict=True):
        if extent > 1:
            number = number * extent + dim
    return fit_runs(values.reshape(-1), number)


def _sum_of_columns(
    first: int, columns: Sequence[np.ndarray], dims: Sequence[ir.AffineExpr]
) -> list[Run] | None:
    total: ir.AffineExpr = ir.AffineConstantExpr.get(first)
    runs = [Run(ir.AffineConstantExpr.get(0))]
    for column, dim in zip(columns, dims, strict=True):
        found = fit_runs(column, dim)
        if found is None or (len(found) > 1 and len(runs) > 1):
            return None
        if len(found) == 1:
            total = total + found[0].expr
        else:
            runs = found
    return [Run(total + run.expr, run.where) for run in runs]


def fit_runs(values: np.ndarray, variable: ir.AffineExpr) -> list[Run] | None:
    """Return one expression for `values[variable]`, or affine ones for a few ranges, or None.

    Loops can be split into equal blocks, so an expression in these is preferred to runs, but runs
    to blocks of which the last is not full.
    """
    expr = fit(values, variable)
    if expr is not None:
        return [Run(expr)]
    runs = _affine_runs(values, variable)
    if runs is not None:
        return runs
    expr = fit(values, variable, equal_blocks=False)
    return None if expr is None else [Run(expr)]


def _affine_runs(values: np.ndarray, variable: ir.AffineExpr) -> list[Run] | None:
    runs: list[Run] = []
    start = 0
    while start < len(values):
        if len(runs) == MAX_RUNS:
            return None
        length = _first_break(values[start:])
        slope = int(values[start + 1] - values[start]) if length > 1 else 0
        expr = (variable - start) * slope + int(values[start])
        runs.append(Run(expr, (Bound(variable, start, start + length - 1),)))
        start += length
    return runs


def fit(
    values: np.ndarray,
    variable: ir.AffineExpr,
    equal_blocks: bool = True,
    nesting: int = NESTING,
) -> ir.AffineExpr | None:
    """Return a quasi-affine expression in `variable` that gives `values[variable]`, or None.

    >>> with ir.Context():
    ...     print(fit(np.array([3, 2, 1, 0, 7, 6, 5, 4]), ir.AffineExpr.get_dim(0)))
    (d0 floordiv 4) * 4 - d0 mod 4 + 3
    """
    count = len(values)
    length = _first_break(values)
    if length == count:
        slope = int(values[1] - values[0]) if count > 1 else 0
        return variable * slope + int(values[0])
    if not nesting:
        return None
    for period in _periods(count, length, equal_blocks):
        if not _has_blocks(values, period):
            continue
        block, inside = ir.AffineExpr.get_floor_div, ir.AffineExpr.get_mod
        outer = fit(values[::period], block(variable, period), equal_blocks, nesting - 1)
        if outer is None:
            continue
        first = values[:period] - values[0]
        inner = fit(first, inside(variable, period), equal_blocks, nesting - 1)
        if inner is not None:
            return outer + inner
    return None


def _periods(count: int, length: int, equal_blocks: bool) -> Iterator[int]:
    """Yield lengths of blocks to try: that of the first line, then the divisors of the count."""
    if length > 1 and not (equal_blocks and count % length):
        yield length
    yield from (k for k in range(2, count) if count % k == 0 and k != length)


def _has_blocks(values: np.ndarray, period: int) -> bool:
    """Tell whether all blocks are alike but for a constant."""
    samples = np.linspace(0, len(values) - 1, num=min(len(values), 64), dtype=np.int64)
    for places in (samples, np.arange(len(values))):  # few first: most periods are wrong
        inside = values[places % period] - values[0]
        if not np.array_equal(values[places], values[places // period * period] + inside):
            return False
    return True


def _first_break(values: np.ndarray) -> int:
    """Return how many of the first values lie on a line."""
    steps = np.diff(values)
    breaks = np.flatnonzero(steps != steps[0]) if len(steps) else steps
    return int(breaks[0]) + 1 if len(breaks) else len(values)
