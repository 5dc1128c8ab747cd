"""Index arithmetic: linear forms over the loop variables, decided once, evaluated in passing.

A function's index values live in a frame, a plain list of integers with one slot per loop variable
and per value that is not linear. Everything else is a `Linear` over these slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Values = list[int]
Evaluate = Callable[[Values], int]
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Linear:
    """`constant + sum(coefficient * frame[slot])`."""

    constant: int = 0
    terms: tuple[tuple[int, int], ...] = ()

    def __add__(self, other: Linear | int) -> Linear:
        """Return the sum."""
        if isinstance(other, int):
            return Linear(self.constant + other, self.terms)
        terms = dict(self.terms)
        for slot, coefficient in other.terms:
            terms[slot] = terms.get(slot, 0) + coefficient
        kept = tuple((s, c) for s, c in sorted(terms.items()) if c)
        return Linear(self.constant + other.constant, kept)

    def __mul__(self, factor: int) -> Linear:
        """Return the product with a constant."""
        if factor == 0:
            return Linear()
        return Linear(self.constant * factor, tuple((s, c * factor) for s, c in self.terms))

    @property
    def is_constant(self) -> bool:
        """Whether no slot occurs."""
        return not self.terms

    def range(self, ranges: Sequence[Range]) -> Range:
        """Return the least and the greatest value, given those of the slots."""
        low = high = self.constant
        for slot, coefficient in self.terms:
            a, b = ranges[slot]
            low += coefficient * (a if coefficient > 0 else b)
            high += coefficient * (b if coefficient > 0 else a)
        return low, high

    def evaluator(self) -> Evaluate:
        """Return the fastest function from a frame to the value."""
        constant, terms = self.constant, self.terms
        if not terms:
            return lambda values: constant
        if len(terms) == 1:
            ((s, c),) = terms
            return lambda values: constant + c * values[s]
        if len(terms) == 2:
            (s, c), (t, d) = terms
            return lambda values: constant + c * values[s] + d * values[t]
        return lambda values: constant + sum([c * values[s] for s, c in terms])


UNBOUNDED: Range = (-(1 << 62), 1 << 62)


def _divide_range(a: Range, b: Range) -> Range:
    return (a[0] // b[0], a[1] // b[0]) if b[0] == b[1] > 0 and a[0] >= 0 else UNBOUNDED


def _remainder_range(_: Range, b: Range) -> Range:
    return (0, b[0] - 1) if b[0] == b[1] > 0 else UNBOUNDED


def _truth(*_: Range) -> Range:
    return (0, 1)


def _union(_: Range, a: Range, b: Range) -> Range:
    return (min(a[0], b[0]), max(a[1], b[1]))


def _truncating_divide(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


# what is not linear: the value, and its range from those of the operands
NONLINEAR: dict[str, tuple[Callable[..., int], Callable[..., Range]]] = {
    "arith.minsi": (min, lambda a, b: (min(a[0], b[0]), min(a[1], b[1]))),
    "arith.minui": (min, lambda a, b: (min(a[0], b[0]), min(a[1], b[1]))),
    "arith.maxsi": (max, lambda a, b: (max(a[0], b[0]), max(a[1], b[1]))),
    "arith.maxui": (max, lambda a, b: (max(a[0], b[0]), max(a[1], b[1]))),
    "arith.divui": (lambda a, b: a // b, _divide_range),
    "arith.divsi": (_truncating_divide, _divide_range),
    "arith.floordivsi": (lambda a, b: a // b, _divide_range),
    "arith.ceildivsi": (lambda a, b: -(-a // b), lambda a, b: UNBOUNDED),
    "arith.ceildivui": (lambda a, b: -(-a // b), lambda a, b: UNBOUNDED),
    "arith.remui": (lambda a, b: a % b, _remainder_range),
    "arith.remsi": (lambda a, b: a - b * _truncating_divide(a, b), lambda a, b: UNBOUNDED),
    "arith.muli": (lambda a, b: a * b, lambda a, b: UNBOUNDED),
    "arith.andi": (lambda a, b: a & b, lambda a, b: UNBOUNDED if max(a + b) > 1 else (0, 1)),
    "arith.ori": (lambda a, b: a | b, lambda a, b: UNBOUNDED if max(a + b) > 1 else (0, 1)),
    "arith.xori": (lambda a, b: a ^ b, lambda a, b: UNBOUNDED if max(a + b) > 1 else (0, 1)),
    "arith.select": (lambda c, a, b: a if c else b, _union),
}
# predicates of arith.cmpi in their order; index values are never negative where unsigned matters
COMPARISONS: tuple[Callable[[int, int], int], ...] = (
    lambda a, b: int(a == b),
    lambda a, b: int(a != b),
    lambda a, b: int(a < b),
    lambda a, b: int(a <= b),
    lambda a, b: int(a > b),
    lambda a, b: int(a >= b),
    lambda a, b: int(a < b),
    lambda a, b: int(a <= b),
    lambda a, b: int(a > b),
    lambda a, b: int(a >= b),
)
TRUTH_RANGE = _truth
