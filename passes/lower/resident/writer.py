"""Writes the kernel of a resident group."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Protocol

from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.resident.attention.operator import Attention
from polystage.passes.lower.resident.attention.writer import AttentionWriter
from polystage.passes.lower.resident.folds import FoldWriter
from polystage.passes.lower.resident.groups import (
    COLUMNS,
    STAGE,
    ResidentGroup,
    WeightPiece,
    pieces_of,
)
from polystage.passes.lower.resident.lanes.operators import Across, Lanes
from polystage.passes.lower.resident.lanes.writer import AcrossWriter, LanesWriter
from polystage.passes.lower.resident.layout import Layout, ResidentArray, alloc_at, partitions_of
from polystage.passes.lower.resident.operators import (
    Column,
    Fold,
    Product,
    ResidentOperator,
    Sum,
    Table,
)
from polystage.passes.lower.resident.packing import PackedOperand, packing_of
from polystage.passes.lower.resident.placing import Placing, PlacingWriter
from polystage.passes.lower.resident.sums import SumWriter
from polystage.passes.lower.resident.turned_rows import TurnedRows
from polystage.passes.lower.resident.workspace import LoadedSegment, PsumBanks, Workspace


@dataclass(frozen=True)
class GroupOperands:
    """Where in DRAM a kernel finds everything: values of the program, which it gets as
    arguments."""

    inputs: Mapping[ir.Value, str]
    """Arrays that are loaded, each with the cause."""
    outputs: Mapping[ir.Value, str]
    """Arrays that are stored."""
    weights: Mapping[Product, Sequence[ir.Value]]
    matrices: Mapping[Table, ir.Value]
    columns: ir.Value | None
    first_column: Mapping[Column, int]

    def values(self) -> list[ir.Value]:
        """Return the arguments of the call."""
        weights = [value for found in self.weights.values() for value in found]
        constants = [*weights, *([self.columns] if self.columns else []), *self.matrices.values()]
        return list(dict.fromkeys([*self.inputs, *self.outputs, *constants]))


class OperatorWriter(Protocol):
    """Writes the instructions of operators of one kind; their arrays are in the workspace."""

    def write(self, operator: Any) -> None:
        """Write one operator."""
        ...


WRITERS: Mapping[type[ResidentOperator], Callable[[Workspace], OperatorWriter]] = {
    Sum: SumWriter,
    Fold: FoldWriter,
    Placing: PlacingWriter,
    Lanes: LanesWriter,
    Across: AcrossWriter,
    Attention: AttentionWriter,
}
"""The writer of every kind of operator."""


class GroupWriter:
    """Writes operators one after the other; arrays stay in their buffers."""

    def __init__(
        self, builder: KernelBuilder, group: ResidentGroup, operands: GroupOperands
    ) -> None:
        self.builder = builder
        self.group = group
        self.operands = operands
        self.partitions = partitions_of(builder.target)
        self.argument = dict(zip(operands.values(), builder.arguments, strict=True))
        self.workspace = Workspace(builder, PsumBanks(builder), group.addresses)
        self.workspace.first_column = operands.first_column
        self.arrays = self.workspace.arrays
        self.writers = {kind: make(self.workspace) for kind, make in WRITERS.items()}
        self.weights = {o: _pieces(o, builder.target) for o in group.operators}
        self.next = self.done = 0
        """Operators whose weights are on their way, and pieces of the next one's."""

    def write(self, layers: Sequence[str]) -> None:
        """Write the kernel; `layers` are the names of the operators for reports."""
        group, operands = self.group, self.operands
        if operands.columns is not None:
            self.workspace.columns = self._load_whole(operands.columns, COLUMNS)
        for matrix, value in operands.matrices.items():
            self.workspace.matrices[matrix] = self._load_whole(value, matrix)
        newest: list[ir.Operation | None] = [None]  # what comes in ahead is the first layer's
        for position, operator in enumerate(group.operators):
            for window, _, _ in operator.reads:
                if window.array not in self.arrays:
                    self._load(window.array)
            self._load_weights(position, position + 1)  # of what runs now, perhaps
            self._load_packed(operator)
            self._load_weights(position, len(group.operators))
            self._open(operator)
            self.writers[type(operator)].write(operator)
            self._store(operator)
            newest.append(self._newest())
        self._name_layers(newest, layers)
        self._describe(layers)

    def _newest(self) -> ir.Operation | None:
        """Return the last operation in front of the terminator."""
        operations = self.builder.function.entry_block.operations
        return operations[len(operations) - 2].operation if len(operations) > 1 else None

    def _name_layers(self, newest: Sequence[ir.Operation | None], layers: Sequence[str]) -> None:
        """Say of what layer instructions are, for reports; `newest` are the operations after which
        those of a layer begin, None for the start, and behind them the last one."""
        operations = [op.operation for op in self.builder.function.entry_block.operations]
        place: dict[ir.Operation | None, int] = {op: i for i, op in enumerate(operations)}
        starts = [place.get(op, -1) + 1 for op in newest]
        for (start, stop), layer in zip(pairwise(starts), layers, strict=True):
            for op in operations[start:stop]:
                if op.name.startswith("npu.") and op.name != "npu.alloc":
                    op.attributes["layer"] = ir.StringAttr.get(layer)

    def _describe(self, layers: Sequence[str]) -> None:
        """Note the extents of every layer's contractions, which reports compare the tiles with."""
        described = {
            layer: ir.ArrayAttr.get([_extents(product) for product in operator.weighted])
            for layer, operator in zip(layers, self.group.operators, strict=True)
            if operator.weighted
        }
        if described:
            self.builder.function.attributes["npu.contractions"] = ir.DictAttr.get(described)

    # --- transfers -------------------------------------------------------------------------------

    def _load_whole(self, value: ir.Value, name: Hashable) -> ir.Value:
        """Load a constant as it is."""
        type_ = ir.MemRefType(value.type)
        address = self.group.addresses[name]
        buffer = alloc_at(self.builder, list(type_.shape), type_.element_type, address)
        self.builder.dma(self.argument[value], buffer, "weight")
        return buffer

    def _load_packed(self, operator: ResidentOperator) -> None:
        for product in operator.weighted:
            packing = packing_of(product, self.builder.target) if product.packed else None
            if packing is None:
                continue
            value, type_ = product.moving.array, product.moving.element_type
            address = self.group.addresses[product]
            buffer = alloc_at(self.builder, packing.buffer_shape, type_, address)
            packed = self.workspace.packed[product] = PackedOperand(packing, buffer)
            packed.load(self.builder, self.argument[value], self.operands.inputs[value])

    def _load_weights(self, position: int, stop: int) -> None:
        """Start to load the weights of operators before `stop` that come in while the operator at
        `position` runs."""
        for number in range(self.next, stop):
            operator = self.group.operators[number]
            pieces = list(zip(self.weights[operator], self.group.pieces[number], strict=True))
            for (product, piece), place in pieces[self.done :]:
                if place.position > position:
                    return
                self._load_piece(product, piece, place.address)
                self.done += 1
            self.next, self.done = number + 1, 0

    def _load_piece(self, product: Product, piece: WeightPiece, address: int) -> None:
        value = self.operands.weights[product][piece.constant]
        type_ = ir.MemRefType(value.type)
        partitions, _, *rest = type_.shape
        sizes = [partitions, piece.count, *rest]
        buffer = alloc_at(self.builder, sizes, type_.element_type, address)
        source = self.builder.subview(self.argument[value], [0, piece.first, 0, 0], sizes)
        self.builder.dma(source, buffer, "weight")
        before = product.channels // self.partitions if piece.constant else 0
        segments = self.workspace.weights.setdefault(product, [])
        segments.append(LoadedSegment(buffer, before + piece.first))

    def _array(self, value: ir.Value) -> ResidentArray:
        layout = self.group.layouts[value]
        address = self.group.addresses[value]
        buffer = alloc_at(self.builder, layout.buffer_shape, layout.element_type, address)
        array = ResidentArray(layout, buffer)
        self.arrays[value] = array
        array.fill_border(self.builder)
        return array

    def _load(self, value: ir.Value) -> None:
        array = self._array(value)
        if value in self.group.turned:
            cause = self.operands.inputs[value]
            self._rows(array).load(self.argument[value], cause)
            return
        for tile in range(array.layout.tiles):
            source = self._in_memory(value, array.layout, tile)
            self.builder.dma(source, array.inside(self.builder, tile), self.operands.inputs[value])

    def _open(self, operator: ResidentOperator) -> None:
        if operator.output.array not in self.arrays:
            self._array(operator.output.array)

    def _store(self, operator: ResidentOperator) -> None:
        value = operator.output.array
        if value not in self.operands.outputs:
            return
        array, cause = self.arrays[value], self.operands.outputs[value]
        if value in self.group.turned:
            self._rows(array).store(self.argument[value], cause)
            return
        for tile in range(array.layout.tiles):
            target = self._in_memory(value, array.layout, tile)
            self.builder.dma(array.inside(self.builder, tile), target, cause)

    def _rows(self, array: ResidentArray) -> TurnedRows:
        """Return what turns the rows of an array."""
        shape = TurnedRows.stage_shape(array.layout, self.builder.target)
        address = self.group.addresses[STAGE]
        stage = alloc_at(self.builder, shape, array.layout.element_type, address)
        return TurnedRows(self.workspace, array, stage)

    def _in_memory(self, value: ir.Value, layout: Layout, tile: int) -> ir.Value:
        """Return a tile of an array in DRAM: [channel, *other dimensions]."""
        assert layout.partition is not None, "checked when the group was planned"
        starts = [0] * len(layout.shape)
        sizes = list(layout.shape)
        starts[layout.partition] = tile * layout.partitions
        sizes[layout.partition] = layout.count(tile)
        view = self.builder.subview(self.argument[value], starts, sizes)
        return self.builder.transpose(view, [layout.partition, *layout.free])


def _pieces(operator: ResidentOperator, target: Target) -> list[tuple[Product, WeightPiece]]:
    return [(p, piece) for p in operator.weighted for piece in pieces_of(p, target)]


def _extents(product: Product) -> ir.DictAttr:
    i64 = ir.IntegerType.get_signless(64)
    extents = {
        "batch": 1,
        "m": product.extents[product.row],
        "n": prod(product.extents[d] for d in product.columns),
        "k": product.channels * prod(product.extents[d] for d in product.taps),
    }
    return ir.DictAttr.get({name: ir.IntegerAttr.get(i64, n) for name, n in extents.items()})
