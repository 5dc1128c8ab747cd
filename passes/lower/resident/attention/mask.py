"""What is added to the scores of attention: constants, arranged for the array that adds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from polystage.mlir import ir
from polystage.passes.lower.generic_op import Linear
from polystage.passes.lower.resident.attention.tiles import Span

HIDDEN = -1.0e30
"""What scores that are hidden get: finite, because the array multiplies it by zeros."""


@dataclass(frozen=True)
class Mask:
    """`scale` times a constant is added to the scores before they are scaled: element `index` of
    global `source`, linear in heads, queries and keys, of these `extents`.

    Shapes: [partition, head, tile of queries, key] in one row; one head where all have the same.
    """

    source: str
    index: tuple[Linear, ...]
    extents: tuple[int, ...]
    scale: float
    element_type: ir.Type

    @property
    def name(self) -> str:
        """The name of the constant that it is made from."""
        return f"{self.source}_mask"

    @property
    def heads(self) -> int:
        """How many heads have masks of their own: all, or one."""
        dims = range(len(self.extents) - 2)
        differ = any(linear.coefficients[d] for linear in self.index for d in dims)
        return int(np.prod(self.extents[:-2])) if differ else 1

    def columns(self, partitions: int) -> int:
        """Return how many columns there are."""
        return self.heads * len(self._tiles(partitions)) * self.extents[-1]

    def place(self, head: int, tile: int, partitions: int) -> int:
        """Return the column at which the keys of a head begin for a tile of queries."""
        return (head % self.heads * len(self._tiles(partitions)) + tile) * self.extents[-1]

    def data(self, partitions: int, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return the elements, with zeros where there is no query."""
        values = self.values(read).reshape(self.heads, *self.extents[-2:])
        tiles = self._tiles(partitions)
        found = np.zeros((tiles[0].size, self.heads, len(tiles), self.extents[-1]), np.float32)
        for number, span in enumerate(tiles):
            part = values[:, span.start : span.start + span.size]
            found[: span.size, :, number] = part.swapaxes(0, 1)
        return found.reshape(tiles[0].size, -1)

    def _tiles(self, partitions: int) -> tuple[Span, ...]:
        return Span(0, self.extents[-2]).tiles(partitions)

    def values(self, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return what is added: [.., query, key], no more heads than `heads`."""
        extents = list(self.extents)
        if self.heads == 1:
            extents[:-2] = [1] * (len(extents) - 2)
        grid = np.indices(extents, sparse=True)
        places = tuple(_index(linear, grid) for linear in self.index)
        found = np.broadcast_to(read(self.source).astype(np.float32)[places], extents)
        with np.errstate(over="ignore"):  # least floats hide keys; scaled, they are infinite
            scaled = found * np.float32(self.scale)
        return np.maximum(scaled, np.float32(HIDDEN))


def _index(linear: Linear, grid: Sequence[np.ndarray]) -> np.ndarray:
    terms = (c * where for c, where in zip(linear.coefficients, grid, strict=True))
    return sum(terms, np.array(linear.constant))
