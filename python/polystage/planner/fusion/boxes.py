"""Boxes of integer points, many at a time, and what accesses make of them.

Boxes are int64 arrays [.., axes, 2] that hold `(start, -stop)` for every axis. So the hull of two
boxes is their minimum, the intersection their maximum, and what an access with linear indices makes
of a box is a product with a matrix that has no negative elements. EMPTY stands in both places of
every axis of a box without points.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np

from polystage.mlir import ir
from polystage.planner.fusion.operators import Operator
from polystage.polyhedral import Access, Array, TileFootprint, tile_footprint
from polystage.polyhedral.expressions import linear_terms
from polystage.polyhedral.footprint import limits_of

EMPTY = 1 << 40


def whole(extents: Sequence[int]) -> np.ndarray:
    """Return the box of everything, [axes, 2]."""
    return np.array([(0, -extent) for extent in extents], dtype=np.int64).reshape(-1, 2)


def lengths(boxes: np.ndarray) -> np.ndarray:
    """Return how many points boxes have along each axis, 0 or less where empty."""
    return -(boxes[..., 0] + boxes[..., 1])


def is_empty(boxes: np.ndarray) -> np.ndarray:
    """Return which boxes have no points."""
    return np.asarray((boxes[..., 0] + boxes[..., 1] >= 0).any(axis=-1))


def is_nothing(boxes: np.ndarray) -> np.ndarray:
    """Return which boxes are EMPTY: the same as `is_empty` for boxes that are settled, but fast."""
    if not boxes.shape[-2]:
        return np.zeros(boxes.shape[:-2], dtype=bool)
    return boxes[..., 0, 0] == EMPTY


def settled(boxes: np.ndarray) -> np.ndarray:
    """Write EMPTY into boxes that are empty along any axis."""
    empty = is_empty(boxes)
    if empty.any():
        boxes[empty] = EMPTY
    return boxes


def volumes(boxes: np.ndarray) -> np.ndarray:
    """Return how many points boxes have."""
    return np.maximum(lengths(boxes), 0).prod(axis=-1)


def from_ranges(ranges: np.ndarray) -> np.ndarray:
    """Return boxes for [.., axes, 2] of start and stop."""
    boxes = np.asarray(ranges, dtype=np.int64).copy()
    boxes[..., 1] *= -1
    return settled(boxes)


def to_ranges(boxes: np.ndarray) -> np.ndarray:
    """Return start and stop along every axis; both are 0 where a box is empty."""
    ranges = np.where(is_nothing(boxes)[..., None, None], 0, boxes)
    ranges[..., 1] *= -1
    return ranges


def hull_of(boxes: Iterable[np.ndarray]) -> np.ndarray:
    """Return the smallest boxes that hold all of the given ones, place by place."""
    return reduce(np.minimum, boxes)


def without(boxes: np.ndarray, gone: np.ndarray) -> np.ndarray | None:
    """Return what is left of boxes, or None where one of the rests is no box."""
    meets = ~is_empty(np.maximum(boxes, gone))
    if not meets.any():
        return boxes
    is_covered = gone <= boxes  # per end: `gone` reaches as far, or farther
    is_open = ~(is_covered[..., 0] & is_covered[..., 1])
    open_axes = is_open.sum(axis=-1)
    if (meets & (open_axes > 1)).any():
        return None
    cut = meets[..., None] & is_open & (open_axes == 1)[..., None]
    if (cut & ~(is_covered[..., 0] | is_covered[..., 1])).any():
        return None  # a hole in the middle
    rest = boxes.copy()
    rest[..., 0] = np.where(cut & is_covered[..., 0], -gone[..., 1], boxes[..., 0])
    rest[..., 1] = np.where(cut & is_covered[..., 1], -gone[..., 0], boxes[..., 1])
    rest[meets & (open_axes == 0)] = EMPTY
    return settled(rest)


@dataclass(frozen=True)
class BoxMap:
    """What an access touches of its array, as a box, for boxes of iterations; and back.

    Exact along each axis for linear indices. Indices with divisions go by the closed forms of
    `tile_footprint`. Either way all axes together are a hull.
    """

    shape: tuple[int, ...]
    extents: tuple[int, ...]
    factors: np.ndarray = field(repr=False)
    """[2 * dims, 2 * axes], what the ends of the image are of the ends of a box."""
    constants: np.ndarray = field(repr=False)
    """[2 * axes]"""
    limits: np.ndarray = field(repr=False)
    """[axes, 2], the box outside of which the access does not happen."""
    curved: tuple[int, ...]
    """Axes whose indices are not linear."""
    form: TileFootprint | None = field(repr=False)
    """For the curved axes."""
    terms: tuple[tuple[tuple[tuple[int, int], ...], int], ...]
    """Per axis: dims with their factors, largest factor first, and the constant."""
    domain: np.ndarray | None = field(default=None, repr=False)
    """[dims, 2], the box of iterations outside of which the access does not happen, where that is
    not all of them."""

    @cached_property
    def used(self) -> frozenset[int]:
        """The dims that any index depends on."""
        return frozenset[int]().union(*self.dims)

    @cached_property
    def dims(self) -> tuple[frozenset[int], ...]:
        """Per axis, the dims that its index depends on."""
        found: list[frozenset[int]] = []
        for axis, (terms, _) in enumerate(self.terms):
            if axis in self.curved:
                arguments = self.form.lower[axis].arguments if self.form is not None else ()
                found.append(frozenset(arguments))
            else:
                found.append(frozenset(dim for dim, _ in terms))
        if self.domain is not None and found:  # whether anything is touched depends on these, too
            cut = (self.domain != whole(self.extents)).any(axis=-1)
            found[0] |= frozenset(np.flatnonzero(cut).tolist())
        return tuple(found)

    @cached_property
    def _everything(self) -> np.ndarray:
        """What all iterations touch."""
        return self._image(whole(self.extents))

    def image(self, boxes: np.ndarray) -> np.ndarray:
        """Return the boxes of touched elements, [.., axes, 2]."""
        if (
            boxes.size == 2 * len(self.extents)
            and (boxes.reshape(-1, 2) == whole(self.extents)).all()
        ):
            return self._everything.reshape(*boxes.shape[:-2], -1, 2)
        return self._image(boxes)

    def _image(self, boxes: np.ndarray) -> np.ndarray:
        if self.domain is not None:
            boxes = settled(np.maximum(boxes, self.domain))
        leading = boxes.shape[:-2]
        flat = boxes.reshape(*leading, -1) @ self.factors + self.constants
        reached = flat.reshape(*leading, len(self.shape), 2)
        found = np.maximum(reached, self.limits)
        for axis in self._gapped:
            found[..., axis, :] = self._within_limits(axis, reached[..., axis, :], lengths(boxes))
        if self.used and not self.curved:  # what comes of EMPTY is empty
            return settled(found)
        if self.curved and self.form is not None:
            ranges = to_ranges(boxes)
            origin = ranges[..., 0]
            size = np.maximum(ranges[..., 1] - origin, 1)
            for axis in self.curved:
                lower = self.form.lower[axis](origin, size)
                found[..., axis, 0] = lower
                found[..., axis, 1] = -lower - self.form.extent[axis](origin, size)
            found = np.maximum(found, self.limits)
        found[is_nothing(boxes)] = EMPTY
        return settled(found)

    @cached_property
    def _gapped(self) -> tuple[int, ...]:
        """Axes that are cut off, and along which a box may skip elements."""
        ends = self._reach_of(whole(self.extents))
        return tuple(
            axis
            for axis, (terms, _) in enumerate(self.terms)
            if any(abs(factor) > 1 for _, factor in terms) and (ends < self.limits)[axis].any()
        )

    def _reach_of(self, boxes: np.ndarray) -> np.ndarray:
        return (boxes.reshape(-1) @ self.factors + self.constants).reshape(-1, 2)

    def _within_limits(self, axis: int, ends: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Cut an axis off at its limits; where the limit falls between two touched elements, at the
        one inside of it.

        2 * h - 1 for 0 <= h <= 2, not below 0  ->  1 to 3
        """
        terms = [(abs(factor), sizes[..., dim] - 1) for dim, factor in self.terms[axis][0]]
        step = np.maximum.reduce([np.where(more > 0, factor, 1) for factor, more in terms])
        inner = sum(np.where(factor < step, factor * more, 0) for factor, more in terms)
        beyond = self.limits[axis] - ends
        rest = beyond % step[..., None]
        is_gap = (beyond > 0) & (rest > np.asarray(inner)[..., None])
        return np.maximum(ends, self.limits[axis]) + np.where(is_gap, step[..., None] - rest, 0)

    def preimage(self, boxes: np.ndarray) -> np.ndarray:
        """Return a box of the iterations that touch the given elements, [.., dims, 2]: the smallest
        one where each axis has dims of its own."""
        domain = whole(self.extents)
        found = np.broadcast_to(domain, (*boxes.shape[:-2], *domain.shape)).copy()
        empty = is_empty(np.maximum(boxes, self.limits))
        for axis, (terms, constant) in enumerate(self.terms):
            if axis in self.curved:
                continue
            first = boxes[..., axis, 0] - constant
            last = -boxes[..., axis, 1] - 1 - constant
            empty |= _solve(found, terms, self.extents, first, last)
        found[empty] = EMPTY
        return settled(found)


