"""Runs a whole module: the program @main, its DRAM buffers, its calls of kernels."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from polystage.constants import constant_array
from polystage.dialects import npu
from polystage.dialects.npu.target import target_of
from polystage.errors import SimulationError
from polystage.interface import unsigned_results, value_names
from polystage.mlir import ir
from polystage.simulator import lane_ops, tensor_ops, transfer_ops, views
from polystage.simulator.access import DramRef, Frame, View
from polystage.simulator.decode import HANDLERS, Decoded, Decoder, Program
from polystage.simulator.engines import COMPUTE_ENGINES, Machine
from polystage.simulator.memory import Array, ChipMemory, DramBuffer
from polystage.simulator.result import Account, Counts, LayerResult, Result
from polystage.threads import one_blas_thread

Progress = Callable[[int, int, str], None]

for _part in (views, tensor_ops, lane_ops, transfer_ops):
    HANDLERS.update(_part.HANDLERS)

ENTRY = "main"


def simulate(
    module: ir.Module,
    inputs: Mapping[str, Array] | None = None,
    *,
    timing_only: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Execute a placed npu module on the target that it names, and return what it computed and
    cost.

    `inputs` are the model's inputs by name. `timing_only` skips the numbers, and needs none.
    `progress(done, total, layer)` is called before every call of a kernel.

    Raises: SimulationError for an input that does not fit, for what the machine cannot do, and for
    reads of what nothing wrote.
    """
    simulation = _Simulation(module, not timing_only, progress)
    with np.errstate(all="ignore"), one_blas_thread():
        return simulation.run(dict(inputs or {}))


