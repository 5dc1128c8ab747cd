"""Writes the kernel of a resident group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.resident.folds import FoldWriter
from polystage.passes.lower.resident.groups import (
    BIASES,
    ResidentGroup,
    WeightPiece,
    pieces_of,
)
from polystage.passes.lower.resident.layout import Layout, ResidentArray, alloc_at, partitions_of
from polystage.passes.lower.resident.operators import Fold, Product, ResidentOperator, Sum
from polystage.passes.lower.resident.packing import PackedOperand, packing_of
from polystage.passes.lower.resident.sums import LoadedSegment, PsumBanks, Shift, SumWriter


@dataclass(frozen=True)
class GroupOperands:
    """Where in DRAM a kernel finds everything: values of the program, which it gets as
    arguments."""

    inputs: Mapping[ir.Value, str]
    """Arrays that are loaded, each with the cause."""
    outputs: Mapping[ir.Value, str]
    """Arrays that are stored."""
    weights: Mapping[Product, Sequence[ir.Value]]
    biases: ir.Value | None
    first_bias: Mapping[Sum, int]
    identities: Mapping[str, ir.Value]

    def values(self) -> list[ir.Value]:
        """Return the arguments of the call."""
        weights = [value for found in self.weights.values() for value in found]
        constants = [*weights, *([self.biases] if self.biases else []), *self.identities.values()]
        return list(dict.fromkeys([*self.inputs, *self.outputs, *constants]))


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
        self.arrays: dict[ir.Value, ResidentArray] = {}
        self.packed: dict[Product, PackedOperand] = {}
        self.loaded: dict[Product, list[LoadedSegment]] = defaultdict(list)
        self.weights = {o: _pieces(o, builder.target) for o in group.operators}
        self.next = self.done = 0
        """Operators whose weights are on their way, and pieces of the next one's."""
        self.banks = PsumBanks(builder)

    def write(self, layers: Sequence[str]) -> None:
        """Write the kernel; `layers` are the names of the operators for reports."""
        group, operands = self.group, self.operands
        biases = self._load_whole(operands.biases, BIASES) if operands.biases else None
        identities = {t: self._load_whole(v, t) for t, v in operands.identities.items()}
        sums = SumWriter(self.builder, self.arrays, self.banks, identities, self.packed)
        folds = FoldWriter(self.builder, self.arrays, group.addresses)
        for position, operator in enumerate(group.operators):
            start = _last(self.builder)
            for window, _, _ in operator.reads:
                if window.array not in self.arrays:
                    self._load(window.array)
            self._load_weights(position, position + 1)  # of what runs now, perhaps
            self._load_packed(operator)
            self._load_weights(position, len(group.operators))
            self._open(operator)
            if isinstance(operator, Fold):
                folds.write(operator)
            else:
                loaded = [self.loaded[product] for product in operator.products]
                sums.write(operator, loaded, self._shift(operator, biases))
            self._store(operator)
            _name_layer(_after(self.builder, start), layers[position])
        self._describe(layers)

    def _describe(self, layers: Sequence[str]) -> None:
        """Note the extents of every layer's contractions, which reports compare the tiles with."""
        described = {
            layer: ir.ArrayAttr.get([_extents(product) for product in operator.products])
            for layer, operator in zip(layers, self.group.operators, strict=True)
            if isinstance(operator, Sum) and operator.products
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
        products = operator.products if isinstance(operator, Sum) else ()
        for product in products:
            packing = packing_of(product, self.builder.target) if product.packed else None
            if packing is None:
                continue
            value, type_ = product.moving.array, product.moving.element_type
            address = self.group.addresses[product]
            buffer = alloc_at(self.builder, packing.buffer_shape, type_, address)
            self.packed[product] = PackedOperand(packing, buffer)
            cause = self.operands.inputs[value]
            self.packed[product].load(self.builder, self.argument[value], cause)

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
        self.loaded[product].append(LoadedSegment(buffer, before + piece.first))

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
        array = self.arrays[value]
        for tile in range(array.layout.tiles):
            target = self._in_memory(value, array.layout, tile)
            cause = self.operands.outputs[value]
            self.builder.dma(array.inside(self.builder, tile), target, cause)

    def _in_memory(self, value: ir.Value, layout: Layout, tile: int) -> ir.Value:
        """Return a tile of an array in DRAM: [channel, *other dimensions]."""
        starts = [0] * len(layout.shape)
        sizes = list(layout.shape)
        starts[layout.partition] = tile * layout.partitions
        sizes[layout.partition] = layout.count(tile)
        view = self.builder.subview(self.argument[value], starts, sizes)
        return self.builder.transpose(view, [layout.partition, *layout.free])

    def _shift(self, operator: Sum, biases: ir.Value | None) -> Shift | None:
        if biases is None or operator not in self.operands.first_bias:
            return None
        return Shift(biases, self.operands.first_bias[operator])


def _pieces(operator: ResidentOperator, target: Target) -> list[tuple[Product, WeightPiece]]:
    products = operator.products if isinstance(operator, Sum) else ()
    return [(product, piece) for product in products for piece in pieces_of(product, target)]


def _extents(product: Product) -> ir.DictAttr:
    i64 = ir.IntegerType.get_signless(64)
    extents = {
        "batch": 1,
        "m": product.extents[product.row],
        "n": prod(product.extents[d] for d in product.columns),
        "k": product.channels * prod(product.extents[d] for d in product.taps),
    }
    return ir.DictAttr.get({name: ir.IntegerAttr.get(i64, n) for name, n in extents.items()})


def _last(builder: KernelBuilder) -> int:
    return len(builder.function.entry_block.operations)


def _after(builder: KernelBuilder, start: int) -> list[ir.Operation]:
    """Return the instructions of a kernel from position `start` to the terminator."""
    operations = list(builder.function.entry_block.operations)
    return [op.operation for op in operations[max(0, start - 1) : -1]]


def _name_layer(operations: Iterable[ir.Operation], layer: str) -> None:
    """Say of what layer instructions are, for reports."""
    for op in operations:
        if op.name.startswith("npu.") and op.name != "npu.alloc":
            op.attributes["layer"] = ir.StringAttr.get(layer)
