"""Neighbouring dimensions that an access runs through as through one: `(e floordiv 4, e mod 4)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polystage.passes.polyhedral.access_rewriting.index_forms import (
    ZERO,
    IndexForm,
    Interval,
    add,
    merge_divisions,
)


@dataclass(frozen=True)
class Flattened:
    """An array with runs of `groups[i]` dimensions merged, and the index into it."""

    groups: tuple[int, ...]
    shape: tuple[int, ...]
    index: tuple[IndexForm, ...]

    @property
    def is_changed(self) -> bool:
        """Whether any dimensions are merged."""
        return any(count > 1 for count in self.groups)


def flatten(
    shape: Sequence[int], index: Sequence[IndexForm], ranges: Sequence[Interval]
) -> Flattened:
    """Merge neighbouring dimensions of a row-major array where that removes divisions."""
    groups: list[tuple[int, int, IndexForm]] = []  # dimensions, extent, index
    for extent, form in zip(shape, index, strict=True):
        groups.append((1, extent, form))
        while (merged := _merged_with_previous(groups, ranges)) is not None:
            groups = merged
    counts, extents, forms = zip(*groups, strict=True) if groups else ((), (), ())
    return Flattened(counts, extents, forms)


def _merged_with_previous(
    groups: list[tuple[int, int, IndexForm]], ranges: Sequence[Interval]
) -> list[tuple[int, int, IndexForm]] | None:
    """Return the groups with the last one merged into one before it, across unit dimensions."""
    *before, (count, extent, form) = groups
    if form.is_linear:
        return None
    while before:
        *before, (other_count, other_extent, other) = before
        count += other_count
        address = merge_divisions(add(form, other, extent), ranges)
        if address.divisions < form.divisions + other.divisions:
            return [*before, (count, other_extent * extent, address)]
        if other_extent != 1 or other != ZERO:
            return None
    return None