def box_map(operator: Operator, access: Access, shape: tuple[int, ...]) -> BoxMap:
    """Return what `access` of `operator` touches of an array of `shape`."""
    dims, axes = len(operator.extents), len(shape)
    factors = np.zeros((dims, 2, axes, 2), dtype=np.int64)
    constants = np.zeros((axes, 2), dtype=np.int64)
    limits = whole(shape)
    curved: list[int] = []
    terms: list[tuple[tuple[tuple[int, int], ...], int]] = []
    if access.exprs is None:
        constants += limits
        terms = [((), 0)] * axes
        curved = list(range(axes))
    for axis, expr in enumerate(access.exprs or ()):
        linear, constant = _linear(expr)
        if linear is None:
            curved.append(axis)
            terms.append(((), 0))
            continue
        constants[axis] = constant, -constant - 1
        for dim, factor in linear:
            if factor > 0:
                factors[dim, 0, axis, 0] = factors[dim, 1, axis, 1] = factor
                constants[axis, 1] += factor
            else:
                factors[dim, 1, axis, 0] = factors[dim, 0, axis, 1] = -factor
                constants[axis, 0] += -factor
        terms.append((tuple(sorted(linear, key=lambda term: -term[1])), constant))
        for bound in access.where:
            ends = limits_of(expr, bound)
            if ends is not None:
                limits[axis] = np.maximum(limits[axis], (ends[0], -ends[1] - 1))
    domain = _domain(operator, access)
    is_bent = bool(curved) and access.exprs is not None
    return BoxMap(
        shape,
        operator.extents,
        factors.reshape(2 * dims, 2 * axes),
        constants.reshape(-1),
        limits,
        tuple(curved),
        tile_footprint(operator.statements[0], access) if is_bent else None,
        tuple(terms),
        None if domain is None or (domain == whole(operator.extents)).all() else domain,
    )


