"""Index expressions as plain Python values, simplified under the ranges of their variables.

What `polystage.polyhedral.expressions` does on `ir.AffineExpr`, without a call into MLIR for every
node: a rewrite is planned thousands of times before one is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import Any, NamedTuple

from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting.errors import CannotRewriteError

Interval = tuple[int, int]
"""Smallest and largest value, both inclusive."""

UNBOUNDED: Interval = (-(1 << 60), 1 << 60)


class Division(NamedTuple):
    """`inner floordiv divisor`, or `inner mod divisor`."""

    is_mod: bool
    inner: IndexForm
    divisor: int


class IndexForm(NamedTuple):
    """`constant + sum(coefficient * atom)`; an atom is the number of a variable, or a division."""

    terms: tuple[tuple[int | Division, int], ...]
    constant: int

    @property
    def is_linear(self) -> bool:
        """Whether no division is left."""
        return all(not isinstance(atom, Division) for atom, _ in self.terms)

    @property
    def coefficients(self) -> tuple[tuple[int, int], ...]:
        """Variables and their factors; divisions must be gone."""
        return self.terms  # pyright: ignore[reportReturnType] - checked where loops are split

    @property
    def divisions(self) -> int:
        """How many divisions there are, nested ones included."""
        return sum(1 + atom.inner.divisions for atom, _ in self.terms if isinstance(atom, Division))


ZERO = IndexForm((), 0)


def variable(number: int, factor: int = 1, constant: int = 0) -> IndexForm:
    """Return `factor * variable + constant`."""
    return IndexForm(((number, factor),), constant)


def make(terms: dict[int | Division, int] | dict[int, int], constant: int = 0) -> IndexForm:
    """Return the form in which equal sums are equal values."""
    kept = [(atom, c) for atom, c in terms.items() if c]
    if len(kept) > 1:
        kept.sort(key=_order)
    return IndexForm(tuple(kept), constant)


def _order(term: tuple[int | Division, int]) -> tuple[Any, ...]:
    atom, coefficient = term
    if isinstance(atom, int):
        return (0, atom, coefficient)
    inner = tuple(map(_order, atom.inner.terms))
    return (1, atom.is_mod, atom.divisor, len(inner), inner, atom.inner.constant, coefficient)


def add(left: IndexForm, right: IndexForm, factor: int = 1) -> IndexForm:
    """Return `left + factor * right`."""
    if not right.terms:
        return IndexForm(left.terms, left.constant + factor * right.constant)
    terms = dict(left.terms)
    for atom, coefficient in right.terms:
        terms[atom] = terms.get(atom, 0) + factor * coefficient
    return make(terms, left.constant + factor * right.constant)


def interval(form: IndexForm, ranges: Sequence[Interval]) -> Interval:
    """Return the range of a form by interval arithmetic."""
    low = high = form.constant
    for atom, coefficient in form.terms:
        first, last = ranges[atom] if isinstance(atom, int) else _division_range(atom, ranges)
        if coefficient < 0:
            first, last = last, first
        low += coefficient * first
        high += coefficient * last
    return low, high


def _division_range(atom: Division, ranges: Sequence[Interval]) -> Interval:
    low, high = interval(atom.inner, ranges)
    if not atom.is_mod:
        return low // atom.divisor, high // atom.divisor
    if low // atom.divisor == high // atom.divisor:
        return low % atom.divisor, high % atom.divisor
    return 0, atom.divisor - 1


def floor_div(form: IndexForm, divisor: int, ranges: Sequence[Interval]) -> IndexForm:
    """Return `form floordiv divisor`, simplified."""
    if divisor == 1:
        return form
    quotient, rest = _split_multiples(form, divisor)
    low, high = interval(rest, ranges)
    if low // divisor == high // divisor:
        return IndexForm(quotient.terms, quotient.constant + low // divisor)
    step, rest, _ = _without_low_part(rest, divisor, ranges)
    if step > 1:  # floor(step * x / divisor) = floor(x / (divisor / step))
        return add(quotient, floor_div(rest, divisor // step, ranges))
    atom, coefficient = rest.terms[0]
    if isinstance(atom, Division) and coefficient == 1 and rest == IndexForm(((atom, 1),), 0):
        if not atom.is_mod:  # (x floordiv a) floordiv b
            return add(quotient, floor_div(atom.inner, atom.divisor * divisor, ranges))
        if atom.divisor % divisor == 0:  # (x mod ab) floordiv b = (x floordiv b) mod a
            inner = floor_div(atom.inner, divisor, ranges)
            return add(quotient, mod(inner, atom.divisor // divisor, ranges))
    return add(quotient, IndexForm(((Division(False, rest, divisor), 1),), 0))


def mod(form: IndexForm, divisor: int, ranges: Sequence[Interval]) -> IndexForm:
    """Return `form mod divisor`, simplified."""
    _, rest = _split_multiples(form, divisor)
    low, high = interval(rest, ranges)
    if low // divisor == high // divisor:
        return IndexForm(rest.terms, rest.constant - low // divisor * divisor)
    step, rest, lower = _without_low_part(rest, divisor, ranges)
    if step > 1:  # (step * x + lower) mod divisor, lower < step
        return add(lower, mod(rest, divisor // step, ranges), step)
    atom, _ = rest.terms[0]
    is_alone = rest == IndexForm(((atom, 1),), 0)
    if is_alone and isinstance(atom, Division) and atom.is_mod and atom.divisor % divisor == 0:
        return mod(atom.inner, divisor, ranges)  # (x mod ab) mod b
    return IndexForm(((Division(True, rest, divisor), 1),), 0)


def _split_multiples(form: IndexForm, divisor: int) -> tuple[IndexForm, IndexForm]:
    """Return quotient and rest of `form = divisor * quotient + rest`, term by term."""
    terms = form.terms
    quotient = tuple((a, c // divisor) for a, c in terms if c % divisor == 0)
    rest = tuple((a, c) for a, c in terms if c % divisor)
    return IndexForm(quotient, form.constant // divisor), IndexForm(rest, form.constant % divisor)


def _without_low_part(
    form: IndexForm, divisor: int, ranges: Sequence[Interval]
) -> tuple[int, IndexForm, IndexForm]:
    """Write `form = step * high + low` with `0 <= low < step`, where step divides `divisor`.

    Return step, high, low; the step is 1 where there is no such way.
    """
    by_step = sorted(form.terms, key=lambda term: -gcd(term[1], divisor))
    for count in range(len(by_step), 0, -1):
        step = gcd(divisor, *(c for _, c in by_step[:count]))
        if step == 1:
            continue
        low = make(dict(by_step[count:]), form.constant % step)
        first, last = interval(low, ranges)
        if first >= 0 and last < step:
            high = make({a: c // step for a, c in by_step[:count]}, form.constant // step)
            return step, high, low
    return 1, form, ZERO


def substitute(
    form: IndexForm, replacement: Callable[[int], IndexForm | None], ranges: Sequence[Interval]
) -> IndexForm:
    """Replace variables, then simplify; None keeps the variable."""
    total = IndexForm((), form.constant)
    kept: dict[int | Division, int] = {}
    for atom, coefficient in form.terms:
        if isinstance(atom, int):
            value = replacement(atom)
            if value is None:
                kept[atom] = coefficient
                continue
        else:
            inner = substitute(atom.inner, replacement, ranges)
            value = (mod if atom.is_mod else floor_div)(inner, atom.divisor, ranges)
        total = add(total, value, coefficient)
    return add(total, make(kept)) if kept else total


def merge_divisions(form: IndexForm, ranges: Sequence[Interval]) -> IndexForm:
    """Replace `c*n*(e floordiv n) + c*(e mod n)` by `c*e` wherever both are there."""
    for atom, coefficient in form.terms:
        if not isinstance(atom, Division) or not atom.is_mod:
            continue
        factors = dict(form.terms)
        quotient = floor_div(atom.inner, atom.divisor, ranges)
        divided = [(a, c) for a, c in quotient.terms if isinstance(a, Division)]
        if any(factors.get(a) != coefficient * atom.divisor * c for a, c in divided):
            continue
        del factors[atom]
        merged = add(make(factors, form.constant), atom.inner, coefficient)
        merged = add(merged, quotient, -coefficient * atom.divisor)
        if merged.divisions < form.divisions:
            return merge_divisions(merged, ranges)
    return form


def from_affine(expr: ir.AffineExpr, ranges: Sequence[Interval], shift: int = 0) -> IndexForm:
    """Return an affine expression over dims as a form; dim `i` is the variable `i + shift`."""
    expr = expr.maybe_downcast()
    if isinstance(expr, ir.AffineDimExpr):
        return variable(expr.position + shift)
    if isinstance(expr, ir.AffineConstantExpr):
        return IndexForm((), expr.value)
    if isinstance(expr, ir.AffineSymbolExpr):
        raise CannotRewriteError(f"an index has the symbol {expr}")
    left, right = from_affine(expr.lhs, ranges, shift), from_affine(expr.rhs, ranges, shift)
    if isinstance(expr, ir.AffineAddExpr):
        return add(left, right)
    if isinstance(expr, ir.AffineMulExpr):
        return add(ZERO, left, right.constant) if not right.terms else _product(left, right)
    divisor = right.constant
    if right.terms or divisor <= 0:
        raise CannotRewriteError(f"an index is divided by {expr.rhs}")
    if isinstance(expr, ir.AffineModExpr):
        return mod(left, divisor, ranges)
    if isinstance(expr, ir.AffineFloorDivExpr):
        return floor_div(left, divisor, ranges)
    return floor_div(IndexForm(left.terms, left.constant + divisor - 1), divisor, ranges)


def _product(left: IndexForm, right: IndexForm) -> IndexForm:
    if left.terms:
        raise CannotRewriteError("an index is a product of two indices")
    return add(ZERO, right, left.constant)


def to_affine(form: IndexForm, variables: Sequence[ir.AffineExpr]) -> ir.AffineExpr:
    """Return the expression of a form, whose variable `i` is `variables[i]`."""
    total: ir.AffineExpr = ir.AffineConstantExpr.get(form.constant)
    for place, (atom, coefficient) in enumerate(form.terms):
        if isinstance(atom, int):
            value = variables[atom]
        else:
            inner = to_affine(atom.inner, variables)
            divide = ir.AffineExpr.get_mod if atom.is_mod else ir.AffineExpr.get_floor_div
            value = divide(inner, atom.divisor)
        product = value if coefficient == 1 else value * coefficient
        total = product if place == 0 else total + product
    return total + form.constant if form.terms and form.constant else total


def to_text(form: IndexForm, names: Sequence[str]) -> str:
    """Return the formula of a form for messages."""
    parts: list[str] = []
    for atom, coefficient in form.terms:
        if isinstance(atom, int):
            text = names[atom]
        else:
            inner = to_text(atom.inner, names)
            inner = inner if inner.isidentifier() else f"({inner})"
            text = f"{inner} {'mod' if atom.is_mod else 'floordiv'} {atom.divisor}"
            text = text if form == IndexForm(((atom, 1),), 0) else f"({text})"
        parts.append(text if coefficient == 1 else f"{coefficient} * {text}")
    if form.constant or not parts:
        parts.append(str(form.constant))
    return " + ".join(parts).replace("+ -", "- ")
