"""The part of an array that an access touches, as a view with one plain loop per dimension.

Index `8 * a + b + 2` with `b < 4` into 24 elements: expand to 3 x 8, then take `[:, 2:6]`; the
index into that is `(a, b)`. Index `2 * h + kh` stays a sum: it is a window that slides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import gcd, prod

from polystage.passes.polyhedral.access_rewriting.errors import CannotRewriteError
from polystage.passes.polyhedral.access_rewriting.index_forms import (
    ZERO,
    IndexForm,
    Interval,
    add,
    interval,
    make,
    variable,
)
from polystage.passes.polyhedral.access_rewriting.view_steps import (
    Cut,
    Expand,
    Reinterpret,
    ViewStep,
)


@dataclass(frozen=True)
class Window:
    """A view of an array: the steps to it, its shape, and the index into it."""

    steps: tuple[ViewStep, ...]
    shape: tuple[int, ...]
    index: tuple[IndexForm, ...]
    """Over the operation's variables; each starts at 0."""

    @property
    def plain(self) -> list[int | None]:
        """The variable that each dimension is exactly, or None."""
        return [plain_variable(form) for form in self.index]

    @property
    def is_plain(self) -> bool:
        """Whether every dimension is another variable, or does not move."""
        moving = [form for form in self.index if form.terms]
        plain = {v for v in map(plain_variable, moving) if v is not None}
        return len(plain) == len(moving)


def plain_variable(form: IndexForm) -> int | None:
    """Return the variable that a form is, or None."""
    if form.constant == 0 and len(form.terms) == 1:
        ((atom, coefficient),) = form.terms
        if coefficient == 1 and isinstance(atom, int):
            return atom
    return None


@dataclass(frozen=True)
class Surroundings:
    """What a window may depend on besides the operation's variables."""

    ranges: Sequence[Interval]
    depth: int = 0
    """Variables below it are the indices of loops around: their part of an index is an offset."""
    to_loop_index: Callable[[IndexForm], IndexForm] = field(default=lambda form: form)
    """Rewrites an offset from the numbers of iterations to the indices of the loops."""


@dataclass(frozen=True)
class _Level:
    """A dimension of the array, or a part of one after expanding it."""

    extent: int
    form: IndexForm


def window(shape: Sequence[int], forms: Sequence[IndexForm], around: Surroundings) -> Window:
    """Return the view on an array of `shape` whose elements at `forms` are accessed.

    Raises: CannotRewriteError where the access leaves the array.
    """
    _check_inside(shape, forms, around.ranges)
    splits = [_levels(extent, form, around) for extent, form in zip(shape, forms, strict=True)]
    steps: list[ViewStep] = []
    starts = [start for start, _ in splits]
    sizes = [prod(level.extent for level in levels) for _, levels in splits]
    _add_cut(steps, starts, sizes, [1] * len(sizes), shape)
    if any(len(levels) > 1 for _, levels in splits):
        steps.append(Expand(tuple(tuple(x.extent for x in levels) for _, levels in splits)))
    levels = [level for _, parts in splits for level in parts]
    spans = [_span(level, around) for level in levels]
    sizes = [span.size for span in spans]
    offsets, strides = [span.offset for span in spans], [span.stride for span in spans]
    _add_cut(steps, offsets, sizes, strides, [level.extent for level in levels])
    return Window(tuple(steps), tuple(sizes), tuple(span.index for span in spans))


def strided_window(
    shape: Sequence[int],
    forms: Sequence[IndexForm],
    around: Surroundings,
    order: Sequence[int] | None = None,
) -> Window:
    """Return a reinterpret_cast of a row-major array with one dimension for each variable.

    The dimensions are `order`, where variables that do not occur get the stride 0; without an
    order, they are those that occur, the largest stride first.

    Raises: CannotRewriteError where the address runs backwards.
    """
    _check_inside(shape, forms, around.ranges)
    address, stride = ZERO, 1
    for extent, form in zip(reversed(shape), reversed(forms), strict=True):
        address = add(address, form, stride)
        stride *= extent
    factors = {v: c for v, c in address.coefficients if v >= around.depth}
    if any(factor < 0 for factor in factors.values()):
        raise CannotRewriteError("the access runs backwards through the array")
    order = sorted(factors, key=lambda v: -factors[v]) if order is None else order
    lows = [around.ranges[v][0] for v in order]
    sizes = tuple(around.ranges[v][1] - low + 1 for v, low in zip(order, lows, strict=True))
    strides = tuple(factors.get(v, 0) for v in order)
    start = sum(low * s for low, s in zip(lows, strides, strict=True)) + address.constant
    offset = make({v: c for v, c in address.coefficients if v < around.depth}, start)
    step = Reinterpret(around.to_loop_index(offset), sizes, strides)
    index = tuple(variable(v, 1, -low) for v, low in zip(order, lows, strict=True))
    return Window((step,), sizes, index)


