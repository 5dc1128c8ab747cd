"""Writes the kernel of a resident group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.resident.constants import Segment
from polystage.passes.lower.resident.folds import FoldWriter
from polystage.passes.lower.resident.groups import ResidentGroup
from polystage.passes.lower.resident.layout import Layout, ResidentArray
from polystage.passes.lower.resident.operators import Fold, Product, ResidentOperator, Sum
from polystage.passes.lower.resident.sums import LoadedSegment, PsumBanks, Shift, SumWriter


@dataclass(frozen=True)
class GroupOperands:
    """Where in DRAM a kernel finds everything: values of the program, which it gets as
    arguments."""

    inputs: Mapping[ir.Value, str]
    """Arrays that are loaded, each with the cause."""
    outputs: Mapping[ir.Value, str]
    """Arrays that are stored."""
    weights: Mapping[Product, Sequence[Segment]]
    biases: ir.Value | None
    first_bias: Mapping[Sum, int]
    identities: Mapping[str, ir.Value]

    def values(self) -> list[ir.Value]:
        """Return the arguments of the call."""
        segments = [s.value for found in self.weights.values() for s in found]
        constants = [*segments, *([self.biases] if self.biases else []), *self.identities.values()]
        return list(dict.fromkeys([*self.inputs, *self.outputs, *constants]))


class GroupWriter:
    """Writes operators one after the other; arrays stay in their buffers."""

    def __init__(
        self, builder: KernelBuilder, group: ResidentGroup, operands: GroupOperands
    ) -> None:
        self.builder = builder
        self.group = group
        self.operands = operands
        self.argument = dict(zip(operands.values(), builder.arguments, strict=True))
        self.arrays: dict[ir.Value, ResidentArray] = {}
        self.loaded: dict[Product, list[LoadedSegment]] = {}
        self.banks = PsumBanks(builder)

    def write(self, layers: Sequence[str]) -> None:
        """Write the kernel; `layers` are the names of the operators for reports."""
        biases = self._load_whole(self.operands.biases) if self.operands.biases else None
        identities = {t: self._load_whole(v) for t, v in self.operands.identities.items()}
        sums = SumWriter(self.builder, self.arrays, self.banks, identities)
        folds = FoldWriter(self.builder, self.arrays)
        for position, operator in enumerate(self.group.operators):
            start = _last(self.builder)
            for window, _, _ in operator.reads:
                if window.array not in self.arrays:
                    self._load(window.array)
            self._load_weights(position)
            self._open(operator)
            if isinstance(operator, Fold):
                folds.write(operator)
            else:
                loaded = [self.loaded[product] for product in operator.products]
                sums.write(operator, loaded, self._shift(operator, biases))
            self._store(operator)
            _name_layer(_after(self.builder, start), layers[position])

    # --- transfers -------------------------------------------------------------------------------

    def _load_whole(self, value: ir.Value) -> ir.Value:
        """Load a constant as it is."""
        type_ = ir.MemRefType(value.type)
        buffer = self.builder.alloc(list(type_.shape), type_.element_type)
        self.builder.dma(self.argument[value], buffer, "weight")
        return buffer

    def _load_weights(self, position: int) -> None:
        """Start to load the weights that come in while the operator at `position` runs."""
        for operator, load in zip(self.group.operators, self.group.loads, strict=True):
            if load == position and isinstance(operator, Sum):
                for product in operator.products:
                    self.loaded[product] = list(self._load_segments(product))

    def _load_segments(self, product: Product) -> Iterable[LoadedSegment]:
        tile = 0
        for segment in self.operands.weights[product]:
            yield LoadedSegment(self._load_whole(segment.value), tile)
            tile += ir.MemRefType(segment.value.type).shape[1]

    def _array(self, value: ir.Value) -> ResidentArray:
        layout = self.group.layouts[value]
        array = ResidentArray(layout, self.builder.alloc(layout.buffer_shape, layout.element_type))
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
