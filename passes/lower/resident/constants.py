"""Weights and biases of a group, stored at compile time as its kernel loads them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod

import numpy as np

from polystage.constants import constant_array, constant_attr
from polystage.dialects import npu
from polystage.dtypes import numpy_dtype
from polystage.machine.target import Target
from polystage.mlir import ir, memref
from polystage.passes.lower.resident.layout import partitions_of
from polystage.passes.lower.resident.operators import Column, Matrix, Product, Table
from polystage.passes.lower.resident.packing import Packing, packing_of


class Constants:
    """Makes the constants of groups: new globals, and values that stand in front of a call."""

    def __init__(self, module: ir.Module, target: Target) -> None:
        self.module = module
        self.symbols = ir.SymbolTable(module.operation)
        self.target = target
        self.partitions = partitions_of(target)
        self.made: dict[Hashable, str] = {}

    def weights(self, product: Product) -> list[ir.Value]:
        """Return the weights of a product, [channel, tile, tap, row]: all full tiles of channels,
        then the rest, each so that the bytes of a partition lie in one run.

        Those of a packed product are [partition, 1, 1, row], one for each matmul.
        """
        packing = packing_of(product, self.target) if product.packed else None
        if packing is not None:
            return [self._packed(product, packing, n) for n in range(packing.matmuls)]
        full = product.channels // self.partitions * self.partitions
        ranges = [(0, full, self.partitions), (full, product.channels, product.channels - full)]
        return [self._segment(product, *r) for r in ranges if r[0] < r[1]]

    def _packed(self, product: Product, packing: Packing, matmul: int) -> ir.Value:
        key = (product.global_name, product.weights, product.taps, "packed", matmul)
        if key not in self.made:
            data = packing.weights(self._data(product.global_name), matmul)
            type_ = self._type(product.global_name).element_type
            shaped = data.reshape(data.shape[0], 1, 1, data.shape[1])
            self.made[key] = self._global(f"{product.global_name}_taps", shaped, type_)
        return self._value(self.made[key])

    def _segment(self, product: Product, start: int, stop: int, size: int) -> ir.Value:
        key = (product.global_name, product.weights, product.taps, start)
        if key not in self.made:
            data = _by_channel(product, self._data(product.global_name))[start:stop]
            tiled = data.reshape(-1, size, *data.shape[1:]).swapaxes(0, 1)
            type_ = self._type(product.global_name).element_type
            self.made[key] = self._global(f"{product.global_name}_tiled", tiled, type_)
        return self._value(self.made[key])

    def columns(self, columns: Sequence[Column]) -> tuple[ir.Value | None, dict[Column, int]]:
        """Return all columns in one constant [partition, column], in f32, and where each begins."""
        tiles: list[np.ndarray] = []
        first: dict[Column, int] = {}
        for column in dict.fromkeys(columns):
            values = sum(self._data(n).astype(np.float32).reshape(-1) for n in column.names)
            assert isinstance(values, np.ndarray)
            count = column.tiles(self.partitions)
            padded = np.zeros(count * self.partitions, np.float32)
            padded[: len(values)] = values * np.float32(column.scale)
            first[column] = sum(t.shape[1] for t in tiles)
            tiles.append(padded.reshape(count, self.partitions).T)
        if not tiles:
            return None, first
        table = np.concatenate(tiles, axis=1)
        return self._value(self._global("resident_columns", table, ir.F32Type.get())), first

    def table(self, table: Table) -> ir.Value:
        """Return a constant that is on chip as a whole."""
        if table not in self.made:
            data = table.data(self.partitions, self._data)
            name = self._global(table.name, data, table.element_type)
            if isinstance(table, Matrix):
                self.symbols[name].attributes[npu.AUXILIARY_CONSTANT] = ir.UnitAttr.get()
            self.made[table] = name
        return self._value(self.made[table])

    def _data(self, name: str) -> np.ndarray:
        op = self.symbols[name]
        return constant_array(op.attributes["initial_value"], op.context)

    def _type(self, name: str) -> ir.MemRefType:
        return ir.MemRefType(ir.TypeAttr(self.symbols[name].attributes["type"]).value)

    def _global(self, name: str, data: np.ndarray, element_type: ir.Type) -> str:
        stored = np.ascontiguousarray(data, numpy_dtype(element_type))
        type_ = ir.MemRefType.get(list(data.shape), element_type)
        with ir.InsertionPoint.at_block_begin(self.module.body):
            op = memref.GlobalOp(
                name,
                ir.TypeAttr.get(type_),
                sym_visibility="private",
                initial_value=constant_attr(stored, name, element_type),
                constant=True,
            )
        return self.symbols.insert(op).value

    def _value(self, name: str) -> ir.Value:
        return memref.GetGlobalOp(self._type(name), name).result


def _by_channel(product: Product, data: np.ndarray) -> np.ndarray:
    """Return weights as [channel, tap, row], taps in the order of the product's."""
    loops = (product.channel, *product.taps, product.row)
    order = [product.weights.index(loop) for loop in loops]
    still = [i for i in range(data.ndim) if i not in order]
    taps = prod(product.extents[d] for d in product.taps)
    moved = data.transpose(*order, *still)
    return moved.reshape(product.channels, taps, product.extents[product.row])
