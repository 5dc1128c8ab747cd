"""The program @main: its DRAM buffers, its calls of kernels, one inference after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from polystage.constants import constant_array
from polystage.dialects.npu import AUXILIARY_CONSTANT
from polystage.errors import SimulationError
from polystage.interface import unsigned_results, value_names
from polystage.machine import cost
from polystage.mlir import ir
from polystage.simulator import index_ops, lane_ops, sync_ops, tensor_ops, transfer_ops, views
from polystage.simulator.access import DramRef, View
from polystage.simulator.assemble import Assembly
from polystage.simulator.decode import HANDLERS, Decoder, Program, layer_of
from polystage.simulator.expand import KernelTrace, expand
from polystage.simulator.instructions import Instruction
from polystage.simulator.memory import Array, DramBuffer, DramKind
from polystage.simulator.tables import Operand
from polystage.simulator.trace import Int64

for _part in (index_ops, views, tensor_ops, lane_ops, transfer_ops, sync_ops):
    HANDLERS.update(_part.HANDLERS)

ENTRY = "main"

Iteration = tuple[int, ...]
Node = Callable[[Assembly, Iteration], None]


@dataclass(frozen=True)
class Returned:
    """A result of @main."""

    name: str
    buffer: int
    view: View
    unsigned: bool


class MainDecoder(Decoder):
    """Decodes @main to nodes that append what one inference does to an assembly."""

    def __init__(self, program: Program, function: ir.Operation) -> None:
        super().__init__(program, ENTRY)
        self.function = function
        self.nodes: list[Node] = []
        self.kernels: dict[str, KernelTrace] = {}
        self.buffer_of_slot: list[int] = []
        self.globals: dict[str, View] = {}
        self.inputs: dict[str, View] = {}
        self.results: list[Returned] = []
        arguments = list(function.regions[0].blocks[0].arguments)
        names = value_names(function, "arg_attrs", "arg", len(arguments))
        for name, argument in zip(names, arguments, strict=True):
            self.inputs[name] = self.new_buffer(argument, name, "input")

    def run(self) -> list[Node]:
        """Return the nodes of one inference."""
        self.block(self.function.regions[0].blocks[0])
        return self.nodes

    def block(self, block: ir.Block) -> None:
        """Decode a block; that of a loop becomes a node."""
        if not self.loops:
            super().block(block)
            return
        outer, self.nodes = self.nodes, []
        super().block(block)
        outer.append(_repeat(self.loops[-1].trips, self.nodes))
        self.nodes = outer

    def operation(self, op: ir.Operation) -> None:
        """Decode what only @main may hold, or else what every function may."""
        handler = _HANDLERS.get(op.name)
        if handler is not None:
            handler(self, op)
        elif op.name.startswith("npu.") and op.name not in sync_ops.HANDLERS:
            raise SimulationError(
                f"'{op.name}' stands in @{ENTRY}", help="instructions belong into kernels", op=op
            )
        else:
            super().operation(op)

    def add(self, instruction: Instruction) -> None:
        """Append a signal or a wait."""
        decoder = Decoder(self.program, ENTRY)
        decoder.add(instruction)
        decoder.count("instructions", instruction.place.name)
        kernel = self.expand(decoder)
        self.nodes.append(lambda assembly, _: assembly.order(kernel))

    def expand(self, decoder: Decoder) -> KernelTrace:
        """Return what a decoder found as a kernel's trace."""
        return expand(self.program, decoder.decoded(), cost.held(self.program.target))

    def new_buffer(self, value: ir.Value, name: str, kind: DramKind) -> View:
        """Give a memref a DRAM buffer of its own."""
        view = self.argument(value, name)
        self.buffer_of_slot.append(len(self.program.buffers))
        self.program.buffers.append(DramBuffer(name, kind, prod(view.shape), view.dtype))
        return view

    def buffer(self, view: View) -> int:
        """Return the number of the buffer of a view."""
        assert isinstance(view.root, DramRef)
        return self.buffer_of_slot[view.root.slot]

    def dram(self, view: View) -> DramBuffer:
        """Return the buffer of a view."""
        buffer = self.program.buffers[self.buffer(view)]
        assert isinstance(buffer, DramBuffer)
        return buffer

    def operand(self, view: View) -> Callable[[Iteration], Operand]:
        """Return what resolves a view in an iteration of the loops around it."""
        buffer, size = self.buffer(view), prod(view.shape) * view.dtype.itemsize
        offsets = self.space.values(view.offset, self.depth)
        return lambda at: Operand(buffer, _at(offsets, at), size)

    def kernel(self, name: str, op: ir.Operation) -> KernelTrace:
        """Return a kernel, decoded and expanded once."""
        if name not in self.kernels:
            if name not in self.program.symbols:
                raise SimulationError(f"kernel @{name} does not exist", op=op)
            function = self.program.symbols[name]
            decoder = Decoder(self.program, name)
            for i, argument in enumerate(function.regions[0].blocks[0].arguments):
                decoder.argument(argument, f"argument {i} of @{name}")
            decoder.block(function.regions[0].blocks[0])
            self.kernels[name] = self.expand(decoder)
        return self.kernels[name]

    def append_call(
        self, kernel: KernelTrace, layer: str, operands: Sequence[View], peak_bytes: int
    ) -> None:
        """Append a node that calls a kernel."""
        resolve = [self.operand(view) for view in operands]

        def call(assembly: Assembly, at: Iteration) -> None:
            assembly.call(kernel, layer, [operand(at) for operand in resolve], peak_bytes)

        self.nodes.append(call)