class _Simulation:
    """One run: the decoded module, the state of the machine, the accounts of the layers."""

    def __init__(self, module: ir.Module, numerics: bool, progress: Progress | None) -> None:
        self.module = module
        self.numerics = numerics
        self.progress = progress
        _verify(module)
        target = target_of(module.operation)
        if target is None:
            raise SimulationError(
                "the module names no target",
                help="run npu-attach-target, which sets the attribute npu.target",
            )
        self.target = target
        self.symbols = {
            ir.StringAttr(op.attributes["sym_name"]).value: op.operation
            for op in module.body.operations
            if "sym_name" in op.attributes
        }
        if ENTRY not in self.symbols:
            raise SimulationError(f"the module has no function @{ENTRY}")
        self.machine = Machine(target, _engines_of(module))
        self.memories = {
            "sbuf": ChipMemory("sbuf", target.sbuf.partitions, target.sbuf.bytes_per_partition),
            "psum": ChipMemory("psum", target.psum.partitions, target.psum.bytes_per_partition),
        }
        self.program = Program(self.machine, self.memories, self.symbols, numerics)
        if numerics:
            for memory in self.memories.values():
                memory.materialise()
        self.kernels: dict[str, Decoded] = {}
        self.accounts: dict[str, Account] = {}
        self.total = Account(ENTRY)
        self.calls_done = 0
        self.calls_total = 0
        self.buffers: list[DramBuffer] = []

    # --- set-up ---

    def kernel(self, name: str, op: ir.Operation) -> Decoded:
        """Return a kernel, decoded once."""
        if name not in self.kernels:
            if name not in self.symbols:
                raise SimulationError(f"kernel @{name} does not exist", op=op)
            function = self.symbols[name]
            decoder = Decoder(self.program, function)
            for i, argument in enumerate(function.regions[0].blocks[0].arguments):
                decoder.argument(argument, f"argument {i} of @{name}")
            self.kernels[name] = decoder.decode()
        return self.kernels[name]

    def run(self, inputs: dict[str, Array]) -> Result:
        """Decode @main, bind the inputs, execute, and return the result."""
        main = _Main(self, self.symbols[ENTRY])
        decoded = main.decode()
        if self.numerics:
            check_inputs(main.inputs, inputs)
        frame = Frame(decoded.slots, [_NOTHING] * decoded.dram_slots, [0] * decoded.dram_slots)
        for name, view in main.inputs.items():
            frame.buffers[_slot(view)] = self.input_buffer(name, view, inputs)
        self.calls_total = decoded.counts[("calls",)]
        for node in decoded.nodes:
            node(frame)
        outputs = {
            name: view_of(frame, view).copy() for name, view in main.outputs if self.numerics
        }
        outputs |= {n: a.view(f"u{a.dtype}") for n, a in outputs.items() if n in main.unsigned}
        self.finish(frame, main)
        return Result(self.target, outputs, self.total.close(self.target), self.layers())

    def input_buffer(self, name: str, view: View, inputs: Mapping[str, Array]) -> DramBuffer:
        """Return the DRAM buffer of a model input: a copy, that the caller's array stays."""
        buffer = self.dram(name, "input", view)
        if self.numerics:
            buffer.array = np.array(inputs[name], view.dtype, order="C").reshape(-1).view(np.uint8)
        return buffer

    def dram(self, name: str, kind: Any, view: View) -> DramBuffer:
        """Make a DRAM buffer for a view of a whole one."""
        buffer = DramBuffer(name, kind, prod(view.shape), view.dtype)
        self.buffers.append(buffer)
        return buffer

    # --- accounts ---

    def account(self, layer: str) -> Account:
        """Return the account of a layer."""
        return self.accounts.setdefault(layer, Account(layer))

    def charge(
        self,
        layer: str,
        counts: Counts,
        frame: Frame,
        slots: Sequence[tuple[DramBuffer, int]],
        peak_bytes: int,
        run: Callable[[], None],
    ) -> None:
        """Run something on behalf of a layer and write down what it did.

        `slots` are the buffers that it sees, with the bytes of each that it may touch.
        """
        account = self.account(layer)
        before, end = self.machine.busy_ns(), self.machine.end_ns
        self.program.layer.name = layer
        run()
        account.calls += 1
        account.latency_ns += self.machine.end_ns - end
        account.counts.update(self.resolved(counts, slots))
        account.busy_ns.update(
            {name: ns - before[name] for name, ns in self.machine.busy_ns().items()}
        )
        account.peak_sbuf_bytes = max(account.peak_sbuf_bytes, peak_bytes)
        account.compulsory_bytes += _compulsory(counts, slots)
        for i, (buffer, _) in enumerate(slots):
            buffer.read_bytes += counts[("slot_read", str(i))]
            buffer.written_bytes += counts[("slot_write", str(i))]

    def resolved(self, counts: Counts, slots: Sequence[tuple[DramBuffer, int]]) -> Counts:
        """Return counts in which a gather's cause is what its table is."""
        causes = {"input": "input", "constant": "weight"}
        result: Counts = Counter()
        for key, n in counts.items():
            if key[:2] == ("dram_read", "gather"):
                kind = slots[int(key[2])][0].kind
                result[("dram_read", causes.get(kind, "intermediate"))] += n
            elif not key[0].startswith("slot_"):
                result[key] += n
        return result

    def finish(self, frame: Frame, main: _Main) -> None:
        """Sum the layers up; compulsory bytes count every buffer of the program once."""
        total = self.total
        for account in self.accounts.values():
            total.calls += account.calls
            total.counts.update(account.counts)
            total.busy_ns.update(account.busy_ns)
            total.peak_sbuf_bytes = max(total.peak_sbuf_bytes, account.peak_sbuf_bytes)
        total.latency_ns = self.machine.end_ns
        outputs = {id(frame.buffers[_slot(view)]) for _, view in main.outputs}
        for buffer in self.buffers:
            if buffer.kind in ("input", "constant"):
                total.compulsory_bytes += min(buffer.bytes, buffer.read_bytes)
            if id(buffer) in outputs:
                total.compulsory_bytes += min(buffer.bytes, buffer.written_bytes)

    def layers(self) -> tuple[LayerResult, ...]:
        """Return the layers in order of their first call."""
        return tuple(
            LayerResult(a.name, a.calls, a.close(self.target)) for a in self.accounts.values()
        )


