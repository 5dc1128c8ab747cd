"""What is asked for, read into forms: pieces with linear indices and bounds that are boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting.errors import CannotRewriteError
from polystage.passes.polyhedral.access_rewriting.flattening import flatten
from polystage.passes.polyhedral.access_rewriting.index_forms import (
    Division,
    IndexForm,
    Interval,
    from_affine,
    interval,
    make,
    merge_divisions,
)
from polystage.passes.polyhedral.access_rewriting.splitting import Loops
from polystage.passes.polyhedral.access_rewriting.view_steps import Collapse, ViewStep
from polystage.polyhedral.model import Array, Bound
from polystage.polyhedral.operations import is_row_major
from polystage.polyhedral.readings import Piece, Reading


@dataclass(frozen=True)
class Limit:
    """`low <= form <= high`."""

    form: IndexForm
    low: int
    high: int


@dataclass(frozen=True)
class Part:
    """The elements of an array at `index`, or the constant `fill`, where all limits hold.

    `steps` lead from the array to the memref of `shape` that the index is for.
    """

    array: str | None
    shape: tuple[int, ...]
    index: tuple[IndexForm, ...]
    limits: tuple[Limit, ...]
    fill: ir.Attribute | None
    steps: tuple[ViewStep, ...] = ()
    is_row_major: bool = True

    def over(self, loops: Loops) -> Part:
        """Return the same with loops split until everything is linear."""
        index = tuple(map(loops.split_for, self.index))
        limits = [_simplified(_split(limit, loops), loops.ranges) for limit in self.limits]
        return self._with(index, tuple(limit for limit in limits if limit is not None))

    def resolved(self, loops: Loops) -> Part:
        """Return the same over the variables as they are now."""
        index = tuple(map(loops.resolve, self.index))
        limits = (_simplified(_resolved(limit, loops), loops.ranges) for limit in self.limits)
        return self._with(index, tuple(limit for limit in limits if limit is not None))

    def with_index(self, index: Iterable[IndexForm]) -> Part:
        """Return the same with another index."""
        return self._with(tuple(index), self.limits)

    def _with(self, index: tuple[IndexForm, ...], limits: tuple[Limit, ...]) -> Part:
        return Part(self.array, self.shape, index, limits, self.fill, self.steps, self.is_row_major)


def read_reading(
    reading: Reading, arrays: Mapping[str, Array], ranges: Sequence[Interval]
) -> list[Part]:
    """Return the parts of a reading that can hold, up to the first that always does."""
    parts: list[Part] = []
    for piece in reading.pieces:
        part = read_piece(piece, arrays, ranges)
        if part is None:
            continue
        parts.append(part)
        if not part.limits:
            break
    if not parts:
        raise CannotRewriteError("nothing is read")
    return parts


def read_piece(
    piece: Piece, arrays: Mapping[str, Array], ranges: Sequence[Interval]
) -> Part | None:
    """Return a piece as a part, its array flattened where that helps; None if it never holds."""
    limits: list[Limit] = []
    for bound in piece.where:
        limit = _read_bound(bound, ranges)
        low, high = interval(limit.form, ranges)
        if limit.high < low or limit.low > high:
            return None
        if limit.low > low or limit.high < high:
            limits.append(limit)
    if piece.array is None:
        return Part(None, (), (), tuple(limits), piece.fill)
    array = arrays[piece.array]
    ranges = _narrowed(ranges, limits) if limits else ranges
    index = tuple(merge_divisions(from_affine(expr, ranges), ranges) for expr in piece.index)
    steps: tuple[ViewStep, ...] = ()
    shape = array.shape
    row_major = array.value is None or is_row_major(array.value)
    if row_major and not all(form.is_linear for form in index):
        flat = flatten(shape, index, ranges)
        if flat.is_changed:
            shape, index = flat.shape, flat.index
            steps = (Collapse(flat.groups),)
    return Part(piece.array, shape, index, tuple(limits), None, steps, row_major)


def _narrowed(ranges: Sequence[Interval], limits: Sequence[Limit]) -> Sequence[Interval]:
    """Return the ranges that variables have where a piece holds."""
    narrowed = list(ranges)
    for limit in limits:
        if len(limit.form.terms) == 1 and limit.form.constant == 0:
            ((atom, factor),) = limit.form.terms
            if isinstance(atom, int) and factor == 1:
                low, high = narrowed[atom]
                narrowed[atom] = max(low, limit.low), min(high, limit.high)
    return narrowed


def _read_bound(bound: Bound, ranges: Sequence[Interval]) -> Limit:
    limit = Limit(from_affine(bound.expr, ranges), bound.low, bound.high)
    while (without := _without_division(limit)) is not None:
        limit = without
    return limit


def _without_division(limit: Limit) -> Limit | None:
    """Turn `low <= e floordiv n <= high` into `low*n <= e <= high*n + n-1`."""
    if len(limit.form.terms) != 1:
        return None
    ((atom, coefficient),) = limit.form.terms
    if not isinstance(atom, Division) or atom.is_mod or coefficient < 1:
        return None
    low = -((limit.form.constant - limit.low) // coefficient)
    high = (limit.high - limit.form.constant) // coefficient
    return Limit(atom.inner, low * atom.divisor, high * atom.divisor + atom.divisor - 1)


def _split(limit: Limit, loops: Loops) -> Limit:
    return Limit(loops.split_for(limit.form), limit.low, limit.high)


def _resolved(limit: Limit, loops: Loops) -> Limit:
    return Limit(loops.resolve(limit.form), limit.low, limit.high)


def _simplified(limit: Limit, ranges: Sequence[Interval]) -> Limit | None:
    """Return a limit without constant, common factors, and terms that make no difference.

    `8 <= 4 * a + b <= 15` with `b < 4` is `2 <= a <= 3`. None if it always holds.
    """
    terms = {v: c for v, c in limit.form.coefficients if ranges[v][0] < ranges[v][1]}
    fixed = sum(c * ranges[v][0] for v, c in limit.form.coefficients if v not in terms)
    low, high = limit.low - limit.form.constant - fixed, limit.high - limit.form.constant - fixed
    if sum(c < 0 for c in terms.values()) * 2 > len(terms):
        terms, low, high = {v: -c for v, c in terms.items()}, -high, -low
    first, last = interval(make(dict(terms)), ranges)
    low, high = max(low, first), min(high, last)
    if low == first and high == last:
        return None
    by_size = sorted(terms.items(), key=lambda term: -abs(term[1]))
    for count in range(len(by_size), 0, -1):
        step = gcd(*(c for _, c in by_size[:count]))
        lower, upper = interval(make(dict(by_size[count:])), ranges)
        fits = lower == 0 and upper < step
        exact = count == len(by_size) or (
            (low % step == 0 or low == first) and ((high + 1) % step == 0 or high == last)
        )
        if step > 1 and fits and exact:
            upper_terms = {v: c // step for v, c in by_size[:count]}
            return Limit(
                make(dict(upper_terms)),
                -(-low // step) if count == len(by_size) else low // step,
                high // step,
            )
    return Limit(make(dict(terms)), low, high)
