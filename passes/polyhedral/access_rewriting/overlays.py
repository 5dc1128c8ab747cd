"""A reading of several arrays as one virtual array: boxes of arrays laid over each other.

The dimensions of the virtual array are what bounds and indices are made of, such as `2*oh + kh`;
there every piece is a box.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import gcd

from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting.accesses import Part
from polystage.passes.polyhedral.access_rewriting.errors import CannotRewriteError
from polystage.passes.polyhedral.access_rewriting.index_forms import (
    IndexForm,
    Interval,
    interval,
    make,
)
from polystage.passes.polyhedral.access_rewriting.view_steps import (
    Cut,
    Expand,
    Transpose,
    ViewStep,
)
from polystage.passes.polyhedral.access_rewriting.whole_rows import in_whole_rows
from polystage.passes.polyhedral.access_rewriting.windows import (
    Surroundings,
    Window,
    strided_window,
    window,
    without_fixed,
)

MAXIMUM_PIECES = 16
"""The largest number of arrays in one virtual array."""

Terms = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layer:
    """A view on an array, and where in the virtual array it lies."""

    array: str
    steps: tuple[ViewStep, ...]
    offsets: tuple[int, ...]
    covers_all: bool
    part: Part


@dataclass(frozen=True)
class VirtualArray:
    """Layers, the top one first, over a constant, and the index into them."""

    layers: tuple[Layer, ...]
    fill: ir.Attribute | None
    shape: tuple[int, ...]
    index: tuple[IndexForm, ...]


@dataclass(frozen=True)
class _Box:
    part: Part
    index: tuple[IndexForm, ...]
    """That of the part over the dimensions of the virtual array."""
    sides: tuple[Interval, ...]

    def covers(self, other: _Box) -> bool:
        return all(
            a[0] <= b[0] and b[1] <= a[1] for a, b in zip(self.sides, other.sides, strict=True)
        )

    def meets(self, other: _Box) -> bool:
        return all(
            a[0] <= b[1] and b[0] <= a[1] for a, b in zip(self.sides, other.sides, strict=True)
        )


def virtual_array(
    parts: Sequence[Part], around: Surroundings, parallel: Collection[int] = ()
) -> VirtualArray:
    """Return the parts of a reading as layers of one array; `parallel` are the loops that are.

    Raises: CannotRewriteError where they are no boxes of one.
    """
    if any(v < around.depth for p in parts for x in p.limits for v, _ in x.form.coefficients):
        raise CannotRewriteError("where it reads moves with a loop around")
    parts = [part.with_index(without_fixed(form, around) for form in part.index) for part in parts]
    rows = in_whole_rows(parts, around.ranges, parallel)
    if rows != parts:
        try:
            return _composed(rows, around)
        except CannotRewriteError:
            pass  # a dimension that several loops walk is worse, but may be possible
    return _composed(parts, around)


def _composed(parts: Sequence[Part], around: Surroundings) -> VirtualArray:
    coarse = _basis(parts, around, is_fine=False)
    try:
        return _Composition(coarse, around).compose(parts)
    except CannotRewriteError:
        fine = _basis(parts, around, is_fine=True)
        if fine == coarse:
            raise
        return _Composition(fine, around).compose(parts)


# --- dimensions -----------------------------------------------------------------------------------


def _basis(parts: Sequence[Part], around: Surroundings, is_fine: bool) -> list[Terms]:
    """Return the dimensions: what bounds are about, then what else indices are made of.

    A sum of loops in an index is one dimension, or, where `is_fine`, one for each loop.
    """
    basis: list[Terms] = []
    for part in parts:
        for limit in part.limits:
            terms, _ = _primitive(limit.form.coefficients)
            if terms and terms not in basis:
                basis.append(terms)
    for part in parts:
        for form in part.index:
            _, rest = _over(basis, _moving(form, around))
            if not rest:
                continue
            if is_fine:
                basis += [((v, 1),) for v, _ in rest]
            else:
                basis.append(_primitive(rest)[0])
    return _in_order_of_index(basis, parts, around)


def _in_order_of_index(
    basis: list[Terms], parts: Sequence[Part], around: Surroundings
) -> list[Terms]:
    """Return the dimensions in the order in which the array of most dimensions has them.

    Those along which every index falls are turned around.
    """
    factors_of: dict[int, list[int]] = {}
    by_rank = sorted(parts, key=lambda part: -sum(bool(form.terms) for form in part.index))
    for form in (form for part in by_rank for form in part.index):
        factors, _ = _over(basis, _moving(form, around))
        for place in sorted(factors, key=lambda place: -abs(factors[place])):
            factors_of.setdefault(place, []).append(factors[place])
    ordered = [basis[place] for place in dict.fromkeys([*factors_of, *range(len(basis))])]
    falling = {basis[place] for place, factors in factors_of.items() if max(factors) < 0}
    return [_negated(terms) if terms in falling else terms for terms in ordered]


def _negated(terms: Terms) -> Terms:
    return tuple((v, -c) for v, c in terms)


def _moving(form: IndexForm, around: Surroundings) -> Terms:
    if not around.depth:
        return form.coefficients
    return tuple(term for term in form.coefficients if term[0] >= around.depth)


def _primitive(terms: Terms) -> tuple[Terms, int]:
    """Return terms without their common factor, most of them positive, and the factor."""
    factor = gcd(*(c for _, c in terms))
    if sum(c < 0 for _, c in terms) * 2 > len(terms):
        factor = -factor
    return tuple((v, c // factor) for v, c in terms), factor


def _over(basis: Sequence[Terms], terms: Terms) -> tuple[dict[int, int], Terms]:
    """Write terms as a sum of multiples of the basis; return the factors and what is left."""
    if terms in basis:
        return {basis.index(terms): 1}, ()
    factors: dict[int, int] = {}
    rest = dict(terms)
    while rest:
        best: tuple[int, int, int] | None = None
        for place, form in enumerate(basis):
            first, unit = form[0]
            factor, remainder = divmod(rest.get(first, 0), unit)
            if remainder or not factor or any(rest.get(v) != factor * c for v, c in form):
                continue
            if best is None or len(form) > best[0]:
                best = len(form), place, factor
        if best is None:
            break
        _, place, factor = best
        factors[place] = factor
        for v, _ in basis[place]:
            del rest[v]
    return factors, tuple(rest.items())


# --- layers ---------------------------------------------------------------------------------------


class _Composition:
    """A virtual array in the making; its dimension j is the variable `depth + j`."""

    def __init__(self, basis: list[Terms], around: Surroundings) -> None:
        self.basis = basis
        self.around = around
        self.ranges = [interval(make(dict(terms)), around.ranges) for terms in basis]

    def compose(self, parts: Sequence[Part]) -> VirtualArray:
        boxes, fill = self._without_fills(self._visible(parts))
        if len(boxes) > MAXIMUM_PIECES:
            raise CannotRewriteError(
                f"reads {len(boxes)} pieces, but an overlay has at most {MAXIMUM_PIECES}"
            )
        layers = tuple(map(self._layer, boxes))
        shape = tuple(high - low + 1 for low, high in self.ranges)
        index = tuple(
            make(dict(terms), -low) for terms, (low, _) in zip(self.basis, self.ranges, strict=True)
        )
        return VirtualArray(layers, fill, shape, index)

    def _visible(self, parts: Sequence[Part]) -> list[_Box]:
        """Return the boxes of the parts that show, down to one that covers everything."""
        boxes: list[_Box] = []
        whole = _Box(parts[0], (), tuple(self.ranges))
        for part in parts:
            box = self._box(part)
            if box is None or any(upper.covers(box) for upper in boxes):
                continue
            boxes.append(box)
            if box.covers(whole):
                break
        return boxes

    def _box(self, part: Part) -> _Box | None:
        """Return the box in which a part holds and its array has elements; None if empty."""
        sides = list(self.ranges)
        for limit in part.limits:
            terms, factor = _primitive(limit.form.coefficients) if limit.form.terms else ((), 1)
            if not terms:
                return None  # a limit that always holds is gone, so this one never does
            if terms not in self.basis:
                terms, factor = _negated(terms), -factor
            place = self.basis.index(terms)
            sides[place] = _clipped(sides[place], factor, 0, limit.low, limit.high)
        placed: list[IndexForm] = []
        for extent, form in zip(part.shape, part.index, strict=True):
            own = self._placed(form)
            placed.append(own)
            if len(own.terms) == 1 and own.coefficients[0][0] >= self.around.depth:
                ((number, factor),) = own.coefficients
                place = number - self.around.depth
                side = _clipped(sides[place], factor, own.constant, 0, extent - 1)
                sides[place] = side
        if any(low > high for low, high in sides):
            return None
        return _Box(part, tuple(placed), tuple(sides))

    def _placed(self, form: IndexForm) -> IndexForm:
        """Return an index over the dimensions of the virtual array."""
        factors, rest = _over(self.basis, _moving(form, self.around))
        if rest:
            raise CannotRewriteError("the pieces it reads have no common dimensions")
        outer = {v: c for v, c in form.coefficients if v < self.around.depth}
        own = {self.around.depth + place: factor for place, factor in factors.items()}
        return make({**outer, **own}, form.constant)

    def _without_fills(self, boxes: list[_Box]) -> tuple[list[_Box], ir.Attribute | None]:
        """Move constants to the bottom, cutting what lies below them."""
        fills = {box.part.fill for box in boxes if box.part.array is None}
        if len(fills) > 1:
            raise CannotRewriteError("reads two different constants")
        kept: list[_Box] = []
        for number, box in enumerate(boxes):
            if box.part.array is None:
                continue
            for upper in boxes[:number]:
                if upper.part.array is None and box.meets(upper):
                    box = _cut(box, upper)
            kept.append(box)
        return kept, next(iter(fills), None)

    def _layer(self, box: _Box) -> Layer:
        part = box.part
        index = [self._from_corner(form, box) for form in box.index]
        sides = [(0, high - low) for low, high in box.sides]
        around = replace(self.around, ranges=[*self.around.ranges[: self.around.depth], *sides])
        assert part.array is not None
        try:
            found = window(part.shape, index, around)
            steps = (*part.steps, *self._ordered(found, box))
        except _NoOrderError as error:
            if not part.is_row_major:
                raise CannotRewriteError(str(error)) from None
            order = [self.around.depth + place for place in range(len(self.basis))]
            steps = strided_window(part.shape, index, around, order).steps
        offsets = tuple(
            side[0] - low for side, (low, _) in zip(box.sides, self.ranges, strict=True)
        )
        covers_all = list(box.sides) == self.ranges
        return Layer(part.array, steps, offsets, covers_all, part)

    def _from_corner(self, form: IndexForm, box: _Box) -> IndexForm:
        """Return an index over the dimensions counted from the corner of a box."""
        depth = self.around.depth
        corner = sum(c * box.sides[v - depth][0] for v, c in form.coefficients if v >= depth)
        return IndexForm(form.terms, form.constant + corner)

    def _ordered(self, found: Window, box: _Box) -> tuple[ViewStep, ...]:
        """Return the steps that give a window the dimensions of the virtual array."""
        places: list[int | None] = []
        for form in found.index:
            if form.terms and (len(form.terms) > 1 or form.coefficients[0][1] != 1):
                raise _NoOrderError("a piece slides over its array within the overlay")
            number = form.coefficients[0][0] if form.terms else None
            places.append(None if number is None else number - self.around.depth)
        missing = [place for place in range(len(self.basis)) if place not in places]
        if len(set(filter(_is_known, places))) < sum(map(_is_known, places)) or any(
            box.sides[place][0] < box.sides[place][1] for place in missing
        ):
            raise _NoOrderError("a piece is repeated along a dimension of the overlay")
        for dim, place in enumerate(places):
            if place is None and missing:
                places[dim] = missing.pop(0)
        steps = list(found.steps)
        kept = [dim for dim, place in enumerate(places) if place is not None]
        if len(kept) < len(places):
            steps.append(dropped(found.shape, kept))
        order = [place for place in places if place is not None]
        permutation = sorted(range(len(order)), key=lambda dim: order[dim])
        if permutation != list(range(len(order))):
            steps.append(Transpose(tuple(permutation)))
        if missing:
            shape = {order[dim]: found.shape[kept[dim]] for dim in range(len(order))}
            steps.append(self._with_unit_dims(shape))
        return tuple(steps)

    def _with_unit_dims(self, shape: dict[int, int]) -> Expand:
        groups: list[list[int]] = []
        pending: list[int] = []
        for place in range(len(self.basis)):
            if place in shape:
                groups.append([*pending, shape[place]])
                pending = []
            else:
                pending.append(1)
        if not groups:
            raise _NoOrderError("a piece is one element of an array without dimensions")
        groups[-1] += pending
        return Expand(tuple(map(tuple, groups)))


class _NoOrderError(Exception):
    """A window cannot take the dimensions of the virtual array by moving its own."""


def _is_known(place: int | None) -> bool:
    return place is not None


def dropped(shape: Sequence[int], kept: Sequence[int]) -> Cut:
    """Return the step that drops all dimensions but `kept`; those must be of extent 1."""
    start = (IndexForm((), 0),) * len(shape)
    return Cut(start, tuple(shape), (1,) * len(shape), tuple(kept))


def _clipped(side: Interval, factor: int, constant: int, low: int, high: int) -> Interval:
    """Return the part of `side` where `low <= factor * x + constant <= high`."""
    first, last = low - constant, high - constant
    if factor < 0:
        factor, first, last = -factor, -last, -first
    return max(side[0], -(-first // factor)), min(side[1], last // factor)


def _cut(box: _Box, upper: _Box) -> _Box:
    """Return what `upper` leaves of `box`, which must be a box."""
    outside = [
        place
        for place, (side, cover) in enumerate(zip(box.sides, upper.sides, strict=True))
        if not (cover[0] <= side[0] and side[1] <= cover[1])
    ]
    if len(outside) == 1:
        (place,) = outside
        side, cover = box.sides[place], upper.sides[place]
        rest = (side[0], cover[0] - 1) if cover[0] > side[0] else (cover[1] + 1, side[1])
        if not (cover[0] > side[0] and cover[1] < side[1]):
            return replace(box, sides=(*box.sides[:place], rest, *box.sides[place + 1 :]))
    raise CannotRewriteError("a constant lies over a part of an array that is no box")