def _at(values: Int64, iteration: Iteration) -> int:
    """Return a value in an iteration; axes of extent 1 do not matter."""
    index = tuple(i if n > 1 else 0 for i, n in zip(iteration, values.shape, strict=True))
    return int(values[index])


def _repeat(trips: int, nodes: Sequence[Node]) -> Node:
    def repeat(assembly: Assembly, at: Iteration) -> None:
        for i in range(trips):
            for node in nodes:
                node(assembly, (*at, i))

    return repeat


def _allocate(main: MainDecoder, op: ir.Operation) -> None:
    view = main.new_buffer(op.results[0], f"buffer {main.dram_slots}", "intermediate")
    number = main.buffer(view)
    main.nodes.append(lambda assembly, _: assembly.begin(number))


def _deallocate(main: MainDecoder, op: ir.Operation) -> None:
    number = main.buffer(main.view(op.operands[0]))
    main.nodes.append(lambda assembly, _: assembly.freed.add(number))


def _get_global(main: MainDecoder, op: ir.Operation) -> None:
    name = ir.FlatSymbolRefAttr(op.attributes["name"]).value
    symbols = main.program.symbols
    if name not in symbols:
        raise SimulationError(f"global @{name} does not exist", op=op)
    if name not in main.globals:
        main.globals[name] = _new_global(main, op, name)
    main.views[op.results[0]] = main.globals[name]


def _new_global(main: MainDecoder, op: ir.Operation, name: str) -> View:
    attributes = main.program.symbols[name].attributes
    value = attributes.get("initial_value")
    has_value = value is not None and value != ir.UnitAttr.get(op.context)
    kind: DramKind = "auxiliary" if AUXILIARY_CONSTANT in attributes else "constant"
    view = main.new_buffer(op.results[0], name, kind if has_value else "intermediate")
    number = main.buffer(view)
    if not has_value:  # one life for all inferences
        main.nodes.append(lambda assembly, _: assembly.keep(number))
    elif main.program.numerics:
        main.dram(view).fill(constant_array(value, op.context))
    return view


