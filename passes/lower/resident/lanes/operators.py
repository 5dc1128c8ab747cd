"""Operators of the lane engines: elementwise functions of resident arrays, and sums of them across
the partitions."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, prod

from polystage.dtypes import byte_width
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.resident.lanes.steps import Extent, Steps, Value
from polystage.passes.lower.resident.layout import partitions_of
from polystage.passes.lower.resident.operators import (
    Column,
    Matrix,
    Read,
    ResidentOperator,
)
from polystage.passes.lower.resident.windows import Window


@dataclass(frozen=True)
class LaneOperand:
    """An array that a body reads: which of its dimensions each loop walks, and which lies across
    the partitions."""

    window: Window
    dims: Mapping[int, int]
    partition: int | None


@dataclass(frozen=True, eq=False)
class LaneBody:
    """A body in its loops: one goes across the partitions, or none, where all that is read is
    replicated; `free` are the others of more than one element, in the order of the result's
    dimensions."""

    extents: tuple[int, ...]
    across: int | None
    free: tuple[int, ...]
    arrays: Mapping[int, LaneOperand]
    constants: Mapping[int, Column]
    steps: Steps

    @property
    def reads(self) -> Iterator[Read]:
        """The arrays that are read."""
        for operand in self.arrays.values():
            yield operand.window, operand.partition, ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The constants of one value for each partition."""
        return tuple(self.constants.values())

    def tiles(self, partitions: int) -> int:
        """Return in how many tiles an array lies across the partitions."""
        return 1 if self.across is None else ceil(self.extents[self.across] / partitions)

    def shape(self, value: Value, partitions: int) -> list[int]:
        """Return the extents of the buffer of a value in sbuf."""
        tiles = self.tiles(partitions)
        if value.extent is Extent.COLUMN:
            return [partitions, tiles]
        return [partitions, tiles, *([self.extents[d] for d in self.free] or [1])]

    def bytes(self, value: Value, partitions: int, width: int = 4) -> int:
        """Return the bytes of that buffer in each partition."""
        return prod(self.shape(value, partitions)[1:]) * width


@dataclass(frozen=True, eq=False)
class LaneOperator(ResidentOperator):
    """An operator that computes a body."""

    body: LaneBody

    @property
    def reads(self) -> Iterator[Read]:
        """The arrays of the body."""
        return self.body.reads

    @property
    def columns(self) -> tuple[Column, ...]:
        """The constants of the body."""
        return self.body.columns

    def scratch(self, target: Target) -> Mapping[Hashable, int]:
        """Return the room for values in between, in f32."""
        partitions = partitions_of(target)
        return {v: self.body.bytes(v, partitions) for v in self.body.steps.in_sbuf}


@dataclass(frozen=True, eq=False)
class Lanes(LaneOperator):
    """`output = body(arrays, constants)`, element by element."""


@dataclass(frozen=True, eq=False)
class Across(LaneOperator):
    """`output = initial + sum over the partitions of body(arrays, constants)`, on all partitions.

    The sum is a product with a matrix of ones, so what it adds up is rounded to `summed_type`.
    """

    initial: float
    summed_type: ir.Type

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """The ones."""
        return (Matrix("ones", self.summed_type),)

    def scratch(self, target: Target) -> Mapping[Hashable, int]:
        """Return the room for values in between, in f32, and for what is summed."""
        found, result = dict(super().scratch(target)), self.body.steps.result
        if result.number is None:
            width = byte_width(self.summed_type)
            found[result] = self.body.bytes(result, partitions_of(target), width)
        return found
