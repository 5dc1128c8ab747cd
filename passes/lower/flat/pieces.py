"""Cuts a box of iterations into pieces in which every operand lies at a linear address.

Not linear are addresses in a circular window where it wraps, at the edge between what one array
shows and the next (padding, concatenation), and through quotients and remainders. A piece is a box
of numbered variables: first those of the loops around, then its own, which count from 0.

    rows 5..8 of a window of 6 rows        ->  rows 5 (at 5), rows 6..8 (at 0..2)
    channel c of a window [c floordiv 4, c mod 4]  ->  c = 4 * a + b at [a, b]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from polystage.linear import Linear
from polystage.passes.lower.flat.indices import Digit, Index, compose

T = TypeVar("T")
ZERO = Linear()

Range = tuple[int, int]
"""Least and greatest value."""


class Refined(Exception):
    """Not a failure: a piece has to be divided before it goes on; `pieces` make it up."""

    def __init__(self, *pieces: Piece) -> None:
        super().__init__()
        self.pieces = pieces


@dataclass(frozen=True, slots=True)
class Piece:
    """Iterations of an operator: `dims[d]`, over variables with `ranges`, of which the first
    `loops` are those of loops."""

    dims: tuple[Linear, ...]
    ranges: tuple[Range, ...]
    loops: int = 0

    @classmethod
    def of_box(
        cls, starts: Sequence[Linear], sizes: Sequence[int], loops: Sequence[Range]
    ) -> Piece:
        """Return a box as one piece; `starts` are over the variables of `loops`."""
        first = len(loops)
        dims = tuple(s + Linear.variable(first + d) for d, s in enumerate(starts))
        return cls(dims, (*loops, *((0, size - 1) for size in sizes)), first)

    @property
    def variables(self) -> list[int]:
        """The piece's own variables that have more than one value."""
        return [v for v in range(self.loops, len(self.ranges)) if self.ranges[v][1]]

    def size(self, variable: int) -> int:
        """Return how many values a variable has."""
        low, high = self.ranges[variable]
        return high - low + 1

    def cut(self, variable: int, at: int) -> Refined:
        """Divide into the values below `at` and the others."""
        high = self.ranges[variable][1]
        moved = [Linear.variable(v) + (at if v == variable else 0) for v in range(len(self.ranges))]
        return Refined(
            Piece(self.dims, self._with_range(variable, at - 1), self.loops),
            Piece(
                tuple(compose(d, moved) for d in self.dims),
                self._with_range(variable, high - at),
                self.loops,
            ),
        )

    def split(self, variable: int, inner: int) -> Refined:
        """Write `variable` as `inner * variable + new`, which divides its extent."""
        new = len(self.ranges)
        values = [Linear.variable(v) for v in range(new)]
        values[variable] = values[variable] * inner + Linear.variable(new)
        ranges = self._with_range(variable, self.size(variable) // inner - 1)
        dims = tuple(compose(d, values) for d in self.dims)
        return Refined(Piece(dims, (*ranges, (0, inner - 1)), self.loops))

    def _with_range(self, variable: int, high: int) -> tuple[Range, ...]:
        return (*self.ranges[:variable], (0, high), *self.ranges[variable + 1 :])

    def cut_where(self, form: Linear, value: int) -> Refined:
        """Divide where `form` reaches `value`; one variable after the other if it has several."""
        own = [(v, c) for v, c in form.terms if v >= self.loops and self.ranges[v][1]]
        assert own, "loops run over tiles that need no cut"
        if len(own) > 1:
            return self.cut(min(own, key=lambda term: self.size(term[0]))[0], 1)
        (variable, step) = own[0]
        fixed = form.constant + sum(c * self.ranges[v][0] for v, c in form.terms if v != variable)
        at = -((fixed - value) // step) if step > 0 else (fixed - value) // -step + 1
        return self.cut(variable, at)


def resolve(index: Index, piece: Piece) -> Linear:
    """Return an index over the dims of a piece as a linear form over its variables.

    Raises: Refined.
    """
    total = compose(index.linear, piece.dims)
    for digit, factor in index.digits:
        total = total + _digit(digit, piece) * factor
    return total


def _digit(digit: Digit, piece: Piece) -> Linear:
    """Take apart `multiples of the modulus + rest`, of which the rest stays in one block."""
    form, modulus = resolve(digit.index, piece), digit.modulus
    multiples = Linear(0, tuple((v, c) for v, c in form.terms if c % modulus == 0))
    rest = form - multiples
    low, high = rest.range(piece.ranges)
    block = low // modulus
    if high // modulus != block:
        raise _divided_by(rest, modulus, piece)
    if digit.is_quotient:
        terms = tuple((v, c // modulus) for v, c in multiples.terms)
        return Linear(block, terms)
    return rest - block * modulus


def _divided_by(rest: Linear, modulus: int, piece: Piece) -> Refined:
    """Divide a piece so that `rest` stays in one block of `modulus` values, or splits into whole
    blocks."""
    own = [(v, c) for v, c in rest.terms if v >= piece.loops and piece.ranges[v][1]]
    first = rest.range(piece.ranges)[0]
    if len(own) == 1 and own[0][1] > 0 and modulus % own[0][1] == 0:
        variable, step = own[0]
        inner, size = modulus // step, piece.size(variable)
        if first % modulus < step and size > inner:
            return (
                piece.cut(variable, size - size % inner)
                if size % inner
                else piece.split(variable, inner)
            )
    return piece.cut_where(rest, (first // modulus + 1) * modulus)


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of where an array lies: element x of it at `(x - origin) mod extent * stride`.

    `extent` is None where nothing wraps.
    """

    stride: int
    extent: int | None = None
    origin: Linear = ZERO


def address(indices: Sequence[Index], axes: Sequence[Axis], piece: Piece) -> Linear:
    """Return the address, in elements, of the element at `indices`.

    Raises: Refined, where it is not linear in all of the piece.
    """
    straight, total = Index(), Linear()
    for index, axis in zip(indices, axes, strict=True):
        if axis.origin != ZERO:
            total = total - axis.origin * axis.stride
        if axis.extent is None:
            straight = straight + index * axis.stride
            continue
        form = resolve(index, piece)
        block = _block(form, axis.extent, piece)
        total = total + (form - block * axis.extent) * axis.stride
    return total + resolve(straight, piece)


def _block(form: Linear, extent: int, piece: Piece) -> int:
    low, high = form.range(piece.ranges)
    if high // extent != low // extent:
        raise piece.cut_where(form, (low // extent + 1) * extent)
    return low // extent


@dataclass(frozen=True, slots=True)
class Condition:
    """`low <= index <= high`."""

    index: Index
    low: int
    high: int

    def holds(self, piece: Piece) -> bool:
        """Whether it holds in all of a piece, or in none of it.

        Raises: Refined, where it holds in a part.
        """
        form = resolve(self.index, piece)
        low, high = form.range(piece.ranges)
        if low >= self.low and high <= self.high:
            return True
        if high < self.low or low > self.high:
            return False
        raise piece.cut_where(form, self.low if low < self.low else self.high + 1)


@dataclass(frozen=True, slots=True)
class Alternative:
    """The elements of an array that are read where `conditions` hold."""

    access: int
    """Which of the operator's accesses."""
    indices: tuple[Index, ...]
    conditions: tuple[Condition, ...] = ()

    def applies(self, piece: Piece) -> bool:
        """Whether all conditions hold.

        Raises: Refined.
        """
        return all(condition.holds(piece) for condition in self.conditions)


def shown(alternatives: Sequence[Alternative], piece: Piece) -> Alternative | None:
    """Return which of several alternatives a piece reads, the first that applies; None is the
    constant below all of them.

    Raises: Refined.
    """
    return next((a for a in alternatives if a.applies(piece)), None)


def refine(piece: Piece, read: Callable[[Piece], T]) -> Iterator[tuple[Piece, T]]:
    """Yield the pieces that `read` takes without dividing them further, with what it returns."""
    todo = [piece]
    while todo:
        current = todo.pop()
        try:
            found = read(current)
        except Refined as refined:
            todo += reversed(refined.pieces)
            continue
        yield current, found
