"""Limits that end within a row: a part of whole rows, and parts of the rows at either end.

Where `t` and `b < 256` are both parallel, `512 <= 256*t + b < 2432` holds in the rows `2 <= t < 9`
and for `b < 128` in the row `t = 9`. Over `(t, b)` these are two boxes, which a plain loop each
walks; over the sum it would be one, walked by two loops.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from math import gcd

from polystage.passes.polyhedral.access_rewriting.accesses import Limit, Part
from polystage.passes.polyhedral.access_rewriting.index_forms import (
    IndexForm,
    Interval,
    interval,
    make,
)


def in_whole_rows(
    parts: Sequence[Part], ranges: Sequence[Interval], parallel: Collection[int]
) -> list[Part]:
    """Return parts that hold where `parts` do, without limits on what two parallel loops walk.

    Parts that come from the same one never hold at once.
    """
    return [piece for part in parts for piece in _cut_at_rows(part, ranges, parallel)]


def _cut_at_rows(
    part: Part, ranges: Sequence[Interval], parallel: Collection[int]
) -> Iterator[Part]:
    for place, limit in enumerate(part.limits):
        row_and_column = _as_row_and_column(limit.form, ranges, parallel)
        if row_and_column is None:
            continue
        for limits in _boxes(limit, *row_and_column, ranges):
            others = (*part.limits[:place], *part.limits[place + 1 :])
            yield from _cut_at_rows(replace(part, limits=(*limits, *others)), ranges, parallel)
        return
    yield part


def _as_row_and_column(
    form: IndexForm, ranges: Sequence[Interval], parallel: Collection[int]
) -> tuple[int, IndexForm, IndexForm] | None:
    """Write `form = step * row + column`, `0 <= column < step`, a parallel loop in both.

    Return step, row, column with the largest step; None where there is no such way.
    """
    terms = sorted(form.coefficients, key=lambda term: -abs(term[1]))
    for count in range(1, len(terms)):
        step = gcd(*(c for _, c in terms[:count]))
        column = make(dict(terms[count:]), form.constant)
        low, high = interval(column, ranges)
        if low < 0 or high >= step:
            continue
        if all(any(v in parallel for v, _ in side) for side in (terms[:count], terms[count:])):
            return step, make({v: c // step for v, c in terms[:count]}), column
    return None


def _boxes(
    limit: Limit, step: int, row: IndexForm, column: IndexForm, ranges: Sequence[Interval]
) -> Iterator[tuple[Limit, ...]]:
    """Return the limits on row and column of the partial rows, and of the whole ones."""
    first, last = interval(column, ranges)
    whole = range(-((first - limit.low) // step), (limit.high - last) // step + 1)
    touched = range(-((last - limit.low) // step), (limit.high - first) // step + 1)
    if whole:
        yield (Limit(row, whole[0], whole[-1]),)
    for number in touched:
        if number not in whole:
            low, high = limit.low - number * step, limit.high - number * step
            yield Limit(row, number, number), Limit(column, max(low, first), min(high, last))
