"""How large the tiles of an operation are: as large as its buffers fit on chip, outer loops cut
first."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

from polystage.dialects.npu.views import access_pattern
from polystage.dtypes import byte_width
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.passes.lower.tile_program import Compute, Load, Slot, Step, Store, TileProgram

BUFFER_ALIGNMENT = 64
"""Bytes that a buffer's address may be rounded up to."""


def choose_tiles(program: TileProgram, target: Target) -> list[int]:
    """Return the tile of every loop: the whole loop where all fits, else outer loops are cut first.

    Raises:
        PassError: not even one iteration fits.
    """
    nest = program.nest
    tiles = list(nest.extents)
    for d in range(1, len(tiles)):
        if fits(program, tiles, target):
            return tiles
        tiles[d] = _largest(program, tiles, d, target)
    if not fits(program, tiles, target):
        needed = tile_bytes(program, tiles, target)
        raise PassError(
            f"the smallest tile takes {needed} bytes per partition, but '{target.name}' has "
            f"{target.sbuf.bytes_per_partition}",
            help="use a target with more bytes per partition (--set sbuf.bytes_per_partition=..)",
        )
    return tiles


def _largest(program: TileProgram, tiles: Sequence[int], d: int, target: Target) -> int:
    """Return the largest tile of loop d that fits beside the others, near it one that divides, or
    1."""
    low, high = 1, tiles[d]
    while low < high:
        middle = (low + high + 1) // 2
        trial = [*tiles[:d], middle, *tiles[d + 1 :]]
        low, high = (middle, high) if fits(program, trial, target) else (low, middle - 1)
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


def fits(program: TileProgram, tiles: Sequence[int], target: Target) -> bool:
    """Whether a tile's buffers fit in sbuf and every instruction's access patterns are legal."""
    if tile_bytes(program, tiles, target) > target.sbuf.bytes_per_partition:
        return False
    return all(_patterns_fit(step, tiles, target) for step in program.steps)


def tile_bytes(program: TileProgram, tiles: Sequence[int], target: Target) -> int:
    """Return the bytes per partition of all buffers of a tile."""
    sizes = [slot.bytes(tiles) for slot in program.slots]
    sizes += [staging_bytes(step, tiles, target) for step in (*program.steps, *program.stores)]
    return sum(-(-size // BUFFER_ALIGNMENT) * BUFFER_ALIGNMENT for size in sizes)


def staging_bytes(step: Step, tiles: Sequence[int], target: Target) -> int:
    """Return the bytes per partition that a transfer through the array holds besides its buffer."""
    if not isinstance(step, Load | Store) or step.staged is None:
        return 0
    operand = step.operand
    others = [linear for i, linear in enumerate(operand.index) if i != step.staged and linear.dims]
    shape = Slot(operand.element_type, tuple(others)).free_shape(tiles)
    return prod(shape) * byte_width(operand.element_type)


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
    shape = slot.free_shape(tiles)
    return [
        sum(linear.coefficients[d] * prod(shape[i + 1 :]) for i, linear in enumerate(slot.index))
        for d in box
    ]
