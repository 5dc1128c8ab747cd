"""Chooses how many rows and columns of a contraction are resident in sbuf together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod

from polystage.allocation import aligned
from polystage.passes.lower.mosaic import Mosaic
from polystage.passes.lower.tensor_engine.block_time import Blocks, BlockTime, footprint
from polystage.passes.lower.tensor_engine.contraction import element_bytes, output_bytes

MAX_OUTPUT_TILES = 4
"""Most row tiles whose output is on chip at once."""

CHANNEL_TILES = (32, 16, 8, 4)
"""How many channel tiles of the stationary operand may be resident at a time."""

MORE_TRAFFIC = 0.01
"""Share of DRAM traffic that smaller blocks may cost where they overlap better."""

WORTHWHILE = 0.05
"""Share of the time that smaller blocks have to save."""


@dataclass(frozen=True)
class Candidate:
    """Blocks under consideration, their DRAM traffic in elements, and what they take on chip."""

    rows: int
    columns: tuple[int, ...]
    traffic: int
    rows_outermost: bool
    bytes_per_partition: int = 0
    channel_tiles: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """Less traffic first, then larger blocks."""
        return self.traffic, -self.elements

    @property
    def elements(self) -> int:
        """The size of a block of the output."""
        return self.rows * prod(self.columns)

    @property
    def blocks(self) -> Blocks:
        """The blocks as an estimate takes them."""
        return Blocks(self.rows, self.columns, self.rows_outermost, self.channel_tiles)


class BlockSearch:
    """Searches the blocks of one contraction.

    `depth` is how many channel tiles lie behind each other on chip, `batches` how often everything
    is done, `buffers` how many places every buffer in a loop will have, `budget` the bytes per
    partition for the blocks.
    """

    def __init__(
        self, time: BlockTime, depth: int, batches: int, buffers: int, budget: int
    ) -> None:
        self.time = time
        self.tiles = time.tiles
        self.contraction = time.contraction
        self.extents = time.extents
        self.depth = depth
        self.batches = batches
        self.buffers = buffers
        self.budget = budget
        self.bytes = element_bytes(time.contraction.moving)
        self.output_bytes = output_bytes(time.contraction)

    def best(self) -> Candidate | None:
        """Return the blocks with the least DRAM traffic that fit; of those that overlap, with
        hardly more traffic, the fastest. None where nothing fits."""
        single: list[Candidate] = []
        rotating: list[Candidate] = []
        for rows in self._row_blocks():
            stationary = self._stationary_bytes(rows)
            for columns in self._column_blocks():
                moving = self._moving_bytes(columns)
                output = prod(columns) * self.output_bytes
                found = self._cost(rows, columns)
                if (needed := stationary + moving + output) <= self.budget:
                    single.append(replace(found, bytes_per_partition=needed))
                needed = self._places(stationary, moving, output, rows, columns)
                if needed <= self.budget:
                    rotating.append(replace(found, bytes_per_partition=needed))
        rotating += self._chunked()
        least = min((c.traffic for c in single), default=0) * (1 + MORE_TRAFFIC)
        rotating = [c for c in rotating if c.traffic <= least]
        if self.buffers == 1 or not rotating:
            return min(single, key=lambda c: c.key, default=None)
        return self._fastest(rotating)

    def _chunked(self) -> Iterator[Candidate]:
        """Yield blocks of a few row tiles whose accumulators are open all the time, while the
        stationary operand comes in chunks of channels: long runs of rows, and each element once."""
        columns = tuple(self.extents[d] for d in self.contraction.columns)
        accesses = (self.contraction.stationary, self.contraction.moving)
        if columns != self.tiles.columns or any(isinstance(a.array, Mosaic) for a in accesses):
            return
        moving = self._moving_bytes(columns) * (self.buffers if self.batches > 1 else 1)
        psum = self.time.target.psum
        for tiles in range(1, min(MAX_OUTPUT_TILES, psum.open_groups, psum.banks) + 1):
            rows = min(tiles * self.tiles.rows, self.time.row_extent)
            stationary = self._stationary_bytes(rows) // self.depth
            output = tiles * aligned(prod(columns) * self.output_bytes)
            for count in CHANNEL_TILES:
                needed = moving + self.buffers * (count * stationary + output)
                if count < self.tiles.depth and needed <= self.budget:
                    yield replace(
                        self._cost(rows, columns),
                        rows_outermost=True,
                        bytes_per_partition=needed,
                        channel_tiles=count,
                    )

    def _places(
        self, stationary: int, moving: int, output: int, rows: int, columns: tuple[int, ...]
    ) -> int:
        """Return the bytes per partition with all places of what is loaded more than once."""
        all_columns = tuple(self.extents[d] for d in self.contraction.columns)
        batches = self.batches > 1
        if rows < self.time.row_extent or batches:
            stationary *= self.buffers
        if columns != all_columns or batches:
            moving *= self.buffers
        return stationary + moving + self.buffers * output

    def _fastest(self, candidates: list[Candidate]) -> Candidate:
        """Return the candidate of the least estimated time; smaller blocks have to be worth it."""
        best, best_ns = None, 0.0
        for candidate in sorted(
            candidates, key=lambda c: (c.channel_tiles > 0, -c.elements, c.traffic)
        ):
            total = self.time.total_ns(candidate.blocks, self.buffers)
            if best is None or total < best_ns * (1 - WORTHWHILE):
                best, best_ns = candidate, total
        assert best is not None
        return best

    def _row_blocks(self) -> Iterator[int]:
        """Yield blocks from all rows down to one tile.

        Where all columns are resident anyway, larger parts of the rows than are stored together
        would only keep loads waiting for matmuls.
        """
        all_columns = tuple(self.extents[d] for d in self.contraction.columns)
        tile, column_tile = self.tiles.rows, self.tiles.columns
        together = tile * MAX_OUTPUT_TILES
        for rows in _shrinking(self.time.row_extent, tile):
            if (
                rows in (self.time.row_extent, tile)
                or rows <= together
                or all_columns != column_tile
            ):
                yield rows

    def _column_blocks(self) -> Iterator[tuple[int, ...]]:
        """Yield blocks from all columns down to one tile, shrinking the outermost dimension
        first."""
        block = [self.extents[d] for d in self.contraction.columns]
        yield tuple(block)
        for i, least in enumerate(self.tiles.columns):
            for size in _shrinking(block[i], least):
                if size != block[i]:
                    yield (*block[:i], size, *block[i + 1 :])
            block[i] = least

    def _stationary_bytes(self, rows: int) -> int:
        """Return the bytes per partition of the stationary block."""
        return self.depth * prod(self.extents[d] for d in self.tiles.loose) * rows * self.bytes

    def _moving_bytes(self, columns: tuple[int, ...]) -> int:
        """Return the bytes per partition of the moving window."""
        sizes = dict(zip(self.contraction.columns, columns, strict=True))
        sizes.update({d: self.extents[d] for d in self.tiles.loose})
        window = prod(
            footprint(linear, sizes)
            for linear in self.contraction.moving.index
            if linear.single != self.contraction.channel or self.contraction.channel < 0
        )
        return self.depth * window * self.bytes

    def _cost(self, rows: int, columns: tuple[int, ...]) -> Candidate:
        """Return the candidate with the cheaper of both orders of blocks."""
        row_blocks = ceil(self.time.row_extent / rows)
        column_blocks = prod(
            ceil(self.extents[d] / n)
            for d, n in zip(self.contraction.columns, columns, strict=True)
        )
        stationary = self.contraction.stationary.elements
        moving = self.contraction.moving.elements
        if self.buffers > 1:
            moving = round(moving * self._overlap(columns))
        by_columns = moving + stationary * (1 if row_blocks == 1 else column_blocks)
        by_rows = stationary + moving * (1 if column_blocks == 1 else row_blocks)
        return Candidate(rows, columns, min(by_rows, by_columns), by_rows < by_columns)

    def _overlap(self, columns: tuple[int, ...]) -> float:
        """Return how often an element of the moving operand is in a block, on average: windows of
        neighbouring blocks share a border."""
        sizes = dict(zip(self.contraction.columns, columns, strict=True))
        taps = {d: self.extents[d] for d in self.contraction.taps}
        share = 1.0
        for linear in self.contraction.moving.index:
            for d in (d for d in linear.dims if d in sizes):
                step, blocks = linear.coefficients[d], ceil(self.extents[d] / sizes[d])
                border = footprint(linear, taps) - step
                whole = step * self.extents[d] + border
                share *= (whole + (blocks - 1) * border) / whole
        return max(1.0, share)


def _shrinking(extent: int, least: int) -> Iterator[int]:
    """Yield extent and ever smaller multiples of `least`."""
    yield extent
    tiles = ceil(extent / least)
    while tiles > 1:
        tiles = ceil(tiles / 2)
        if tiles * least < extent:
            yield tiles * least
