"""Linear affine expressions as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polystage.mlir import ir


def linear_form(expression: ir.AffineExpr, n_dims: int) -> tuple[int, list[int]] | None:
    """Return (constant, coefficient per dimension) of a linear expression, or None.

    `d0 * 2 + d2 + 1` over 3 dimensions is (1, [2, 0, 1]).
    """
    expression = expression.maybe_downcast()  # the class that Python sees may be stale
    if isinstance(expression, ir.AffineConstantExpr):
        return expression.value, [0] * n_dims
    if isinstance(expression, ir.AffineDimExpr):
        return 0, [int(d == expression.position) for d in range(n_dims)]
    if not isinstance(expression, ir.AffineAddExpr | ir.AffineMulExpr):
        return None
    left = linear_form(expression.lhs, n_dims)
    right = linear_form(expression.rhs, n_dims)
    if left is None or right is None:
        return None
    if isinstance(expression, ir.AffineAddExpr):
        return left[0] + right[0], [a + b for a, b in zip(left[1], right[1], strict=True)]
    if any(right[1]):
        left, right = right, left
    if any(right[1]):
        return None
    return left[0] * right[0], [c * right[0] for c in left[1]]


@dataclass(frozen=True, slots=True)
class Linear:
    """`constant + sum(coefficient * variable)`; variables are numbers."""

    constant: int = 0
    terms: tuple[tuple[int, int], ...] = ()

    @classmethod
    def variable(cls, number: int) -> Linear:
        """Return the variable itself."""
        return cls(0, ((number, 1),))

    def __add__(self, other: Linear | int) -> Linear:
        """Return the sum."""
        if isinstance(other, int):
            return Linear(self.constant + other, self.terms) if other else self
        if not other.terms:
            return self + other.constant
        if not self.terms:
            return other + self.constant
        terms = dict(self.terms)
        for variable, coefficient in other.terms:
            terms[variable] = terms.get(variable, 0) + coefficient
        kept = tuple((v, c) for v, c in sorted(terms.items()) if c)
        return Linear(self.constant + other.constant, kept)

    def __sub__(self, other: Linear | int) -> Linear:
        """Return the difference."""
        return self + other * -1

    def __mul__(self, factor: int) -> Linear:
        """Return the product with a constant."""
        if factor == 1:
            return self
        if factor == 0:
            return Linear()
        return Linear(self.constant * factor, tuple((v, c * factor) for v, c in self.terms))

    def range(self, ranges: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return the least and the greatest value, given those of the variables.

        >>> Linear(1, ((0, 2), (1, -1))).range([(0, 3), (0, 5)])
        (-4, 7)
        """
        low = high = self.constant
        for variable, coefficient in self.terms:
            a, b = ranges[variable]
            low += coefficient * (a if coefficient > 0 else b)
            high += coefficient * (b if coefficient > 0 else a)
        return low, high