def _compulsory(counts: Counts, slots: Sequence[tuple[DramBuffer, int]]) -> int:
    """Return what one call must move: operands that it reads once, results written once."""
    total = 0
    for i, (_, size) in enumerate(slots):
        written = counts[("slot_write", str(i))]
        total += min(size, written if written else counts[("slot_read", str(i))])
    return total


# --- @main ---


class _Main(Decoder):
    """The program: allocates DRAM, calls kernels."""

    def __init__(self, simulation: _Simulation, function: ir.Operation) -> None:
        super().__init__(simulation.program, function)
        self.simulation = simulation
        arguments = list(function.regions[0].blocks[0].arguments)
        names = value_names(function, "arg_attrs", "arg", len(arguments))
        self.inputs = {
            name: self.argument(a, name) for name, a in zip(names, arguments, strict=True)
        }
        self.outputs: list[tuple[str, View]] = []
        self.unsigned: set[str] = set()

    def operation(self, op: ir.Operation) -> None:
        """Decode what only @main may hold, or else what every function may."""
        handler = _MAIN_HANDLERS.get(op.name)
        if handler is not None:
            handler(self, op)
        elif op.name.startswith("npu."):
            raise SimulationError(
                f"'{op.name}' stands in @{ENTRY}", help="instructions belong into kernels", op=op
            )
        else:
            super().operation(op)

    def new_buffer(self, op: ir.Operation, name: str) -> View:
        """Give the result of an operation a slot of the frame."""
        return self.argument(op.results[0], name)


def _allocate(main: _Main, op: ir.Operation) -> None:
    view = main.new_buffer(op, f"buffer {main.dram_slots}")
    simulation, slot = main.simulation, _slot(view)
    name = f"buffer {slot}"

    def allocate(frame: Frame) -> None:
        buffer = simulation.dram(name, "intermediate", view)
        if simulation.numerics:
            buffer.materialise()
        frame.buffers[slot] = buffer

    main.out.append(allocate)


def _deallocate(main: _Main, op: ir.Operation) -> None:
    slot = _slot(main.view(op.operands[0]))

    def deallocate(frame: Frame) -> None:
        buffer = frame.buffers[slot]
        buffer.array = buffer.mask = None
        buffer.freed, buffer.full = True, False

    main.out.append(deallocate)


def _get_global(main: _Main, op: ir.Operation) -> None:
    name = ir.FlatSymbolRefAttr(op.attributes["name"]).value
    simulation = main.simulation
    if name not in simulation.symbols:
        raise SimulationError(f"global @{name} does not exist", op=op)
    view = main.new_buffer(op, name)
    buffer = _global_buffer(simulation, name, view)
    slot = _slot(view)

    def get_global(frame: Frame) -> None:
        frame.buffers[slot] = buffer

    main.out.append(get_global)


def _global_buffer(simulation: _Simulation, name: str, view: View) -> DramBuffer:
    existing = [b for b in simulation.buffers if b.name == name and b.kind == "constant"]
    if existing:
        return existing[0]
    op = simulation.symbols[name]
    value = op.attributes.get("initial_value")
    has_value = value is not None and value != ir.UnitAttr.get(op.context)
    buffer = simulation.dram(name, "constant" if has_value else "intermediate", view)
    if simulation.numerics and has_value:
        buffer.fill(constant_array(value, op.context))
    elif simulation.numerics:
        buffer.materialise()
    return buffer


def _call(main: _Main, op: ir.Operation) -> None:
    name = ir.FlatSymbolRefAttr(op.attributes["callee"]).value
    simulation = main.simulation
    kernel = simulation.kernel(name, op)
    layer = ir.StringAttr(op.attributes["layer"]).value if "layer" in op.attributes else name
    views = [main.view(v) for v in op.operands]
    slots = [_slot(v) for v in views]
    offsets = [v.offset.evaluator() for v in views]
    sizes = [prod(v.shape) * v.dtype.itemsize for v in views]
    peak = kernel.peak_bytes.get("sbuf", 0) * simulation.target.sbuf.partitions

    def call(frame: Frame) -> None:
        if simulation.progress is not None:
            simulation.progress(simulation.calls_done, simulation.calls_total, layer)
        simulation.calls_done += 1
        buffers = [frame.buffers[s] for s in slots]
        starts = [frame.offsets[s] + o(frame.values) for s, o in zip(slots, offsets, strict=True)]
        inner = Frame(kernel.slots, buffers, starts)
        seen = list(zip(buffers, sizes, strict=True))
        simulation.charge(layer, kernel.counts, inner, seen, peak, lambda: kernel.run(inner))

    main.count("calls")
    main.out.append(call)


