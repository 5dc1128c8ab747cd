"""The tiles of attention: which heads and tokens are computed together, and where their rows lie.

tokens 0 .. 196, 128 rows        queries 0-127, 128-196        keys 0-127, 128-196
512 columns of psum              2 heads of 197 scores together, for each tile of queries
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from polystage.machine.components import Sbuf
from polystage.machine.target import Target


@dataclass(frozen=True)
class Span:
    """Elements `start` to `start + size` of one dimension."""

    start: int
    size: int


def spans_of(extent: int, most: int) -> tuple[Span, ...]:
    """Return a dimension in pieces of `most`, the last perhaps smaller."""
    return tuple(Span(start, min(most, extent - start)) for start in range(0, extent, most))


@dataclass(frozen=True)
class Batch:
    """Heads, by number, of one tile of queries, whose scores are in psum together."""

    heads: range
    queries: int


@dataclass(frozen=True)
class AttentionTiles:
    """Tiles of queries and of keys, at most as many as there are partitions; pieces of keys, as
    many as one matmul computes; and how many heads go together."""

    queries: tuple[Span, ...]
    keys: tuple[Span, ...]
    pieces: tuple[Span, ...]
    heads: int
    together: int

    @classmethod
    def of(cls, heads: int, queries: int, keys: int, values: int, target: Target) -> AttentionTiles:
        """Return the tiles of so many heads, tokens, and elements of a value."""
        rows = min(target.sbuf.partitions, target.tensor.rows, target.tensor.columns)
        columns = psum_columns(target)
        together = max(1, min(columns // keys, columns // values, heads))
        together = ceil(heads / ceil(heads / together))
        return cls(
            spans_of(queries, rows),
            spans_of(keys, rows),
            spans_of(keys, columns),
            heads,
            together,
        )

    @property
    def batches(self) -> list[Batch]:
        """What is computed together, in order."""
        return [
            Batch(range(first, min(first + self.together, self.heads)), tile)
            for first in range(0, self.heads, self.together)
            for tile in range(len(self.queries))
        ]


def psum_columns(target: Target) -> int:
    """Return how many sums of a partition a matmul makes: those of a bank."""
    return min(target.psum.bank_bytes // 4, target.tensor.moving_columns)


@dataclass(frozen=True)
class Rows:
    """`count` partitions from `first` of a tile of an array."""

    tile: int
    first: int
    count: int


def rows_of(start: int, size: int, partitions: int, sbuf: Sbuf) -> tuple[Rows, ...] | None:
    """Return where elements of a dimension across the partitions lie, in pieces at which an access
    may start, or None where there is none.

    >>> from polystage.machine import Target
    >>> rows_of(96, 96, 128, Target.load("neuroncore_v2").sbuf)
    (Rows(tile=0, first=96, count=32), Rows(tile=1, first=0, count=64))
    """
    found: list[Rows] = []
    while size:
        tile, first = divmod(start, partitions)
        most = min(size, partitions - first)
        count = next((n for n in range(most, 0, -1) if first in sbuf.legal_starts(n)), 0)
        if not count:
            return None
        found.append(Rows(tile, first, count))
        start, size = start + count, size - count
    return tuple(found)


@dataclass(frozen=True)
class Unit:
    """A tile of an array, in a part of it that some head has, and where its elements begin in rows
    of all units: `origin` is the part's first element."""

    origin: tuple[int, ...]
    tile: int
    count: int
    column: int


class Units:
    """The tiles of an array that heads touch, side by side: what lies across the partitions of the
    array is then one row for each token."""

    def __init__(
        self, starts: Sequence[Sequence[int]], dim: int, size: int, extent: int, partitions: int
    ) -> None:
        """Lay out the tiles for heads that begin at `starts` and have `size` elements of dimension
        `dim`, which lies across the partitions and has `extent`."""
        self.partitions = partitions
        self.dim = dim
        wanted: dict[tuple[int, ...], set[int]] = {}
        for start in starts:
            tiles = range(start[dim] // partitions, (start[dim] + size - 1) // partitions + 1)
            wanted.setdefault(self._origin(start), set()).update(tiles)
        self.units: dict[tuple[tuple[int, ...], int], Unit] = {}
        self.columns = 0
        for origin, tiles in wanted.items():
            for tile in sorted(tiles):
                count = min(partitions, extent - tile * partitions)
                self.units[origin, tile] = Unit(origin, tile, count, self.columns)
                self.columns += count

    @property
    def all(self) -> list[Unit]:
        """All tiles, side by side."""
        return list(self.units.values())

    def column(self, start: Sequence[int]) -> int:
        """Return where the elements of a head begin."""
        tile, first = divmod(start[self.dim], self.partitions)
        return self.units[self._origin(start), tile].column + first

    def _origin(self, start: Sequence[int]) -> tuple[int, ...]:
        return tuple(0 if d == self.dim else n for d, n in enumerate(start))
