"""Chooses tiles and loop order of one contraction so that its operands fit the scratchpad.

Levels, outermost first: batch; blocks of rows and columns whose operands are resident in sbuf;
tiles of one matmul; contraction. Where not even one tile fits with the whole contraction, the
contraction is streamed in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

from polystage.allocation import aligned
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.passes.lower.tensor_engine.block_time import BlockTime, Tiles, footprint
from polystage.passes.lower.tensor_engine.blocks import MAX_OUTPUT_TILES, BlockSearch, Candidate
from polystage.passes.lower.tensor_engine.contraction import (
    Contraction,
    element_bytes,
    output_bytes,
)

_ACCUMULATOR_BYTES = 4

MAX_TOGETHER = 4
"""Most batches in one loop body."""


@dataclass(frozen=True)
class ContractionPlan:
    """Decisions for one contraction; dimensions and extents are those of its loop nest.

    `packed` taps lie on the partitions beside the channel; `loose` taps are looped over. A matmul
    takes `channel_tile` channels, `row_tile` rows and `column_tile[i]` of column dimension i.
    `row_block` rows and `column_block[i]` columns are resident together. `rows_outermost` orders
    the blocks; `streamed` says that operands are loaded per matmul instead.
    """

    packed: tuple[int, ...]
    loose: tuple[int, ...]
    channel_tile: int
    row_tile: int
    column_tile: tuple[int, ...]
    row_block: int
    column_block: tuple[int, ...]
    rows_outermost: bool
    streamed: bool
    spare_bytes: int
    """Bytes per partition that nothing of this takes."""
    output_tiles: int
    """Row tiles that are computed before the first is stored, so that stores and matmuls
    overlap."""
    interleaved: bool
    """Row tiles that are stored together take every channel in turn. Blocks of rows follow each
    other through one buffer; so the place of a channel is free for the next block while the others
    are still in use, and loads and matmuls overlap."""
    channel_tiles: int
    """Channel tiles of the stationary operand that are resident at a time; 0 for all of them."""
    together: int
    """Batches in one loop body, so that more of them are under way than buffers have places."""


class ContractionPlanner:
    """Searches the plan of one contraction; `row` is its tiled row dimension or -1.

    `buffers` is how many places every buffer in a loop will have; `early` says that the stationary
    operand is a weight, which is loaded while the kernel before still runs. `epilogue_bytes` is
    what an epilogue takes for itself in every partition, given the rows and columns of a tile.
    """

    def __init__(
        self,
        contraction: Contraction,
        target: Target,
        buffers: int = 1,
        early: bool = False,
        epilogue_bytes: Callable[[int, Sequence[int]], int] | None = None,
    ) -> None:
        self.contraction = contraction
        self.target = target
        self.buffers = buffers
        self.early = early
        self.extents = contraction.generic.extents
        self.row = max(contraction.rows, key=lambda d: self.extents[d], default=-1)
        self.element_bytes = element_bytes(contraction.moving)
        self.output_bytes = output_bytes(contraction)
        self.epilogue_bytes = epilogue_bytes

    def plan(self) -> ContractionPlan:
        """Return the plan with the least DRAM traffic that fits; of those that overlap, with hardly
        more traffic, the fastest.

        Raises:
            PassError: not even a matmul of one row and one column fits.
        """
        packed = self._packed_taps()
        loose = tuple(d for d in self.contraction.taps if d not in packed)
        array = self.target.tensor
        packed_size = prod(self.extents[d] for d in packed)
        channel_tile = min(self.contraction.channels, array.rows // packed_size)
        row_tile = min(self._row_extent, array.columns)
        column_tile = self._column_tile()
        tiles = Tiles(
            channel_tile * packed_size,
            ceil(self.contraction.channels / channel_tile),
            loose,
            row_tile,
            column_tile,
        )
        time = BlockTime(self.contraction, self.target, self.row, tiles, self.early)
        depth = tiles.depth + (self.contraction.channels % channel_tile != 0)
        batches = prod(self.extents[d] for d in self.outer)
        best = BlockSearch(time, depth, batches, self.buffers, self._budget).best()
        streamed = best is None
        if best is None:
            row_tile, column_tile = self._streamed_tiles(row_tile, column_tile)
            best = Candidate(row_tile, column_tile, traffic=0, rows_outermost=False)
        together = 1 if streamed else self._together(best, time)
        taken = together * best.bytes_per_partition + self._beside(best)
        return ContractionPlan(
            packed,
            loose,
            channel_tile,
            row_tile,
            column_tile,
            best.rows,
            best.columns,
            best.rows_outermost,
            streamed,
            0 if streamed else self._budget - taken,
            1 + self._extra_outputs(best) if not streamed else 1,
            not streamed and self._reads_blocks_once(best.rows, best.columns, column_tile),
            best.channel_tiles,
            together,
        )

    @property
    def outer(self) -> list[int]:
        """The dimensions that are walked one by one around everything else."""
        return [*self.contraction.batch, *(d for d in self.contraction.rows if d != self.row)]

    def _together(self, best: Candidate, time: BlockTime) -> int:
        """Return how many batches of a single block each are in a loop body: so many that one of
        them, from its load to its store, takes no longer than the others keep the engines busy."""
        inner = self.extents[self.outer[-1]] if self.outer else 1
        if self.buffers == 1 or inner == 1 or time.count(best.blocks) > 1:
            return 1
        wanted = ceil(time.total_ns(best.blocks, 1) / time.busiest_ns(best.blocks) / self.buffers)
        room = self._budget // max(1, best.bytes_per_partition)
        most = min(wanted, room, self.target.psum.banks // self.buffers, MAX_TOGETHER, inner)
        return next((n for n in range(most, 1, -1) if inner % n == 0), 1)

    def _reads_blocks_once(
        self, rows: int, columns: tuple[int, ...], column_tile: tuple[int, ...]
    ) -> bool:
        """Whether blocks of rows follow each other, and each is read by one column tile only."""
        groups = min(self.target.psum.open_groups, self.target.psum.banks)
        return rows < self._row_extent and columns == column_tile and groups >= MAX_OUTPUT_TILES

    def _extra_outputs(self, best: Candidate) -> int:
        """Return how many output tiles fit beside the first, in half of what is left over."""
        tiles = ceil(best.rows / min(self._row_extent, self.target.tensor.columns))
        if best.channel_tiles:
            return tiles - 1
        room = max(0, self._budget - best.bytes_per_partition) // 2
        each = self.buffers * self._output_tile_bytes(best)
        return min(MAX_OUTPUT_TILES - 1, tiles - 1, room // each)

    def _beside(self, best: Candidate) -> int:
        if best.channel_tiles:
            return 0
        return self._extra_outputs(best) * self.buffers * self._output_tile_bytes(best)

    def _output_tile_bytes(self, best: Candidate) -> int:
        return aligned(prod(best.columns) * self.output_bytes)

    def _streamed_tiles(
        self, row_tile: int, column_tile: tuple[int, ...]
    ) -> tuple[int, tuple[int, ...]]:
        """Return tiles of one matmul, halved until the operands of one matmul fit."""
        tiles = [row_tile, *column_tile]
        while (needed := self._streamed_bytes(tiles)) > self.target.sbuf.bytes_per_partition:
            widest = max(range(len(tiles)), key=lambda i: tiles[i])
            if tiles[widest] == 1:
                raise PassError(
                    f"the smallest tile takes {needed} bytes per partition, but "
                    f"'{self.target.name}' has {self.target.sbuf.bytes_per_partition}",
                    help="use a target with more bytes per partition "
                    "(--set sbuf.bytes_per_partition=..)",
                )
            tiles[widest] = ceil(tiles[widest] / 2)
        return tiles[0], tuple(tiles[1:])

    def _streamed_bytes(self, tiles: list[int]) -> int:
        """Return the bytes per partition of one matmul's operands, output and staging."""
        sizes = dict(zip(self.contraction.columns, tiles[1:], strict=True))
        window = prod(footprint(linear, sizes) for linear in self.contraction.moving.index)
        buffers = (
            tiles[0] * self.element_bytes,
            window * self.element_bytes,
            prod(tiles[1:]) * self.output_bytes,
            stage_bytes(self.target, self.element_bytes),
        )
        return sum(aligned(size) for size in buffers)

    def tensor_ns(self) -> float:
        """Estimate the time of the tensor engine with packed taps."""
        if self.contraction.is_depthwise:
            return self.contraction.tensor_ns(self.target)
        packed = prod(self.extents[d] for d in self._packed_taps())
        return self.contraction.tensor_ns(self.target) / packed

    @property
    def _row_extent(self) -> int:
        return self.extents[self.row] if self.row >= 0 else 1

    def _packed_taps(self) -> tuple[int, ...]:
        """Return the taps to lay on the partitions beside the channel, so that few channels fill
        the array.

        Every packed tap of a window costs another copy of the window in sbuf. A tap is packed while
        the tensor time saved exceeds the time of the additional loads.
        """
        chosen: list[int] = []
        taps = () if self.contraction.is_diagonal else self.contraction.taps
        for tap in taps:
            size = prod(self.extents[d] for d in chosen) * self.contraction.channels
            if size * self.extents[tap] <= self.target.tensor.rows and self._packing_pays(tap):
                chosen.append(tap)
        return tuple(chosen)

    def _packing_pays(self, tap: int) -> bool:
        if all(x.single == tap for x in self.contraction.moving.index if tap in x.dims):
            return True  # every element is loaded once all the same
        taps = self.extents[tap]
        saved_ns = self.contraction.tensor_ns(self.target) * (1 - 1 / taps)
        # what is constant counts too: the order of sums must not depend on how a border is made
        window = prod(self.contraction.moving.shape) * self.element_bytes
        return saved_ns > (taps - 1) * window / self.target.dram.bytes_per_ns

    def _column_tile(self) -> tuple[int, ...]:
        """Return the columns of one matmul: whole inner dimensions while they fit, then a part."""
        bank = self.target.psum.bank_bytes // _ACCUMULATOR_BYTES
        room = min(self.target.tensor.moving_columns, bank)
        tile: list[int] = []
        for d in reversed(self.contraction.columns):
            size = self._even_part(self.extents[d], room)
            tile.insert(0, size)
            room = room // size if size == self.extents[d] else 1
        return tuple(tile)

    @staticmethod
    def _even_part(extent: int, room: int) -> int:
        """Return the largest part of at most `room` that splits `extent` evenly, or nearly so."""
        pieces = ceil(extent / max(1, min(room, extent)))
        return ceil(extent / pieces)

    @property
    def _budget(self) -> int:
        """Bytes per partition for the blocks; the rest is for what the lowering stages beside
        them, and for an epilogue."""
        taken = stage_bytes(self.target, self.element_bytes)
        if self.epilogue_bytes is not None:
            rows = min(self._row_extent, self.target.tensor.columns)
            taken += self.epilogue_bytes(rows, self._column_tile())
        return self.target.sbuf.bytes_per_partition - taken


def prefers_tensor_engine(contraction: Contraction, target: Target) -> bool:
    """Whether the array computes a contraction sooner than the vector engine, by estimate."""
    planner = ContractionPlanner(contraction, target)
    return planner.tensor_ns() <= contraction.vector_ns(target)


def stage_bytes(target: Target, element_bytes: int) -> int:
    """Return the bytes per partition for staging an operand that is transposed on its way in."""
    row = target.tensor.rows * element_bytes
    return max(row, min(4096, target.sbuf.bytes_per_partition // 8))
