"""The operators of a resident group: what they read and write, in the dimensions of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from polystage.dtypes import byte_width
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Linear
from polystage.passes.lower.resident.windows import Window


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
class Sum:
    """`output = function(scale * (products + addends + shifts) + bias)`.

    Addends are arrays of the output's shape, shifts name constants of one value per partition.
    """

    ops: tuple[ir.Operation, ...]
    output: Window
    partition: int
    products: tuple[Product, ...]
    addends: tuple[Window, ...]
    shifts: tuple[str, ...]
    function: str = "identity"
    scale: float = 1.0
    bias: float = 0.0

    @property
    def reads(self) -> Iterator[tuple[Window, int, tuple[int, ...]]]:
        """What is read: the window, the dimension across the partitions, the extents of the loops,
        none where the window is the array."""
        for product in self.products:
            if product.packed:
                continue
            dim = product.moving.dim_of(product.channel)
            assert dim is not None
            yield product.moving, dim, product.extents
        for addend in self.addends:
            yield addend, self.partition, ()


@dataclass(frozen=True, eq=False)
class Fold:
    """`output = fold over a window of the input`: a pooling; `kind` is `max` or `add`."""

    ops: tuple[ir.Operation, ...]
    output: Window
    partition: int
    source: Window
    source_partition: int
    extents: tuple[int, ...]
    reduced: tuple[int, ...]
    kind: str
    initial: float

    @property
    def reads(self) -> Iterator[tuple[Window, int, tuple[int, ...]]]:
        """What is read: the window, the dimension across the partitions, the loops' extents."""
        yield self.source, self.source_partition, self.extents


ResidentOperator = Sum | Fold


@dataclass(frozen=True, eq=False)
class Other:
    """An operation that does not run in a group, and why."""

    ops: tuple[ir.Operation, ...]
    reason: str


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


def identity_index(shape: list[int]) -> tuple[Linear, ...]:
    """Return the index of an array whose dimensions are the loops."""
    return tuple(
        Linear(0, tuple(int(i == d) for i in range(len(shape)))) for d in range(len(shape))
    )