def _copy(main: _Main, op: ir.Operation) -> None:
    source, destination = (main.view(v) for v in op.operands)
    layer = ir.StringAttr(op.attributes["layer"]).value if "layer" in op.attributes else "copy"
    total = main.counts
    main.counts = Counter()
    trips, main.trips = main.trips, 1
    transfer_ops.add_transfer(main, op, source, destination, "copy")
    counts, main.counts, main.trips = main.counts, total, trips
    if not counts:
        return
    transfer = main.out.pop()
    simulation = main.simulation

    def copy(frame: Frame) -> None:
        sizes = [(b, _touched(b, i, source, destination)) for i, b in enumerate(frame.buffers)]
        simulation.charge(layer, counts, frame, sizes, 0, lambda: transfer(frame))

    main.out.append(copy)


def _touched(buffer: DramBuffer, slot: int, source: View, destination: View) -> int:
    """Return the bytes of a buffer that a copy may touch."""
    views = [v for v in (source, destination) if _slot(v) == slot]
    return max((prod(v.shape) * buffer.dtype.itemsize for v in views), default=0)


def _return(main: _Main, op: ir.Operation) -> None:
    names = value_names(main.function, "res_attrs", "result", len(op.operands))
    main.outputs = [(n, main.view(v)) for n, v in zip(names, op.operands, strict=True)]
    main.unsigned = set(itertools.compress(names, unsigned_results(main.function)))


_MAIN_HANDLERS: dict[str, Callable[[_Main, ir.Operation], None]] = {
    "memref.alloc": _allocate,
    "memref.dealloc": _deallocate,
    "memref.get_global": _get_global,
    "memref.copy": _copy,
    "func.call": _call,
    "func.return": _return,
}


# --- helpers ---

_NOTHING = DramBuffer("nothing", "intermediate", 0, np.dtype(np.uint8))


def _slot(view: View) -> int:
    assert isinstance(view.root, DramRef)
    return view.root.slot


def view_of(frame: Frame, view: View) -> Array:
    """Return the present values of a DRAM view.

    Raises: SimulationError where nothing wrote some of them.
    """
    buffer = frame.buffers[_slot(view)]
    offset = frame.offsets[_slot(view)] + view.offset.evaluator()(frame.values)
    if not buffer.is_written((offset, view.shape, view.strides)):
        raise SimulationError(f"@{ENTRY} returns '{buffer.name}', of which not all was written")
    return buffer.view(view.dtype, offset, view.shape, view.strides)


def check_inputs(wanted: Mapping[str, View], inputs: dict[str, Array]) -> None:
    """Refuse inputs that are missing, unknown or of another shape or kind.

    Raises: SimulationError.
    """
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


def _verify(module: ir.Module) -> None:
    npu.load(module.context)
    try:
        module.operation.verify()
    except ir.MLIRError as error:
        details = "; ".join(d.message for d in error.error_diagnostics)
        raise SimulationError(f"the program is not legal: {details or error}") from error


def _engines_of(module: ir.Module) -> set[str]:
    """Return the engines that the module's instructions use."""
    fixed = {"npu.activate": "scalar", "npu.iota": "gpsimd", "npu.gather": "gpsimd"}
    used = {"tensor"}
    for op in _operations(module.operation):
        if op.name in fixed:
            used.add(fixed[op.name])
        elif op.name.startswith("npu.") and "engine" in op.attributes:
            used.add(npu.attribute_name(op.attributes["engine"]))
    return used & set(COMPUTE_ENGINES)


def _operations(op: ir.Operation) -> Iterator[ir.Operation]:
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                if len(inner.operation.regions):
                    yield from _operations(inner.operation)
