"""Quasi-affine indices as numbers: linear forms and digits of them, over numbered variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polystage.linear import Linear
from polystage.mlir import ir

ZERO = Linear()


@dataclass(frozen=True, slots=True)
class Digit:
    """`index floordiv modulus`, or `index mod modulus`."""

    index: Index
    modulus: int
    is_quotient: bool


@dataclass(frozen=True, slots=True)
class Index:
    """A linear form plus multiples of digits."""

    linear: Linear = ZERO
    digits: tuple[tuple[Digit, int], ...] = ()

    def __add__(self, other: Index) -> Index:
        """Return the sum; a quotient and a remainder that make a whole again become it.

        (c floordiv 4) * 12 + (c mod 4) * 3  ->  c * 3
        """
        linear = self.linear + other.linear
        if not self.digits or not other.digits:
            return Index(linear, self.digits or other.digits)
        digits = dict(self.digits)
        for digit, factor in other.digits:
            digits[digit] = digits.get(digit, 0) + factor
        for digit, factor in list(digits.items()):
            rest = Digit(digit.index, digit.modulus, not digit.is_quotient)
            if digit.is_quotient and digits.get(rest, 0) * digit.modulus == factor:
                del digits[digit], digits[rest]
                whole = digit.index * (factor // digit.modulus)
                return Index(linear, _kept(digits)) + whole
        return Index(linear, _kept(digits))

    def __mul__(self, factor: int) -> Index:
        """Return the product with a constant."""
        digits = tuple((digit, f * factor) for digit, f in self.digits if factor)
        return Index(self.linear * factor, digits)

    @property
    def variables(self) -> frozenset[int]:
        """The variables that occur."""
        inner = (digit.index.variables for digit, _ in self.digits)
        return frozenset(v for v, _ in self.linear.terms).union(*inner)

    def advance(self, variable: int, step: int) -> int | None:
        """Return by how much the index grows when `variable` does by `step`, None where that is not
        the same everywhere.

        c floordiv 4  grows by 2 with every 8 channels, unevenly with every 6
        """
        total = dict(self.linear.terms).get(variable, 0) * step
        for digit, factor in self.digits:
            inner = digit.index.advance(variable, step)
            if inner is None or inner % digit.modulus:
                return None
            total += factor * (inner // digit.modulus if digit.is_quotient else 0)
        return total


def _kept(digits: dict[Digit, int]) -> tuple[tuple[Digit, int], ...]:
    return tuple((digit, factor) for digit, factor in digits.items() if factor)


def index_of(expression: ir.AffineExpr) -> Index:
    """Read a quasi-affine expression; dim i becomes variable i."""
    node: Any = expression.maybe_downcast()
    if isinstance(node, ir.AffineConstantExpr):
        return Index(Linear(node.value))
    if isinstance(node, ir.AffineDimExpr):
        return Index(Linear.variable(node.position))
    if isinstance(node, ir.AffineAddExpr):
        return index_of(node.lhs) + index_of(node.rhs)
    if isinstance(node, ir.AffineMulExpr):
        left, right = index_of(node.lhs), index_of(node.rhs)
        if not right.variables:
            return left * right.linear.constant
        return right * left.linear.constant
    modulus = index_of(node.rhs).linear.constant
    if isinstance(node, ir.AffineCeilDivExpr):
        above = index_of(node.lhs) + Index(Linear(modulus - 1))
        return Index(digits=((Digit(above, modulus, True), 1),))
    is_quotient = isinstance(node, ir.AffineFloorDivExpr)
    return Index(digits=((Digit(index_of(node.lhs), modulus, is_quotient), 1),))


def compose(form: Linear, values: Sequence[Linear]) -> Linear:
    """Return `form` with the form `values[v]` for every variable v.

    >>> compose(Linear(1, ((0, 2),)), [Linear(5, ((3, 1),))])
    Linear(constant=11, terms=((3, 2),))
    """
    constant = form.constant
    terms: dict[int, int] = {}
    for variable, coefficient in form.terms:
        value = values[variable]
        constant += value.constant * coefficient
        for inner, factor in value.terms:
            terms[inner] = terms.get(inner, 0) + factor * coefficient
    return Linear(constant, tuple((v, c) for v, c in sorted(terms.items()) if c))
