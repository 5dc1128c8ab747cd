"""How large the tiles of an operation are: such that they fit on chip, and overlap best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod

from polystage.allocation import aligned
from polystage.dialects.npu.views import access_pattern
from polystage.dtypes import byte_width
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.lane_engines.tile_program import (
    Compute,
    Load,
    Slot,
    Step,
    Store,
    TileProgram,
    tile_extent,
)
from polystage.passes.lower.lane_engines.tile_time import TileTime
from polystage.passes.memref_types import row_major_strides

CHUNK_BYTES = 4096
"""Bytes per partition from which a transfer runs at its peak rate."""

PARTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Into how many parts the largest tiles may be cut so that they overlap."""

WORTHWHILE = 0.05
"""Share of the time that more parts, or two tiles in a loop body, have to save."""

MORE_LOADS = 0.1
"""Share of the loads that smaller tiles may add, where they share borders."""

MAX_CHUNKS = 4
"""Chunks that an operation is cut into although it fits on chip."""


@dataclass(frozen=True)
class Tiling:
    """The tile of every loop, and how many tiles of the innermost open loop are on chip at once."""

    tiles: tuple[int, ...]
    copies: int = 1

    def looped(self, extents: Sequence[int]) -> list[int]:
        """Return the loops that remain open around a tile, outermost first."""
        return [d for d in range(1, len(extents)) if self.tiles[d] < extents[d]]


def choose_tiling(program: TileProgram, target: Target, buffers: int) -> Tiling:
    """Return the tiles that take least time by estimate, with `buffers` places for each of their
    buffers; without a second place, as large as fit.

    Raises:
        PassError: not even one iteration fits.
    """
    if buffers > 1:
        pipelined = _fastest(program, target, buffers)
        if pipelined is not None:
            return pipelined
    return _largest_tiling(program, target)


