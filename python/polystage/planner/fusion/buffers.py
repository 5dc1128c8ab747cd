"""Bytes on chip during a group."""

from dataclasses import dataclass
from enum import StrEnum
from math import prod

from polystage.allocation import aligned


class Purpose(StrEnum):
    """What a buffer is for."""

    ARRAY = "array"
    """Holds an array, or the window of it that the group needs: element x lies at `x mod shape`."""
    ACCUMULATOR = "accumulator"
    """Running results of one operator, indexed by its parallel dims: iteration x at `x mod shape`
    where they last over steps, else at its distance from the start of what is accumulated."""
    CHUNK = "chunk"
    """The part of a streamed array that one chunk of an operator touches."""
    SCRATCH = "scratch"
    """What an operator needs beside its operands for a chunk."""


@dataclass(frozen=True)
class Buffer:
    """Bytes on chip during a group."""

    purpose: Purpose
    array: str | None
    """None for accumulators and scratch."""
    operators: tuple[int, int]
    """The first and the last operator (index in the group) during which it is live.

    Where its contents are not carried from step to step, it is so in each step anew; else it has
    all operators.
    """
    shape: tuple[int, ...]
    """Extents: per axis of the array, per parallel dim of what accumulates, per dim of scratch."""
    element_bytes: int
    access: int | None = None
    """Of a chunk: which of the operator's reads, or None for a write."""

    @property
    def bytes(self) -> int:
        """The size, a multiple of the alignment of buffers."""
        return aligned(prod(self.shape) * self.element_bytes)