def _check_inside(
    shape: Sequence[int], forms: Sequence[IndexForm], ranges: Sequence[Interval]
) -> None:
    for extent, form in zip(shape, forms, strict=True):
        low, high = interval(form, ranges)
        if low < 0 or high >= extent:
            raise CannotRewriteError(
                f"an index runs from {low} to {high} in a dimension of extent {extent}"
            )


def _add_cut(
    steps: list[ViewStep],
    offsets: Sequence[IndexForm],
    sizes: Sequence[int],
    strides: Sequence[int],
    shape: Sequence[int],
) -> None:
    is_all = list(sizes) == list(shape) and set(strides) <= {1}
    if not (is_all and all(not form.terms and form.constant == 0 for form in offsets)):
        kept = tuple(range(len(shape)))
        steps.append(Cut(tuple(offsets), tuple(sizes), tuple(strides), kept))


# --- one dimension as several ---------------------------------------------------------------------


def _levels(extent: int, form: IndexForm, around: Surroundings) -> tuple[IndexForm, list[_Level]]:
    """Return a start, and the dimensions into which what follows it is expanded."""
    if len(form.terms) < 2:
        return ZERO, [_Level(extent, form)]
    form = without_fixed(form, around)
    own = [term for term in form.coefficients if term[0] >= around.depth]
    if len(own) < 2:
        return ZERO, [_Level(extent, form)]
    levels = _expanded(extent, form, around.ranges)
    if len(levels) < len(own) and len(own) < len(form.terms) + bool(form.constant):
        start = make({v: c for v, c in form.coefficients if v < around.depth}, form.constant)
        first, last = interval(start, around.ranges)
        shifted = _expanded(extent - last, make(dict(own)), around.ranges)
        if first >= 0 and len(shifted) > len(levels):
            return around.to_loop_index(start), shifted
    return ZERO, levels


def without_fixed(form: IndexForm, around: Surroundings) -> IndexForm:
    """Replace variables with one value by it, except where a variable is the only one."""
    ranges, depth = around.ranges, around.depth
    own = len(form.terms)
    if depth:
        own = sum(v >= depth for v, _ in form.coefficients)
    elif own < 2:
        return form
    fixed = {
        v: c
        for v, c in form.coefficients
        if ranges[v][0] == ranges[v][1] and (own > 1 or v < depth)
    }
    if own > 1 and len(fixed) == own:  # keep one
        fixed.popitem()
    if not fixed:
        return form
    constant = form.constant + sum(ranges[v][0] * c for v, c in fixed.items())
    return make({v: c for v, c in form.coefficients if v not in fixed}, constant)


def _expanded(extent: int, form: IndexForm, ranges: Sequence[Interval]) -> list[_Level]:
    """Return the levels of a mixed-radix index, as many as there are; the slowest first."""
    terms = sorted(form.coefficients, key=lambda term: -abs(term[1]))
    radices: list[int] = []
    for count in range(1, len(terms)):
        step = gcd(*(c for _, c in terms[:count]))
        if radices and (radices[-1] % step or step == radices[-1]):
            continue
        low, high = interval(make(dict(terms[count:]), form.constant % step), ranges)
        if step == 1 or low < 0 or high >= step:
            continue
        if not radices and interval(form, ranges)[1] >= extent // step * step:
            continue  # the last row is not whole
        radices.append(step)
    levels: list[_Level] = []
    size, rest = extent, form
    for step in radices:
        upper = {v: c for v, c in rest.coefficients if c % step == 0}
        inner = make({v: c for v, c in rest.coefficients if v not in upper}, rest.constant % step)
        outer = make({v: c // step for v, c in upper.items()}, rest.constant // step)
        levels.append(_Level(size // step, outer))
        size, rest = step, inner
    return [*levels, _Level(size, rest)]


# --- what of a dimension is touched ---------------------------------------------------------------


@dataclass(frozen=True)
class _Span:
    offset: IndexForm
    size: int
    stride: int
    index: IndexForm


def _span(level: _Level, around: Surroundings) -> _Span:
    """Return the part of a dimension that is touched, and the index into it."""
    form = level.form if len(level.form.terms) < 2 else without_fixed(level.form, around)
    if around.depth:
        start = make({v: c for v, c in form.coefficients if v < around.depth}, form.constant)
        own = tuple(term for term in form.coefficients if term[0] >= around.depth)
    else:
        start, own = IndexForm((), form.constant), form.coefficients
    low, high = interval(IndexForm(own, 0), around.ranges)
    start = around.to_loop_index(IndexForm(start.terms, start.constant + low))
    step = gcd(*(c for _, c in own)) or 1
    if len(own) > 1 and step == 1 and start == ZERO:
        return _Span(ZERO, level.extent, 1, IndexForm(own, -low))
    index = IndexForm(tuple((v, c // step) for v, c in own), -low // step)
    return _Span(start, (high - low) // step + 1, step, index)
