"""Loops that split so that accesses become linear: `d = 4 * d_hi + d_lo` under `d floordiv 4`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from polystage.passes.polyhedral.access_rewriting.errors import CannotRewriteError
from polystage.passes.polyhedral.access_rewriting.index_forms import (
    Division,
    IndexForm,
    Interval,
    substitute,
    to_text,
    variable,
)


@dataclass(frozen=True)
class Digit:
    """Part of a loop: the loop's index is the sum of `factor * variable` over its digits."""

    variable: int
    factor: int


class Loops:
    """The loops of a statement: the enclosing ones, and its own, which may be split.

    Variables `0..depth-1` are the enclosing loops, then come the operation's own loops, then the
    digits of those that were split.
    """

    def __init__(self, names: Sequence[str], enclosing: Sequence[Interval], extents: Sequence[int]):
        self.depth = len(enclosing)
        self.ranges: list[Interval] = [*enclosing, *((0, extent - 1) for extent in extents)]
        self.names = list(names)
        self._digits = [[Digit(self.depth + d, 1)] for d in range(len(extents))]
        self._loop_of = {self.depth + d: d for d in range(len(extents))}
        self._splits: dict[int, IndexForm] = {}

    def digits(self, loop: int) -> list[Digit]:
        """The digits of own loop `loop`, the slowest first."""
        return self._digits[loop]

    @property
    def own(self) -> list[int]:
        """The variables of the operation's loops as they are now, outermost first."""
        return [digit.variable for digits in self._digits for digit in digits]

    def extent(self, number: int) -> int:
        """The number of values of a variable."""
        low, high = self.ranges[number]
        return high - low + 1

    def is_own(self, number: int) -> bool:
        """Whether a variable is of the operation, not an enclosing loop."""
        return number >= self.depth

    def resolve(self, form: IndexForm) -> IndexForm:
        """Write `form` over the variables as they are now, simplified."""
        if not self._splits or not form.terms:
            return form
        return substitute(form, self._splits.get, self.ranges)

    def split_for(self, form: IndexForm) -> IndexForm:
        """Split loops until `form` is linear, and return it.

        Raises: CannotRewriteError where no way of splitting does that.
        """
        linear = self.resolve(form)
        while not linear.is_linear:
            division = _innermost(linear)
            if not self._splits_under(division):
                raise CannotRewriteError(self._why_not(division, form))
            linear = self.resolve(form)
        return linear

    def _splits_under(self, division: Division) -> bool:
        """Split a loop for a division, if there is one whose parts go on either side of it."""
        divisor = division.divisor
        moving = [(a, c) for a, c in division.inner.coefficients if c % divisor]
        for number, coefficient in sorted(moving, key=lambda term: -abs(term[1])):
            part = divisor // gcd(coefficient, divisor)
            extent = self.extent(number)
            if number in self._loop_of and extent > part and extent % part == 0:
                self._split(number, part)
                return True
        return False

    def _split(self, number: int, part: int) -> None:
        """Split a variable as `part * high + low`."""
        loop = self._loop_of.pop(number)
        high, low = len(self.ranges), len(self.ranges) + 1
        self.ranges += [(0, self.extent(number) // part - 1), (0, part - 1)]
        self.names += [f"{self.names[number]}_hi", f"{self.names[number]}_lo"]
        self._loop_of |= {high: loop, low: loop}
        digits = self._digits[loop]
        place = next(i for i, digit in enumerate(digits) if digit.variable == number)
        factor = digits[place].factor
        digits[place : place + 1] = [Digit(high, factor * part), Digit(low, factor)]
        self._splits[number] = IndexForm(((high, part), (low, 1)), 0)
        for old, form in self._splits.items():
            if any(atom == number for atom, _ in form.terms):
                self._splits[old] = self.resolve(form)

    def _why_not(self, division: Division, form: IndexForm) -> str:
        text = to_text(form, self.names)
        moving = [v for v, c in division.inner.coefficients if c % division.divisor]
        if any(not self.is_own(number) for number in moving):
            return f"the index {text} divides the index of a loop around"
        for loop in (self._loop_of[number] for number in moving):
            parts = {digit.factor for digit in self._digits[loop]} - {1}
            if parts and division.divisor not in parts:
                name = self.names[self.depth + loop]
                by = " and by ".join(map(str, sorted({*parts, division.divisor})))
                return f"needs loop {name} split by {by}, for the index {text}"
        return f"no way of splitting the loops makes the index {text} linear"


def _innermost(form: IndexForm) -> Division:
    """Return a division whose inner expression is linear."""
    division = next(atom for atom, _ in form.terms if isinstance(atom, Division))
    return division if division.inner.is_linear else _innermost(division.inner)


def loop_variable(loops: Loops, loop: int) -> IndexForm:
    """Return the index of own loop `loop` over the variables as they are now."""
    return loops.resolve(variable(loops.depth + loop))
