"""What an operand reads once copies are composed away: pieces of several arrays, and constants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from polystage.mlir import ir
from polystage.polyhedral.expressions import (
    Range,
    from_terms,
    linear_terms,
    substitute,
    value_range,
)
from polystage.polyhedral.model import Bound


@dataclass(frozen=True)
class Piece:
    """The elements `array[index]`, or the constant `fill`, wherever all bounds hold."""

    array: str | None
    index: tuple[ir.AffineExpr, ...] = ()
    where: tuple[Bound, ...] = ()
    fill: ir.Attribute | None = None


@dataclass(frozen=True)
class Reading:
    """What an operand reads: the first piece whose bounds hold; every instance has one.

    Over the dims of the statement, those of the loops around first.
    """

    pieces: tuple[Piece, ...]


def make_bound(expr: ir.AffineExpr, low: int, high: int) -> Bound:
    """Return `low <= expr <= high` with the constant of `expr` moved into the limits."""
    terms, constant = linear_terms(expr)
    if not constant:
        return Bound(expr, low, high)
    return Bound(from_terms(terms), low - constant, high - constant)


Box = dict[ir.AffineExpr, tuple[int, int]]
"""Limits of some expressions; all others are limited by their range alone."""


@dataclass
class Region:
    """A set of instances of a statement, as boxes in the space of the expressions of bounds.

    It may hold instances that do not exist, where expressions depend on each other, but never
    lacks one. So what is said to hold in all of it does hold.
    """

    ranges: Sequence[Range]
    """The ranges of the statement's dims."""
    boxes: list[Box] = field(default_factory=lambda: [{}])
    limit: int = 64
    """Where more boxes than this would remain, the region stays as it was."""

    @property
    def is_empty(self) -> bool:
        """Whether no instance remains."""
        return not self.boxes

    def meets(self, where: Sequence[Bound]) -> bool:
        """Tell whether all bounds may hold at once somewhere in the region."""
        return any(self._meets(box, where) for box in self.boxes)

    def always(self, bound: Bound, where: Sequence[Bound]) -> bool:
        """Tell whether `bound` holds wherever in the region the bounds of `where` do."""
        others = [other for other in where if other is not bound]
        for box in self.boxes:
            if self._meets(box, others):
                ends = self._ends(box, bound.expr)
                if ends is None or ends[0] < bound.low or ends[1] > bound.high:
                    return False
        return True

    def remove(self, where: Sequence[Bound]) -> None:
        """Take away the instances where all bounds hold."""
        rest: list[Box] = []
        for box in self.boxes:
            if self._meets(box, where):
                rest += self._difference(box, where)
            else:
                rest.append(box)
        if len(rest) <= self.limit:
            self.boxes = rest

    def restrict(self, where: Sequence[Bound]) -> "Region":
        """Return the part of the region where all bounds hold."""
        boxes: list[Box] = []
        for box in self.boxes:
            if self._meets(box, where):
                inner = dict(box)
                for bound in where:
                    inner[bound.expr] = self._overlap(inner, bound)
                boxes.append(inner)
        return Region(self.ranges, boxes, self.limit)

    def _ends(self, box: Box, expr: ir.AffineExpr) -> Range:
        return box.get(expr) or value_range(expr, self.ranges)

    def _overlap(self, box: Box, bound: Bound) -> tuple[int, int]:
        ends = self._ends(box, bound.expr)
        if ends is None:
            return bound.low, bound.high
        return max(ends[0], bound.low), min(ends[1], bound.high)

    def _meets(self, box: Box, where: Sequence[Bound]) -> bool:
        for bound in where:
            low, high = self._overlap(box, bound)
            if low > high:
                return False
        return True

    def _difference(self, box: Box, where: Sequence[Bound]) -> list[Box]:
        """Return the box without its part inside of the bounds, one slab per side of a bound."""
        rest: list[Box] = []
        inner = dict(box)
        for bound in where:
            ends = self._ends(inner, bound.expr)
            if ends is None:
                return [box]
            low, high = self._overlap(inner, bound)
            if ends[0] < low:
                rest.append({**inner, bound.expr: (ends[0], low - 1)})
            if high < ends[1]:
                rest.append({**inner, bound.expr: (high + 1, ends[1])})
            inner[bound.expr] = (low, high)
        return rest


def simplify(
    pieces: Sequence[Piece], ranges: Sequence[Range], shapes: Mapping[str, Sequence[int]]
) -> tuple[Piece, ...]:
    """Drop pieces that never apply, and bounds that need not be said.

    A piece that the earlier ones leave nothing loses its place; a bound goes where it always holds,
    and where earlier pieces see to it and the index stays inside of the array without it.
    """
    region = Region(ranges)
    kept: list[Piece] = []
    for piece in pieces:
        where = tuple(b for b in dict.fromkeys(piece.where) if not _holds(b, ranges))
        if not region.meets(where):
            continue
        if piece.array is None or _stays_inside(piece, ranges, shapes[piece.array]):
            needed = where
            for bound in where:
                if region.always(bound, needed):
                    needed = tuple(other for other in needed if other is not bound)
            where = needed
        kept.append(Piece(piece.array, piece.index, where, piece.fill))
        region.remove(where)
        if region.is_empty:
            break
    return tuple(kept)


def compose(
    expr: ir.AffineExpr, arguments: Sequence[ir.AffineExpr], ranges: Sequence[Range]
) -> ir.AffineExpr:
    """Return `expr` at `arguments`, simplified where the dims of these have `ranges`."""
    return substitute(expr, arguments, (), ranges or ((0, 0),))


def _holds(bound: Bound, ranges: Sequence[Range]) -> bool:
    ends = value_range(bound.expr, ranges)
    return ends is not None and bound.low <= ends[0] and ends[1] <= bound.high


def _stays_inside(piece: Piece, ranges: Sequence[Range], shape: Sequence[int]) -> bool:
    for expr, extent in zip(piece.index, shape, strict=True):
        ends = value_range(expr, ranges)
        if ends is None or ends[0] < 0 or ends[1] >= extent:
            return False
    return True
