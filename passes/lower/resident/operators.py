"""The operators of a resident group: what they read and write, in the dimensions of arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal, Protocol

import numpy as np

from polystage.dtypes import byte_width
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.resident.layout import partitions_of
from polystage.passes.lower.resident.windows import Window, matching_dims

REPLICATED = None
"""In place of the dimension across the partitions: all partitions have the same values, in f32."""

SUMS_TOGETHER = 2
"""Sums of the vector engine that lie in sbuf until the scalar engine has read them; with more, one
operator's would keep psum from the next one's."""

Read = tuple[Window, int | None, tuple[int, ...]]
"""What an operator reads: the window, the dimension of its array that lies across the partitions or
`REPLICATED`, and the extents of the window's loops, none where it does not leave the array."""


@dataclass(frozen=True)
class Column:
    """One value for each partition, in f32: `scale` times the sum of constants of `extent`
    elements; on chip one column for each tile of partitions."""

    names: tuple[str, ...]
    extent: int
    scale: float = 1.0

    def tiles(self, partitions: int) -> int:
        """Return how many columns there are."""
        return ceil(self.extent / partitions)


class Table(Protocol):
    """A constant that lies in sbuf as long as a group runs, [partition, columns]; what is equal is
    there once."""

    @property
    def element_type(self) -> ir.Type:
        """The element type."""
        ...

    @property
    def name(self) -> str:
        """A name for the constant, which need not be free."""
        ...

    def columns(self, partitions: int) -> int:
        """Return how many columns there are."""
        ...

    def data(self, partitions: int, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return the elements; `read` gives those of a global."""
        ...


@dataclass(frozen=True)
class Matrix:
    """A square matrix of as many rows as there are partitions, which the array multiplies by."""

    kind: Literal["identity", "ones"]
    element_type: ir.Type

    @property
    def name(self) -> str:
        """What it is, and of what type."""
        return f"{self.kind}_matrix_{self.element_type}"

    def columns(self, partitions: int) -> int:
        """Return as many columns as rows."""
        return partitions

    def data(self, partitions: int, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """Return the matrix."""
        del read
        return np.eye(partitions) if self.kind == "identity" else np.ones((partitions, partitions))


@dataclass(frozen=True, eq=False)
class ResidentOperator(ABC):
    """What runs in a group: its operations, the array that it makes, and the dimension of that
    across the partitions.

    A subclass says what it needs on chip beside `output`; its writer (`writer.WRITERS`) finds that
    in a `Workspace`.
    """

    ops: tuple[ir.Operation, ...]
    output: Window
    partition: int | None

    @property
    @abstractmethod
    def reads(self) -> Iterator[Read]:
        """The arrays that are read."""

    @property
    def weighted(self) -> tuple[Product, ...]:
        """Contractions with constant weights, which come in ahead."""
        return ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """Constants of one value for each partition."""
        return ()

    @property
    def matrices(self) -> tuple[Table, ...]:
        """Matrices that the array multiplies by."""
        return ()

    def scratch(self, target: Target) -> Mapping[Hashable, int]:
        """Return the bytes per partition of every buffer that is needed while the operator runs, by
        a name that no other operator uses."""
        del target
        return {}


@dataclass(frozen=True, eq=False)
class Product:
    """A contraction with constant weights: `sum(weights[channel, taps, row] * moving)`.

    `columns` are the dimensions of the output by loop; `weights` has the loop of every dimension of
    the constant.
    """

    op: ir.Operation
    extents: tuple[int, ...]
    global_name: str
    weights: tuple[int | None, ...]
    moving: Window
    channel: int
    row: int
    taps: tuple[int, ...]
    columns: dict[int, int]
    packed: bool = False
    """Whether the operand comes from memory in an arrangement of its own (`packing`)."""

    @property
    def channels(self) -> int:
        """How many elements of the partitions are contracted."""
        return self.extents[self.channel]

    @property
    def weight_bytes(self) -> int:
        """The bytes of the weights of each channel."""
        taps = prod(self.extents[d] for d in self.taps)
        return taps * self.extents[self.row] * byte_width(self.moving.element_type)


@dataclass(frozen=True, eq=False)
class Sum(ResidentOperator):
    """`output = function(scale * (products + addends + shifts) + bias)`.

    Addends are arrays of the output's shape, shifts name constants of one value per partition.
    """

    partition: int
    products: tuple[Product, ...]
    addends: tuple[Window, ...]
    shifts: tuple[str, ...]
    function: str = "identity"
    scale: float = 1.0
    bias: float = 0.0
    vector_adds: bool = False
    """Whether the vector engine adds the last addend to what is in psum (`additions`)."""

    @property
    def multiplied(self) -> tuple[Window, ...]:
        """The addends that come to what is in psum as products by identities."""
        if not self.products and len(self.addends) == 1:
            return ()
        return self.addends[:-1] if self.vector_adds else self.addends

    @property
    def reads(self) -> Iterator[Read]:
        """Operands of products that do not come packed, and addends."""
        for product in self.products:
            if product.packed:
                continue
            dim = product.moving.dim_of(product.channel)
            assert dim is not None
            yield product.moving, dim, product.extents
        for addend in self.addends:
            yield addend, self.dim_of_addend(addend, self.partition), ()

    def walks_as_stored(self, addend: Window) -> bool:
        """Whether what an addend has within a partition comes in the order of the output."""
        matching = matching_dims(addend, self.output) or {}
        within = [to for _, to in sorted(matching.items()) if to != self.partition]
        return within == sorted(within)

    def dim_of_addend(self, addend: Window, dim: int) -> int | None:
        """Return the dimension of an addend that is `dim` of the output, or None where it has
        none, as that is of one element."""
        matching = matching_dims(addend, self.output) or {}
        return next((d for d, to in matching.items() if to == dim), None)

    @property
    def weighted(self) -> tuple[Product, ...]:
        """All products."""
        return self.products

    @property
    def shift(self) -> Column | None:
        """What is added for each partition, scaled as all is."""
        extent = self.output.shape[self.partition]
        return Column(self.shifts, extent, self.scale) if self.shifts else None

    @property
    def columns(self) -> tuple[Column, ...]:
        """The shift."""
        return (self.shift,) if self.shift is not None else ()

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """The identities."""
        return tuple(Matrix("identity", addend.element_type) for addend in self.multiplied)

    def sum_columns(self, target: Target) -> int:
        """Return the most columns of a sum that the vector engine makes."""
        elements = prod(self.output.shape) // self.output.shape[self.partition]
        return min(elements, target.psum.bank_bytes // 4)

    def scratch(self, target: Target) -> Mapping[Hashable, int]:
        """Return the room for sums of the vector engine, in f32."""
        if not self.vector_adds:
            return {}
        return {self: 4 * SUMS_TOGETHER * self.sum_columns(target)}


@dataclass(frozen=True, eq=False)
class Fold(ResidentOperator):
    """`output = fold over a window of the input`: a pooling; `kind` is `max` or `add`."""

    partition: int
    source: Window
    source_partition: int
    extents: tuple[int, ...]
    reduced: tuple[int, ...]
    kind: str
    initial: float

    @property
    def reads(self) -> Iterator[Read]:
        """The input."""
        yield self.source, self.source_partition, self.extents

    def scratch(self, target: Target) -> Mapping[Hashable, int]:
        """Return the room for sums, in f32."""
        if self.kind != "add":
            return {}
        channels = self.output.shape[self.partition]
        tiles = ceil(channels / partitions_of(target))
        return {self: 4 * tiles * (prod(self.output.shape) // channels)}


@dataclass(frozen=True, eq=False)
class Other:
    """An operation that does not run in a group, and why; None where another says it for it."""

    ops: tuple[ir.Operation, ...]
    reason: str | None


def plain_dims(window: Window, extents: tuple[int, ...]) -> dict[int, int] | None:
    """Return the dimension of the array for every loop, where each dimension of more than one
    element is one loop over all of it."""
    found: dict[int, int] = {}
    for dim, (linear, n) in enumerate(zip(window.index, window.shape, strict=True)):
        if n == 1 and not linear.dims and linear.constant == 0:
            continue
        if linear.single is None or extents[linear.single] != n or linear.single in found:
            return None
        found[linear.single] = dim
    return found
