"""What the writers of operators share: a kernel under construction and its buffers on chip."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.resident.layout import ResidentArray, alloc_at
from polystage.passes.lower.resident.operators import Column, Product, Table
from polystage.passes.lower.resident.packing import PackedOperand


class PsumBanks:
    """The banks of psum, which tiles of results take in turn."""

    def __init__(self, builder: KernelBuilder) -> None:
        psum = builder.target.psum
        self.builder = builder
        self.columns = min(psum.bank_bytes // 4, builder.target.tensor.moving_columns)
        rows = builder.target.tensor.columns
        with builder.module.context:
            shape, f32 = [rows, self.columns], ir.F32Type.get()
            self.banks = [builder.alloc(shape, f32, "psum") for _ in range(psum.banks)]
        self.taken = 0
        self.kept: dict[Hashable, tuple[Any, int]] = {}

    def take(self, rows: int, sizes: Sequence[int]) -> Any:
        """Return the next bank as [rows, *sizes]."""
        bank = self.banks[self.taken % len(self.banks)]
        self.taken += 1
        view = self.builder.subview(bank, [0, 0], [rows, prod(sizes)])
        return self.builder.expand(view, [[rows], list(sizes)])

    def keep(self, name: Hashable, view: Any) -> None:
        """Note what lies in the bank that was taken last."""
        self.kept[name] = view, self.taken

    def find(self, name: Hashable) -> Any | None:
        """Return what was kept, or None where its bank has been taken again."""
        view, taken = self.kept.get(name, (None, 0))
        return view if self.taken < taken + len(self.banks) else None


@dataclass(frozen=True)
class LoadedSegment:
    """Weights on chip, [channel, tile, tap, row], of the channel tiles from `first`."""

    buffer: ir.Value
    first: int


@dataclass
class Workspace:
    """A kernel, and where on chip it has arrays, weights and constants.

    `addresses` are those of every operator's scratch buffers, by name.
    """

    builder: KernelBuilder
    banks: PsumBanks
    addresses: Mapping[Hashable, int]
    arrays: dict[ir.Value, ResidentArray] = field(default_factory=dict[ir.Value, ResidentArray])
    weights: dict[Product, list[LoadedSegment]] = field(
        default_factory=dict[Product, list[LoadedSegment]]
    )
    packed: dict[Product, PackedOperand] = field(default_factory=dict[Product, PackedOperand])
    matrices: dict[Table, ir.Value] = field(default_factory=dict[Table, ir.Value])
    columns: ir.Value | None = None
    """The columns of all operators, [partition, column]."""
    first_column: Mapping[Column, int] = field(default_factory=dict[Column, int])

    def column(self, column: Column, tile: int, count: int) -> Any:
        """Return the values of `column` for `count` partitions of a tile: [count, 1]."""
        assert self.columns is not None
        first = self.first_column[column] + tile
        return self.builder.subview(self.columns, [0, first], [count, 1])

    def matrix(self, matrix: Table, rows: int, columns: int) -> Any:
        """Return the upper left corner of a matrix."""
        return self.builder.subview(self.matrices[matrix], [0, 0], [rows, columns])

    def scratch(self, name: Hashable, shape: Sequence[int], element_type: ir.Type) -> ir.Value:
        """Reserve the scratch buffer of that name; dimension 0 is the partition."""
        return alloc_at(self.builder, shape, element_type, self.addresses[name])