def _fastest(program: TileProgram, target: Target, buffers: int) -> Tiling | None:
    """Return the fastest of the tilings that go into parts of the largest tiles, or None where a
    pair of them does not fit."""
    time = TileTime(program, target)
    best: tuple[float, Tiling] | None = None
    least = time.loaded_bytes(_largest_tiles(program, 1, target))
    for copies in (1, 2):
        largest = _largest_tiles(program, copies, target)
        if not fits(program, largest, copies, target):
            continue
        for tiles in dict.fromkeys(_parted(program, largest)):
            count = _count(program, tiles)
            places = copies * min(buffers, max(1, count // copies))
            if count < copies or not fits(program, tiles, places, target):
                continue
            if time.loaded_bytes(tiles) > least * (1 + MORE_LOADS):
                continue
            total = time.total_ns(tiles, copies, buffers)
            if best is None or total < best[0] * (1 - WORTHWHILE):
                best = total, Tiling(tiles, copies)
    return None if best is None else best[1]


def _count(program: TileProgram, tiles: Sequence[int]) -> int:
    extents = program.nest.extents[1:]
    return prod(ceil(n / tile) for n, tile in zip(extents, tiles[1:], strict=True))


def _parted(program: TileProgram, tiles: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield tiles in 1, 2, .. parts, cut along one parallel loop and then along those in it."""
    yield tuple(tiles)
    for first in range(1, program.nest.n_parallel):
        for parts in PARTS:
            parted, left = list(tiles), parts
            for d in range(first, program.nest.n_parallel):
                parted[d] = balanced(tiles[d], max(1, ceil(tiles[d] / left)))
                left = ceil(left / ceil(tiles[d] / parted[d]))
            yield tuple(parted)


def _largest_tiling(program: TileProgram, target: Target) -> Tiling:
    """Return tiles as large as fit beside each other, so that one moves while the other computes.

    What fits whole and is worth it is cut into a few chunks for the same reason. Where two tiles
    would have to be tiny, there is one.

    Raises:
        PassError: not even one iteration fits.
    """
    whole = list(program.nest.extents)
    if fits(program, whole, 1, target):
        chunked = _chunked(program, whole, target)
        return chunked if chunked is not None else Tiling(tuple(whole))
    for copies in (2, 1):
        tiles = _largest_tiles(program, copies, target)
        if fits(program, tiles, copies, target):
            return Tiling(tuple(tiles), copies)
    needed = tile_bytes(program, tiles, target)
    raise PassError(
        f"the smallest tile takes {needed} bytes per partition, but '{target.name}' has "
        f"{target.sbuf.bytes_per_partition}",
        help="use a target with more bytes per partition (--set sbuf.bytes_per_partition=..)",
    )


def _chunked(program: TileProgram, whole: Sequence[int], target: Target) -> Tiling | None:
    """Return a tiling of the outermost parallel loop into chunks that still move at full rate."""
    nest = program.nest
    largest = max(slot.bytes(whole) for slot in program.slots)
    for d in range(1, nest.n_parallel):
        chunks = min(MAX_CHUNKS, nest.extents[d], largest // CHUNK_BYTES)
        if chunks < 2:
            continue
        tiles = [*whole[:d], balanced(whole[d], ceil(whole[d] / chunks)), *whole[d + 1 :]]
        if fits(program, tiles, 2, target):
            return Tiling(tuple(tiles), 2)
    return None


def _largest_tiles(program: TileProgram, copies: int, target: Target) -> list[int]:
    """Return tiles that fit, outer loops cut first."""
    tiles = list(program.nest.extents)
    for d in range(1, len(tiles)):
        if fits(program, tiles, copies, target):
            break
        tiles[d] = _largest(program, tiles, d, copies, target)
    return tiles


def _largest(
    program: TileProgram, tiles: Sequence[int], d: int, copies: int, target: Target
) -> int:
    """Return the largest tile of loop d that fits beside the others, near it one that divides, or
    1."""
    low, high = 1, tiles[d]
    while low < high:
        middle = (low + high + 1) // 2
        trial = [*tiles[:d], middle, *tiles[d + 1 :]]
        low, high = (middle, high) if fits(program, trial, copies, target) else (low, middle - 1)
    return balanced(tiles[d], low)


def balanced(extent: int, limit: int) -> int:
    """Return a tile of at most `limit`: a divisor if one is near, else so that all tiles are about
    equal.

    >>> balanced(1600, 1000), balanced(997, 300)
    (800, 250)
    """
    for tile in range(limit, limit * 2 // 3, -1):
        if extent % tile == 0:
            return tile
    return ceil(extent / ceil(extent / limit))


def fits(program: TileProgram, tiles: Sequence[int], copies: int, target: Target) -> bool:
    """Whether the buffers of `copies` tiles fit in sbuf and all access patterns are legal."""
    if copies * tile_bytes(program, tiles, target) > target.sbuf.bytes_per_partition:
        return False
    return all(_patterns_fit(step, tiles, target) for step in program.steps)


def tile_bytes(program: TileProgram, tiles: Sequence[int], target: Target) -> int:
    """Return the bytes per partition of all buffers of a tile."""
    sizes = [slot.bytes(tiles) for slot in program.slots]
    sizes += [staging_bytes(step, tiles, target) for step in (*program.steps, *program.stores)]
    return sum(aligned(size) for size in sizes)


def staging_bytes(step: Step, tiles: Sequence[int], target: Target) -> int:
    """Return the bytes per partition that a transfer through the array holds besides its buffer."""
    if not isinstance(step, Load | Store) or step.staged is None:
        return 0
    operand = step.operand
    others = [linear for i, linear in enumerate(operand.index) if i != step.staged and linear.dims]
    shape = Slot(operand.element_type, tuple(others)).free_shape(tiles)
    extent = tile_extent(operand.index[step.staged], tiles)
    chunks = ceil(extent / staged_rows(extent, operand.element_type, target))
    return chunks * prod(shape) * byte_width(operand.element_type)


def staged_rows(extent: int, type_: ir.Type, target: Target) -> int:
    """Return how many of `extent` rows go through the array at once, a divisor if one is near."""
    elements = target.psum.bank_bytes // byte_width(type_)
    return balanced(extent, min(extent, target.tensor.rows, target.tensor.columns, elements))


def _patterns_fit(step: Step, tiles: Sequence[int], target: Target) -> bool:
    if not isinstance(step, Compute):
        return True
    limits = target.access_pattern
    for slot in (*step.inputs, *step.outputs):
        pattern = access_pattern([tiles[d] for d in step.box], free_strides(slot, step.box, tiles))
        if len(pattern) > limits.max_free_dims:
            return False
        if any(abs(p.stride) > limits.max_stride for p in pattern):
            return False
    return True


def free_strides(slot: Slot, box: Sequence[int], tiles: Sequence[int]) -> list[int]:
    """Return the stride in elements that every loop of `box` has in a buffer."""
    strides = row_major_strides(slot.free_shape(tiles))
    return [
        sum(x.coefficients[d] * stride for x, stride in zip(slot.index, strides, strict=True))
        for d in box
    ]
