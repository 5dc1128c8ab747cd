"""Parts of the free dimensions, which operators do one after the other.

Instructions of different parts do not depend on each other: those of one operator run beside those
of the operators before and behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product as boxes_of
from math import ceil, prod

from polystage.passes.lower.resident.layout import Range

PARTS = 2
"""Most parts, beyond which instructions are only shorter."""

PARTS_OF_IMAGE = 4
"""Most parts of one image, of which windows need the rows around them."""

LEAST = 96
"""Fewest elements of a part: with fewer, the lane engines and the loads of stationary operands take
as long for two parts as for one of twice the size."""


def column_tile(extents: Sequence[int], room: int) -> list[int]:
    """Return a tile of at most `room` elements: whole inner dimensions while they fit, then an even
    part of the next.

    >>> column_tile([1, 56, 56], 512), column_tile([16, 14, 14], 512)
    ([1, 8, 56], [2, 14, 14])
    """
    tile: list[int] = []
    for extent in reversed(extents):
        pieces = -(-extent // max(1, min(room, extent)))
        size = -(-extent // pieces)
        tile.insert(0, size)
        room = room // size if size == extent else 1
    return tile


def tile_boxes(extents: Sequence[int], tile: Sequence[int]) -> Iterator[tuple[Range, ...]]:
    """Yield the boxes of a tiling, the first dimension outermost."""
    starts = [range(0, n, t) for n, t in zip(extents, tile, strict=True)]
    for corner in boxes_of(*starts):
        yield tuple(
            (start, min(t, n - start), 1) for start, t, n in zip(corner, tile, extents, strict=True)
        )


def parts_of(extents: Sequence[int], most: int, parts: int = PARTS) -> Iterator[tuple[Range, ...]]:
    """Yield about `parts` parts of a box, of at most `most` elements each.

    >>> [box for (box,) in parts_of([197], 512)]
    [(0, 99, 1), (99, 98, 1)]
    """
    total = prod(extents)
    count = max(1, min(parts, total // LEAST))
    yield from tile_boxes(extents, column_tile(extents, min(most, ceil(total / count))))
