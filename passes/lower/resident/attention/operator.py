"""Attention as one operator of a group: scores and weights are on chip only while it runs.

    S = Q K^T          P = exp(scale * (S - maximum))          O = P V / sums of P

Dims of every access are heads (any number), queries, keys, depth and values, in this order. Arrays
lie with the features of heads across the partitions, and tokens within them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

from polystage.dtypes import byte_width
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.resident.attention.mask import Mask
from polystage.passes.lower.resident.attention.tiles import AttentionTiles, Units
from polystage.passes.lower.resident.layout import partitions_of
from polystage.passes.lower.resident.operators import Matrix, Read, ResidentOperator, Table
from polystage.passes.lower.resident.windows import Window

Head = tuple[int, ...]
"""A head: one index for each of the dims of heads."""


@dataclass(frozen=True, eq=False)
class Attention(ResidentOperator):
    """`output = softmax(scale * (query key^T + masks)) value`, head by head.

    `contraction` is the operation that makes the scores. Without a maximum, weights are
    `exp(scale * scores)` as they are.
    """

    partition: int
    contraction: ir.Operation
    extents: tuple[int, ...]
    query: Window
    key: Window
    value: Window
    scale: float
    masks: tuple[Mask, ...]
    has_maximum: bool

    @property
    def queries(self) -> int:
        """The dim that the result has in common with the queries."""
        return len(self.extents) - 4

    @property
    def keys(self) -> int:
        """The dim over which weights are normalised."""
        return len(self.extents) - 3

    @property
    def depth(self) -> int:
        """The dim that scores are summed over."""
        return len(self.extents) - 2

    @property
    def values(self) -> int:
        """The dim that the result has in common with the values."""
        return len(self.extents) - 1

    @cached_property
    def heads(self) -> list[Head]:
        """All heads, in order."""
        return list(product(*(range(n) for n in self.extents[:-4])))

    @property
    def reads(self) -> Iterator[Read]:
        """Queries, keys and values."""
        yield self.query, dim_of(self.query, self.depth), self.extents
        yield self.key, dim_of(self.key, self.depth), self.extents
        yield self.value, dim_of(self.value, self.values), self.extents

    @property
    def matrices(self) -> tuple[Table, ...]:
        """The identity, which transposes, and masks."""
        return Matrix("identity", self.value.element_type), *self.masks

    def tiles(self, target: Target) -> AttentionTiles:
        """Return which heads and tokens are computed together."""
        return AttentionTiles.of(len(self.heads), self.extents[-4:], target)

    def units(self, window: Window, partitions: int) -> Units:
        """Return the tiles of the values, or of the output, that heads touch."""
        dim = dim_of(window, self.values)
        starts = [start_of(window, head) for head in self.heads]
        extent = window.shape[dim]
        return Units(starts, dim, self.extents[-1], extent, min(partitions, extent))

    def buffers(self, target: Target) -> dict[str, tuple[list[int], ir.Type]]:
        """Return what the operator needs on chip: the shape without partitions, and the type."""
        tiles, partitions = self.tiles(target), partitions_of(target)
        weight = self.value.element_type
        f32 = ir.F32Type.get(self.contraction.context)
        statistics = [len(tiles.batches), tiles.together]
        key_tiles, rows = len(tiles.key_tiles), tiles.query_tiles[0].size
        values, result = (self.units(w, partitions).columns for w in (self.value, self.output))
        return {
            "minimum": (statistics, f32),
            "sums": (statistics, f32),
            "values": ([key_tiles, values], weight),
            "result": ([len(tiles.query_tiles), result], weight),
            "scores": ([tiles.together, self.extents[self.keys]], f32),
            "weights": ([tiles.together, self.extents[self.keys]], weight),
            "transposed": ([key_tiles * tiles.together, rows], weight),
        }

    def scratch(self, target: Target) -> Mapping[Hashable, int]:
        """Return the bytes of the buffers."""
        return {
            (self, name): byte_width(type_) * prod(shape)
            for name, (shape, type_) in self.buffers(target).items()
        }


def dim_of(window: Window, loop: int) -> int:
    """Return the dimension of an array that a dim walks."""
    return next(d for d, linear in enumerate(window.index) if linear.coefficients[loop])


def start_of(window: Window, head: Head) -> list[int]:
    """Return the first element of a head."""
    return [
        linear.constant + sum(c * n for c, n in zip(linear.coefficients, head, strict=False))
        for linear in window.index
    ]
