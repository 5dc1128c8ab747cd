"""The tiles of attention: which heads and tokens are computed together, and where their rows lie.

197 queries and keys, 128 partitions        tiles of 99 and 98
12 heads, 512 columns of psum               batches of 2 heads and one tile of queries
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

    def tiles(self, most: int) -> tuple[Span, ...]:
        """Return the span in as few pieces as possible, about equal, of `most` or fewer."""
        size = ceil(self.size / ceil(self.size / most))
        stop = self.start + self.size
        starts = range(self.start, stop, size)
        return tuple(Span(start, min(size, stop - start)) for start in starts)


@dataclass(frozen=True)
class Batch:
    """Heads, by number, and the tile of queries, whose scores are computed together."""

    number: int
    heads: range
    tile: int
    queries: Span


@dataclass(frozen=True)
class AttentionTiles:
    """How many heads, queries and keys are taken at a time.

    `rows` tokens lie across the partitions, `columns` sums in a bank of psum.
    """

    heads: int
    queries: int
    keys: int
    values: int
    rows: int
    columns: int

    @classmethod
    def of(cls, heads: int, extents: Sequence[int], target: Target) -> AttentionTiles:
        """Return the tiles of so many heads, and of queries, keys, depth and values."""
        queries, keys, _, values = extents
        rows = min(target.sbuf.partitions, target.tensor.rows, target.tensor.columns)
        columns = min(target.psum.bank_bytes // 4, target.tensor.moving_columns)
        return cls(heads, queries, keys, values, rows, columns)

    @property
    def together(self) -> int:
        """How many heads a batch has."""
        most = max(1, min(self.columns // max(self.keys, self.values), self.heads))
        return ceil(self.heads / ceil(self.heads / most))

    @property
    def query_tiles(self) -> tuple[Span, ...]:
        """The queries, across the partitions."""
        return Span(0, self.queries).tiles(self.rows)

    @property
    def key_tiles(self) -> tuple[Span, ...]:
        """The keys, across the partitions."""
        return Span(0, self.keys).tiles(self.rows)

    @property
    def key_pieces(self) -> tuple[Span, ...]:
        """The keys, in columns of psum."""
        return Span(0, self.keys).tiles(self.columns // self.together)

    @property
    def batches(self) -> list[Batch]:
        """What is computed together, in order: all heads of some queries, whose results others
        wait for, before those of the next."""
        first = range(0, self.heads, self.together)
        heads = [range(n, min(n + self.together, self.heads)) for n in first]
        tiles = list(enumerate(self.query_tiles))
        pairs = [(h, tile, span) for tile, span in tiles for h in heads]
        return [Batch(number, *pair) for number, pair in enumerate(pairs)]


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

    def unit(self, start: Sequence[int], tile: int) -> Unit:
        """Return a tile of the part that a head has."""
        return self.units[self._origin(start), tile]

    def rows(self, start: Sequence[int], size: int, sbuf: Sbuf) -> tuple[Rows, ...]:
        """Return where `size` elements of a head lie, in pieces at which an access may start, none
        where there are no such pieces."""
        return rows_of(start[self.dim], size, self.partitions, sbuf) or ()

    def _origin(self, start: Sequence[int]) -> tuple[int, ...]:
        return tuple(0 if d == self.dim else n for d, n in enumerate(start))