def _call(main: MainDecoder, op: ir.Operation) -> None:
    name = ir.FlatSymbolRefAttr(op.attributes["callee"]).value
    kernel = main.kernel(name, op)
    layer = layer_of(op) or name
    peak = kernel.decoded.peak_bytes.get("sbuf", 0) * main.program.target.sbuf.partitions
    main.append_call(kernel, layer, [main.view(v) for v in op.operands], peak)


def _copy(main: MainDecoder, op: ir.Operation) -> None:
    """A copy is the call of a kernel of one transfer."""
    operands = [main.view(v) for v in op.operands]
    layer = layer_of(op) or "copy"
    decoder = Decoder(main.program, ENTRY)
    source, destination = (decoder.whole(_name(v), v.shape, v.strides, v.dtype) for v in operands)
    transfer_ops.add_transfer(decoder, op, source, destination, "copy")
    if decoder.instructions:
        main.append_call(main.expand(decoder), layer, operands, 0)


def _name(view: View) -> str:
    assert isinstance(view.root, DramRef)
    return view.root.name


def _return(main: MainDecoder, op: ir.Operation) -> None:
    names = value_names(main.function, "res_attrs", "result", len(op.operands))
    unsigned = set(itertools.compress(names, unsigned_results(main.function)))
    for name, value in zip(names, op.operands, strict=True):
        view = main.view(value)
        main.results.append(Returned(name, main.buffer(view), view, name in unsigned))


_HANDLERS: dict[str, Callable[[MainDecoder, ir.Operation], None]] = {
    "memref.alloc": _allocate,
    "memref.dealloc": _deallocate,
    "memref.get_global": _get_global,
    "memref.copy": _copy,
    "func.call": _call,
    "func.return": _return,
}


def bind_inputs(main: MainDecoder, inputs: Mapping[str, Array]) -> None:
    """Give the input buffers their values: copies, that the caller's arrays stay.

    Raises: SimulationError for inputs that are missing, unknown or of another shape or kind.
    """
    _check_inputs(main.inputs, inputs)
    for name, view in main.inputs.items():
        values = np.array(inputs[name], view.dtype, order="C")
        main.dram(view).array = values.reshape(-1).view(np.uint8)


def _check_inputs(wanted: Mapping[str, View], inputs: Mapping[str, Array]) -> None:
    listed = ", ".join(f"{n} {list(v.shape)} {v.dtype}" for n, v in wanted.items())
    for name in inputs:
        if name not in wanted:
            raise SimulationError(f"the model has no input '{name}'", help=f"inputs are {listed}")
    for name, view in wanted.items():
        if name not in inputs:
            raise SimulationError(f"input '{name}' is missing", help=f"inputs are {listed}")
        array = np.asarray(inputs[name])
        if array.shape != view.shape:
            raise SimulationError(
                f"input '{name}' has shape {list(array.shape)}, but the model takes "
                f"{list(view.shape)}"
            )
        if array.dtype != view.dtype and not _converts(array.dtype, view.dtype):
            raise SimulationError(
                f"input '{name}' is {array.dtype}, but the model takes {view.dtype}"
            )


def _converts(source: np.dtype, target: np.dtype) -> bool:
    """Say whether values may be given in `source`: floats for floats, integers for any."""
    return source.kind in "iub" or (target.kind not in "iub" and source.kind != "c")


def outputs_of(main: MainDecoder, lives: Mapping[int, int]) -> dict[str, Any]:
    """Return the present values of the results, given the lives of the buffers.

    Raises: SimulationError where nothing wrote some of them.
    """
    found = {}
    for result in main.results:
        buffer, view = main.dram(result.view), result.view
        offset = int(main.space.values(view.offset, 0))
        life = lives.get(result.buffer)
        window = (offset, view.shape, view.strides)
        if life is not None and not buffer.written.has(window, life):
            raise SimulationError(f"@{ENTRY} returns '{buffer.name}', of which not all was written")
        array = buffer.view(view.dtype, *window).copy()
        found[result.name] = array.view(f"u{array.dtype}") if result.unsigned else array
    return found
