"""Index arithmetic: linear forms over loop variables, evaluated for all iterations at once.

A function's index values live in slots, one per loop variable and per value that is not linear.
Everything else is a `Linear` over these slots. A slot holds its values as an array with one axis
per loop around it, of extent 1 where it does not depend on the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from polystage.simulator.trace import Bool, Int64

Range = tuple[int, int]
Function = Callable[..., Int64]


@dataclass(frozen=True, slots=True)
class Linear:
    """`constant + sum(coefficient * slot)`."""

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


@dataclass(frozen=True, slots=True)
class Slot:
    """The values of an index in all iterations; `is_loop` says that it is a loop variable."""

    values: Int64
    is_loop: bool


class IndexSpace:
    """The slots of a function."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []

    def loop(self, steps: range, depth: int) -> Linear:
        """Return the variable of a new loop inside `depth` others."""
        values = np.arange(steps.start, steps.stop, steps.step, dtype=np.int64)
        return self._new(values.reshape((1,) * depth + (-1,)), is_loop=True)

    def apply(self, function: Function, operands: Sequence[Linear], depth: int) -> Linear:
        """Return a function of index values inside `depth` loops; a constant where they are."""
        values = np.asarray(function(*(self.values(x, depth) for x in operands)), np.int64)
        if all(x.is_constant for x in operands):
            return Linear(int(values.reshape(-1)[0]))
        return self._new(values, is_loop=False)

    def _new(self, values: Int64, is_loop: bool) -> Linear:
        self.slots.append(Slot(values, is_loop))
        return Linear(0, ((len(self.slots) - 1, 1),))

    def values(self, linear: Linear, depth: int) -> Int64:
        """Return a value in all iterations of `depth` loops; axes that do not matter have extent
        1."""
        total: Int64 = np.full((1,) * depth, linear.constant, np.int64)
        for slot, coefficient in linear.terms:
            values = self.slots[slot].values
            total = total + coefficient * lift(values, depth)
        return total

    def range(self, linear: Linear) -> Range:
        """Return the least and the greatest value."""
        if not self.is_exact(linear):
            values = self.values(linear, self._depth(linear))
            return int(values.min()), int(values.max())
        low = high = linear.constant
        for slot, coefficient in linear.terms:
            values = self.slots[slot].values.reshape(-1)
            ends = (coefficient * int(values[0]), coefficient * int(values[-1]))
            low, high = low + min(ends), high + max(ends)
        return low, high

    def is_exact(self, linear: Linear) -> bool:
        """Say whether every combination of the slots' ranges occurs: all are loop variables."""
        return all(self.slots[slot].is_loop for slot, _ in linear.terms)

    def _depth(self, linear: Linear) -> int:
        return max((self.slots[slot].values.ndim for slot, _ in linear.terms), default=0)

    def first(self, linear: Linear, wrong: Callable[[Int64], Bool]) -> int | None:
        """Return the first value in program order for which `wrong` holds, if any."""
        values = self.values(linear, self._depth(linear)).reshape(-1)
        found = np.flatnonzero(wrong(values))
        return int(values[found[0]]) if len(found) else None


def lift(values: Int64, depth: int) -> Int64:
    """Return an array with an axis for each of `depth` loops, the inner of which do not matter."""
    return values.reshape(values.shape + (1,) * (depth - values.ndim))


def _truncating_divide(a: Int64, b: Int64) -> Int64:
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) == (b < 0), quotient, -quotient)


NONLINEAR: dict[str, Function] = {
    "arith.minsi": np.minimum,
    "arith.minui": np.minimum,
    "arith.maxsi": np.maximum,
    "arith.maxui": np.maximum,
    "arith.divui": lambda a, b: a // b,
    "arith.divsi": _truncating_divide,
    "arith.floordivsi": lambda a, b: a // b,
    "arith.ceildivsi": lambda a, b: -(-a // b),
    "arith.ceildivui": lambda a, b: -(-a // b),
    "arith.remui": lambda a, b: a % b,
    "arith.remsi": lambda a, b: a - b * _truncating_divide(a, b),
    "arith.muli": lambda a, b: a * b,
    "arith.andi": lambda a, b: a & b,
    "arith.ori": lambda a, b: a | b,
    "arith.xori": lambda a, b: a ^ b,
    "arith.select": lambda c, a, b: np.where(c != 0, a, b),
}
"""What is not linear, on arrays."""

DIVISIONS = frozenset(n for n in NONLINEAR if "div" in n or "rem" in n)
"""What has no value where the second operand is 0."""

# predicates of arith.cmpi in their order; index values are never negative where unsigned matters
COMPARISONS: tuple[Function, ...] = (
    lambda a, b: a == b,
    lambda a, b: a != b,
    lambda a, b: a < b,
    lambda a, b: a <= b,
    lambda a, b: a > b,
    lambda a, b: a >= b,
    lambda a, b: a < b,
    lambda a, b: a <= b,
    lambda a, b: a > b,
    lambda a, b: a >= b,
)
