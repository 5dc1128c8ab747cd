"""How long a contraction takes in blocks, the loads and stores of one overlapping the matmuls of
another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod

from polystage.machine import access as runs
from polystage.machine import cost
from polystage.machine.target import Target
from polystage.passes.lower.generic_op import Access, Linear
from polystage.passes.lower.tensor_engine.contraction import Contraction, element_bytes


@dataclass(frozen=True)
class Tiles:
    """The extents of one matmul: `channels` contracted on the partitions, in `depth` tiles and for
    every one of the `loose` taps in sequence, for `rows` and `columns`."""

    channels: int
    depth: int
    loose: tuple[int, ...]
    rows: int
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Blocks:
    """Extents of the blocks that are resident together, and which changes less often.

    Of the stationary operand, `channel_tiles` at a time are resident; all of them where it is 0.
    """

    rows: int
    columns: tuple[int, ...]
    rows_outermost: bool
    channel_tiles: int = 0


@dataclass(frozen=True)
class _Stage:
    """Times of one block in the queues and engines, and of all DMA engines together; `store_ns` is
    that of everything of the output's size, what an epilogue reads included."""

    stationary_ns: float
    moving_ns: float
    tensor_ns: float
    scalar_ns: float
    store_ns: float
    last_store_ns: float


class BlockTime:
    """Estimates the time of a contraction in blocks.

    `row` is its tiled row dimension or -1; `early` says that the stationary operand is a weight,
    which is loaded while the kernel before still runs.
    """

    def __init__(
        self, contraction: Contraction, target: Target, row: int, tiles: Tiles, early: bool
    ) -> None:
        self.contraction = contraction
        self.target = target
        self.row = row
        self.tiles = tiles
        self.early = early
        self.extents = contraction.generic.extents
        self.row_extent = self.extents[row] if row >= 0 else 1

    def total_ns(self, blocks: Blocks, buffers: int) -> float:
        """Return the time of all blocks of one batch, with `buffers` places for each.

        loads of the first + its matmuls + stores of the last
            + (blocks - 1) * max(time of the busiest engine, time of an operand on chip / buffers)
        """
        stage, chunks = self._stage(blocks), self._chunks(blocks)
        count = self.count(blocks) * chunks
        startup = self.target.dma.startup_ns
        computing = max(stage.tensor_ns, stage.scalar_ns) / chunks
        stationary = stage.stationary_ns / chunks
        fill = startup + stage.moving_ns + (0.0 if self.early else stationary)
        changing = stationary if blocks.rows_outermost or chunks > 1 else stage.moving_ns
        held = (startup + changing + computing) / buffers if count > buffers else 0.0
        drain = startup + stage.last_store_ns
        busiest = self.busiest_ns(blocks) / chunks
        return fill + computing + drain + (count - 1) * max(busiest, held)

    def _chunks(self, blocks: Blocks) -> int:
        return ceil(self.tiles.depth / blocks.channel_tiles) if blocks.channel_tiles else 1

    def busiest_ns(self, blocks: Blocks) -> float:
        """Return the time that the engine with most to do needs for one block."""
        stage, count = self._stage(blocks), self.count(blocks)
        moving = stage.moving_ns * self._moving_loads(blocks) / count
        stationary = stage.stationary_ns * self._stationary_loads(blocks) / count
        return max(moving + stationary + stage.store_ns, stage.tensor_ns, stage.scalar_ns)

    def count(self, blocks: Blocks) -> int:
        """Return how many blocks a batch has."""
        return prod(self._counts(blocks))

    def _counts(self, blocks: Blocks) -> tuple[int, int]:
        columns = zip(self.contraction.columns, blocks.columns, strict=True)
        return (
            ceil(self.row_extent / blocks.rows),
            prod(ceil(self.extents[d] / n) for d, n in columns),
        )

    def _stationary_loads(self, blocks: Blocks) -> int:
        rows, columns = self._counts(blocks)
        return rows if rows == 1 or blocks.rows_outermost else rows * columns

    def _moving_loads(self, blocks: Blocks) -> int:
        rows, columns = self._counts(blocks)
        return columns if columns == 1 or not blocks.rows_outermost else rows * columns

    def _stage(self, blocks: Blocks) -> _Stage:
        target, tiles, contraction = self.target, self.tiles, self.contraction
        sizes = dict(zip(contraction.columns, blocks.columns, strict=True))
        if self.row >= 0:
            sizes[self.row] = blocks.rows
        row_tiles = ceil(blocks.rows / tiles.rows)
        pairs = zip(blocks.columns, tiles.columns, strict=True)
        products = row_tiles * prod(ceil(n / tile) for n, tile in pairs)
        columns = prod(tiles.columns)
        dtype = contraction.dtype
        multiply = cost.matmul(target, tiles.channels, tiles.rows, columns, dtype)
        evict = cost.activate(target, columns, partitions=tiles.rows, uses_psum=True)
        store_sizes = sizes | ({self.row: min(tiles.rows, blocks.rows)} if self.row >= 0 else {})
        store = self._transfer(contraction.output, store_sizes, tiles.rows, 1)
        riders = [a for a in contraction.generic.riders if a.dims & set(contraction.columns)]
        beside = sum(self._transfer(rider, store_sizes, tiles.rows, 1) for rider in riders)
        return _Stage(
            self._transfer(contraction.stationary, sizes, tiles.channels, tiles.depth),
            self._transfer(contraction.moving, sizes, tiles.channels, tiles.depth),
            products * tiles.depth * prod(self.extents[d] for d in tiles.loose) * multiply.busy_ns,
            products * evict.busy_ns,
            row_tiles * (store + beside),
            store,
        )

    def _transfer(
        self, access: Access, sizes: Mapping[int, int], partitions: int, count: int
    ) -> float:
        """Return the time of `count` transfers of a window, without start-up."""
        width = element_bytes(access)
        walked = {d: self.extents[d] for d in self.tiles.loose} | dict(sizes)
        contracts = access in (self.contraction.stationary, self.contraction.moving)
        on_partitions = self.contraction.channel if contracts else self.row
        shape = [
            1 if linear.single == on_partitions and linear.dims else footprint(linear, walked)
            for linear in access.index
        ]
        order = sorted(range(len(shape)), key=lambda i: -access.strides[i])
        run = runs.contiguous_run([shape[i] for i in order], [access.strides[i] for i in order])
        free = prod(shape) * width
        time = cost.dma(self.target, partitions * free, max(1, run) * width, free)
        return count * (time.latency_ns - self.target.dma.startup_ns)


def footprint(linear: Linear, sizes: Mapping[int, int]) -> int:
    """Return how many indices a linear access spans over a box; dimensions not in `sizes` stand
    still."""
    return 1 + sum(c * (sizes.get(d, 1) - 1) for d, c in enumerate(linear.coefficients))