def _domain(operator: Operator, access: Access) -> np.ndarray | None:
    """Return the smallest box of the iterations in which an access happens, where one before it of
    the same operand, or a bound of its own, decides on that; else None."""
    same = [r for r in operator.reads if (r.op, r.operand) == (access.op, access.operand)]
    is_first = access not in same[1:]
    if access.exprs is None or (is_first and not access.where):
        return None
    instances = access.map.domain()
    dims = range(len(operator.extents))
    if instances.is_empty():
        return np.full((len(dims), 2), EMPTY, dtype=np.int64)
    low = [instances.dim_min_val(dim).to_python() for dim in dims]
    high = [instances.dim_max_val(dim).to_python() for dim in dims]
    return np.array([low, [-end - 1 for end in high]], dtype=np.int64).T


def _linear(expr: ir.AffineExpr) -> tuple[list[tuple[int, int]] | None, int]:
    """Return dims with factors, or None where there are divisions, and the constant."""
    terms, constant = linear_terms(expr)
    found: list[tuple[int, int]] = []
    for atom, factor in terms.items():
        if not isinstance(atom, ir.AffineDimExpr):
            return None, 0
        found.append((atom.position, factor))
    return found, constant


def _solve(
    found: np.ndarray,
    terms: Sequence[tuple[int, int]],
    extents: Sequence[int],
    first: Any,
    last: Any,
) -> np.ndarray:
    """Cut `found` down to where `first <= sum of terms <= last`; return where nothing is left.

    Several terms are taken apart as the digits of a number, where they are that; else only those
    boxes are told that cannot hold any solution.
    """
    if not terms:
        return (first > 0) | (last < 0)
    (dim, factor), rest = terms[0], terms[1:]
    if not rest:
        low, high = (first, last) if factor > 0 else (-last, -first)
        step = abs(factor)
        start, stop = -((-low) // step), high // step + 1
        found[..., dim, 0] = np.maximum(found[..., dim, 0], start)
        found[..., dim, 1] = np.maximum(found[..., dim, 1], -stop)
        return stop <= start
    spans = [f * (extents[d] - 1) for d, f in rest]
    if rest[-1][1] < 0 or sum(spans) >= factor:
        largest = sum(f * (extents[d] - 1) for d, f in terms if f > 0)
        smallest = sum(f * (extents[d] - 1) for d, f in terms if f < 0)
        return (first > largest) | (last < smallest)
    first = np.maximum(first, 0)
    last = np.minimum(last, factor * (extents[dim] - 1) + sum(spans))
    start, stop = first // factor, last // factor + 1
    found[..., dim, 0] = np.maximum(found[..., dim, 0], start)
    found[..., dim, 1] = np.maximum(found[..., dim, 1], -stop)
    is_one = stop - start == 1
    inner = found.copy()
    none = _solve(inner, rest, extents, first - start * factor, last - start * factor)
    found[...] = np.where(is_one[..., None, None], inner, found)
    return (stop <= start) | (is_one & none)


@dataclass(frozen=True)
class OperatorMaps:
    """The box maps of an operator's accesses."""

    reads: tuple[BoxMap, ...]
    writes: tuple[BoxMap, ...]
    ends: tuple[bool, ...]
    """Which reads happen with the result, once per element of it: those of the epilogue, and that
    of what an accumulation starts from."""


def operator_maps(operator: Operator, arrays: Mapping[str, Array]) -> OperatorMaps:
    """Return the box maps of all accesses."""
    replaced = {write.array: write.exprs for write in operator.writes}
    return OperatorMaps(
        tuple(box_map(operator, access, arrays[access.array].shape) for access in operator.reads),
        tuple(box_map(operator, access, arrays[access.array].shape) for access in operator.writes),
        tuple(
            operator.is_epilogue(read) or (replaced.get(read.array, ()) == read.exprs)
            for read in operator.reads
        ),
    )
