"""How much of an array the chunks of an operator touch, for many chunk sizes at once.

`schedule` counts a chosen plan exactly, step by step; the search needs the same numbers for tens
of thousands of tilings, so here they are tables: per axis of an array and chunk size of the
dimension that moves along it, the largest extent and the sum over all chunks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import lcm, prod

import numpy as np

from polystage.mlir import ir
from polystage.planner.fusion.attention.operator import Attention
from polystage.planner.fusion.operators import Operator, OperatorKind, Scratch
from polystage.polyhedral import Access, Array
from polystage.polyhedral.expressions import linear_terms, value_range


@dataclass(frozen=True)
class Axis:
    """An index `sum(coefficient * dim) + constant` of an access, cut off at `low` and `high`."""

    terms: tuple[tuple[int, int], ...]
    """Dim and coefficient; for an index that is not linear see `is_linear`."""
    constant: int
    low: int
    high: int
    is_linear: bool = True
    """Otherwise `terms` name the dims that the index depends on, and chunks touch all of it."""

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """The dims that the index depends on."""
        return tuple(dim for dim, _ in self.terms)

    def periods(self, extents: Sequence[int]) -> Iterator[int]:
        """Yield how far a dim moves that counts on where another, of the extents given, ends: 16 of
        `16 * row + phase`."""
        ends = {abs(step) * extents[dim] for dim, step in self.terms if extents[dim] > 1}
        yield from (abs(step) for _, step in self.terms if self.is_linear and abs(step) in ends)

    def touched(self, extents: Sequence[int]) -> int:
        """Return how many different elements all iterations touch, as far as extents tell: those
        between the first and the last, but no more than there are combinations of the dims."""
        return min(int(self.largest(extents)), prod(extents[dim] for dim in self.dims))

    def largest(self, extents: Sequence[np.ndarray | int]) -> np.ndarray | int:
        """Return the largest extent that a chunk with these extents touches."""
        whole = self.high - self.low + 1
        if not self.is_linear:
            return whole
        reach = sum(abs(c) * (extents[dim] - 1) for dim, c in self.terms)
        return np.minimum(reach + 1, whole)

    def totals(self, dim: int, box: tuple[int, ...], tiles: np.ndarray) -> np.ndarray:
        """Return for each tile of `dim` the sum of extents over its chunks, other dims whole."""
        if not self.is_linear:
            return -(-box[dim] // tiles) * (self.high - self.low + 1)
        low = high = self.constant
        for other, coefficient in self.terms:
            end = 0 if other == dim else (box[other] - 1) * coefficient
            low, high = low + min(end, 0), high + max(end, 0)
        step = dict(self.terms)[dim]
        return _totals(step, low, high, self.low, self.high, box[dim], tiles.tobytes())


@cache
def _totals(
    step: int, low: int, high: int, lowest: int, highest: int, extent: int, tiles: bytes
) -> np.ndarray:
    """Return the sums of the lengths of `[low, high] + step * chunk`, cut off, over all chunks of
    each tile of `range(extent)`."""
    found: list[int] = []
    for tile in np.frombuffer(tiles, dtype=np.int64).tolist():
        starts = np.arange(0, extent, tile)
        lasts = np.minimum(starts + tile, extent) - 1
        first, last = (starts, lasts) if step > 0 else (lasts, starts)
        lengths = np.minimum(last * step + high, highest) - np.maximum(first * step + low, lowest)
        found.append(int(np.maximum(lengths + 1, 0).sum()))
    return np.array(found, dtype=np.int64)


@dataclass(frozen=True)
class Use:
    """One operand of an operator: an array, and how its axes follow the dims."""

    array: str = field(compare=False)
    element_bytes: int
    axes: tuple[Axis, ...]
    is_write: bool
    is_late: bool
    """Moves in the last iteration of the reduction loops: the output, operands of the epilogue."""

    @cached_property
    def dims(self) -> frozenset[int]:
        """The dims that the touched elements depend on."""
        return frozenset(dim for axis in self.axes for dim in axis.dims)

    def largest(self, extents: Sequence[np.ndarray | int]) -> np.ndarray | int:
        """Return the most elements that a chunk with these extents touches."""
        return prod(axis.largest(extents) for axis in self.axes)


@dataclass(frozen=True)
class OperatorExtents:
    """What the search knows of an operator; equal for operators that are equal up to names."""

    extents: tuple[int, ...]
    reductions: tuple[int, ...]
    uses: tuple[Use, ...]
    accumulator: int | None = None
    scratch: tuple[Scratch, ...] = ()
    one_by_one: frozenset[int] = frozenset()
    """Dims of which every iteration is a chunk of its own: the heads of attention."""
    uncut: frozenset[int] = frozenset()
    """Dims that are taken whole."""
    granules: tuple[tuple[int, int], ...] = ()
    """Dim and the number that its tiles are multiples of, where an index takes it apart by a
    division: `d floordiv 36` moves along once in 36."""

    @classmethod
    def of(cls, arrays: Mapping[str, Array], operator: Operator) -> "OperatorExtents":
        """Read the accesses of an operator.

        What a gather looks up goes straight from DRAM to where it is wanted, and is left out.
        """
        uses = [
            _use(arrays, operator, access, False, operator.is_epilogue(access))
            for access in operator.reads
            if access.is_exact or operator.kind is not OperatorKind.GATHER
        ]
        uses += [_use(arrays, operator, access, True, True) for access in operator.writes]
        one_by_one: frozenset[int] = frozenset()
        uncut = _taps(operator, uses)
        if isinstance(operator, Attention):
            one_by_one = frozenset(operator.heads)
            uncut |= {operator.depth, operator.values}
        return cls(
            operator.extents,
            operator.reductions,
            tuple(uses),
            operator.accumulator,
            operator.scratch,
            one_by_one,
            uncut,
            _granules(operator),
        )

    @cached_property
    def period(self) -> int:
        """The least common multiple of the periods of all axes."""
        axes = (axis for use in self.uses for axis in use.axes)
        return lcm(*(period for axis in axes for period in axis.periods(self.extents)))

    @cached_property
    def _hash(self) -> int:
        return hash((self.extents, self.uses, self.accumulator, self.scratch))

    def __hash__(self) -> int:
        """Return the same hash every time; it takes a while, and many tables go by operators."""
        return self._hash

    def slides_along(self, dim: int) -> bool:
        """Tell whether neighbouring iterations along a dim read the same elements."""
        return any(
            dim in axis.dims and len(axis.terms) > 1 for use in self.uses for axis in use.axes
        )


def _taps(operator: Operator, uses: Sequence[Use]) -> frozenset[int]:
    """Return the reduction dims that share an index with another dim: the taps of a filter."""
    return frozenset(
        dim
        for use in uses
        for axis in use.axes
        if len(axis.terms) > 1
        for dim in axis.dims
        if operator.iterators[dim] == "reduction"
    )


def _granules(operator: Operator) -> tuple[tuple[int, int], ...]:
    """Return for every dim that an index divides the common multiple of the divisors."""
    found: dict[int, int] = {}
    for access in (*operator.reads, *operator.writes):
        for expr in access.exprs or ():
            for dim, divisor in _divisions(expr):
                found[dim] = lcm(found.get(dim, 1), divisor)
    return tuple(sorted(found.items()))


def _divisions(expr: ir.AffineExpr) -> Iterator[tuple[int, int]]:
    """Yield the dims that an expression divides, or takes the remainder of, with the divisors."""
    expr = expr.maybe_downcast()
    if not isinstance(expr, ir.AffineBinaryExpr):
        return
    yield from _divisions(expr.lhs)
    yield from _divisions(expr.rhs)
    if isinstance(expr, ir.AffineFloorDivExpr | ir.AffineModExpr):
        divisor = ir.AffineConstantExpr(expr.rhs).value
        yield from ((dim, divisor) for dim in _dims(expr.lhs))


def _use(
    arrays: Mapping[str, Array], operator: Operator, access: Access, is_write: bool, is_late: bool
) -> Use:
    array = arrays[access.array]
    if access.exprs is None:
        everything = tuple((dim, 1) for dim in range(len(operator.extents)))
        axes = [Axis(everything, 0, 0, extent - 1, False) for extent in array.shape]
    else:
        axes = [
            _axis(operator, access, expr, extent)
            for expr, extent in zip(access.exprs, array.shape, strict=True)
        ]
    return Use(access.array, array.element_bytes, tuple(axes), is_write, is_late)


def _axis(operator: Operator, access: Access, expr: ir.AffineExpr, extent: int) -> Axis:
    low, high = 0, extent - 1
    for bound in access.where:
        if bound.expr == expr:
            low, high = max(low, bound.low), min(high, bound.high)
    terms, constant = linear_terms(expr)
    atoms = [(atom.maybe_downcast(), coefficient) for atom, coefficient in terms.items()]
    if all(isinstance(atom, ir.AffineDimExpr) for atom, _ in atoms):
        pairs = sorted((ir.AffineDimExpr(atom).position, c) for atom, c in atoms)
        return Axis(tuple(p for p in pairs if operator.extents[p[0]] > 1), constant, low, high)
    ranges = [(0, size - 1) for size in operator.extents]
    found = value_range(expr, ranges)
    if found is not None:
        low, high = max(low, found[0]), min(high, found[1])
    dims = tuple((d, 1) for d in sorted(_dims(expr)) if operator.extents[d] > 1)
    return Axis(dims, 0, low, high, False)


def _dims(expr: ir.AffineExpr) -> set[int]:
    """Return the dims that occur in an expression."""
    expr = expr.maybe_downcast()
    if isinstance(expr, ir.AffineDimExpr):
        return {expr.position}
    if isinstance(expr, ir.AffineBinaryExpr):
        return _dims(expr.lhs) | _dims(expr.rhs)
    return set()
