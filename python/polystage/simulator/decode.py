"""From an npu module to plain Python: functions decoded once, no MLIR object touched at run time.

Memrefs become views (`access.View`), index arithmetic becomes linear forms over frame slots, loops
become ranges, operations become instruction templates. Bounds are checked here, over the ranges of
all loops at once, so that they cost nothing later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from polystage.dialects.npu import space_of, strides_of
from polystage.dtypes import numpy_dtype
from polystage.errors import SimulationError
from polystage.evaluator.scalar_body import ScalarBody, compile_function
from polystage.mlir import ir
from polystage.simulator.access import DramRef, Frame, View
from polystage.simulator.engines import Machine
from polystage.simulator.index import COMPARISONS, NONLINEAR, TRUTH_RANGE, Linear, Range
from polystage.simulator.instructions import Layer, Place
from polystage.simulator.memory import ChipBuffer, ChipMemory
from polystage.slices import DYNAMIC

Node = Callable[[Frame], None]
Counts = Counter[tuple[str, ...]]


@dataclass
class Program:
    """What all functions of a module share while it is decoded."""

    machine: Machine
    memories: dict[str, ChipMemory]
    symbols: dict[str, ir.Operation]
    numerics: bool
    layer: Layer = field(default_factory=Layer)
    bodies: dict[str, ScalarBody] = field(default_factory=dict)

    def body(self, name: str, op: ir.Operation) -> ScalarBody:
        """Return the scalar function `name`, compiled once."""
        if name not in self.bodies:
            if name not in self.symbols:
                raise SimulationError(f"scalar function @{name} does not exist", op=op)
            self.bodies[name] = compile_function(self.symbols[name])
        return self.bodies[name]


@dataclass
class Decoded:
    """A function ready to run.

    `counts` is what one execution does: instructions, bytes, operations. `peak_bytes` is the most
    that is allocated at a time, per partition and memory.
    """

    name: str
    nodes: list[Node]
    slots: int
    dram_slots: int
    buffers: list[ChipBuffer]
    counts: Counts
    peak_bytes: dict[str, int]

    def run(self, frame: Frame) -> None:
        """Execute the function once."""
        for buffer in self.buffers:
            buffer.enter()
        for node in self.nodes:
            node(frame)
        for buffer in self.buffers:
            buffer.leave()


class Decoder:
    """Decodes one function; `instruction` and `call` are for operations beyond loops and views."""

    def __init__(self, program: Program, function: ir.Operation) -> None:
        self.program = program
        self.function = function
        self.name = ir.StringAttr(function.attributes["sym_name"]).value
        self.linear: dict[ir.Value, Linear] = {}
        self.views: dict[ir.Value, View] = {}
        self.ranges: list[Range] = []
        self.exact: list[bool] = []
        self.dram_slots = 0
        self.buffers: list[ChipBuffer] = []
        self.live: list[ChipBuffer] = []
        self.peak_bytes: dict[str, int] = {}
        self.counts: Counts = Counter()
        self.trips = 1
        self.transfers: Counter[str] = Counter()
        self.out: list[Node] = []

    # --- structure ---

    def decode(self) -> Decoded:
        """Return the function as nodes."""
        nodes = self.block(self.function.regions[0].blocks[0])
        return Decoded(
            self.name,
            nodes,
            len(self.ranges),
            self.dram_slots,
            self.buffers,
            self.counts,
            self.peak_bytes,
        )

    def block(self, block: ir.Block) -> list[Node]:
        """Decode a block; its on-chip buffers end with it."""
        outer, self.out = self.out, []
        first = len(self.live)
        for op in block.operations:
            self.operation(op.operation)
        del self.live[first:]
        nodes, self.out = self.out, outer
        return nodes

    def operation(self, op: ir.Operation) -> None:
        """Decode one operation."""
        handler = HANDLERS.get(op.name)
        if handler is not None:
            handler(self, op)
        elif op.name in NONLINEAR or op.name == "arith.cmpi":
            self.nonlinear(op)
        elif op.name not in _IGNORED:
            raise SimulationError(
                f"operation '{op.name}' is not part of an npu program",
                help="lower the module with convert-linalg-to-npu first",
                op=op,
            )

    def slot(self, range_: Range, exact: bool) -> int:
        """Return a new slot of the frame for an index value in `range_`."""
        self.ranges.append(range_)
        self.exact.append(exact)
        return len(self.ranges) - 1

    def dram_slot(self) -> int:
        """Return a new slot of the frame for a DRAM buffer."""
        self.dram_slots += 1
        return self.dram_slots - 1

    def place(self, op: ir.Operation) -> Place:
        """Return where an operation stands, for messages."""
        return Place(op.name, self.name, op.location, self.program.layer)

    def count(self, *key: str, by: int = 1) -> None:
        """Add to what one execution of the function does."""
        self.counts[key] += by * self.trips

    # --- index values ---

    def index(self, value: ir.Value) -> Linear:
        """Return the linear form of an index or i1 value."""
        found = self.linear.get(value)
        if found is None:
            raise SimulationError(
                f"index value {str(value)[:80]} is not known when the program starts",
                help="index values come from loops, constants and arithmetic on them",
            )
        return found

    def constant(self, value: ir.Value, what: str, op: ir.Operation) -> int:
        """Return an index value that must be constant."""
        linear = self.index(value)
        if not linear.is_constant:
            raise SimulationError(f"{what} of '{op.name}' is not constant", op=op)
        return linear.constant

    def nonlinear(self, op: ir.Operation) -> None:
        """Give the result a slot, written where the operation stands."""
        operands = [self.index(v) for v in op.operands]
        if op.name == "arith.muli" and any(x.is_constant for x in operands):
            first, second = operands if operands[1].is_constant else operands[::-1]
            self.linear[op.results[0]] = first * second.constant
            return
        if op.name == "arith.cmpi":
            predicate = ir.IntegerAttr(op.attributes["predicate"]).value
            function, range_of = COMPARISONS[predicate], TRUTH_RANGE
        else:
            function, range_of = NONLINEAR[op.name]
        if all(x.is_constant for x in operands):
            value = function(*(x.constant for x in operands))
            self.linear[op.results[0]] = Linear(value)
            return
        range_ = range_of(*(x.range(self.ranges) for x in operands))
        slot = self.slot(range_, exact=False)
        self.linear[op.results[0]] = Linear(0, ((slot, 1),))
        self.out.append(_assign(slot, function, [x.evaluator() for x in operands]))

    # --- bounds ---

    def check(
        self, offset: Linear, reach: int, extent: int, message: Callable[[int, int], str], op: Any
    ) -> None:
        """Refuse an access to [offset, offset + reach] that leaves [0, extent).

        Where the range is only an estimate, because an index is not linear, the check is repeated
        at
        run time instead.

        Raises: SimulationError.
        """
        low, high = offset.range(self.ranges)
        low, high = low + min(0, reach), high + max(0, reach)
        if low >= 0 and high < extent:
            return
        if all(self.exact[slot] for slot, _ in offset.terms):
            raise SimulationError(message(low, high), op=op)
        evaluate = offset.evaluator()

        def check_now(frame: Frame) -> None:
            start = evaluate(frame.values)
            low, high = start + min(0, reach), start + max(0, reach)
            if low < 0 or high >= extent:
                raise SimulationError(message(low, high), op=op)

        self.out.append(check_now)

    # --- values ---

    def view(self, value: ir.Value) -> View:
        """Return what a memref value is."""
        found = self.views.get(value)
        if found is None:
            raise SimulationError(f"memref {str(value)[:80]} has no known buffer")
        return found

    def argument(self, value: ir.Value, name: str) -> View:
        """Give a DRAM memref that comes from outside a slot of the frame."""
        if not isinstance(value.type, ir.MemRefType):
            raise SimulationError(
                f"the program takes '{name}' as {value.type}, not as a memref",
                help="lower the module with convert-linalg-to-npu first",
            )
        type_ = ir.MemRefType(value.type)
        shape, strides = tuple(type_.shape), tuple(strides_of(type_))
        if not type_.has_static_shape or DYNAMIC in strides:
            raise SimulationError(f"memref type {type_} of '{name}' is not static")
        if space_of(type_) != "dram":
            raise SimulationError(f"argument '{name}' of @{self.name} lies in {space_of(type_)}")
        ref = DramRef(self.dram_slot(), shape, strides, name)
        view = View(ref, Linear(), shape, strides, numpy_dtype(type_))
        self.views[value] = view
        return view


def _assign(slot: int, function: Callable[..., int], operands: Sequence[Any]) -> Node:
    def assign(frame: Frame) -> None:
        values = frame.values
        values[slot] = int(function(*[o(values) for o in operands]))

    return assign


# --- index operations ---


def _constant(decoder: Decoder, op: ir.Operation) -> None:
    attribute = op.attributes["value"]
    if isinstance(attribute, ir.BoolAttr):
        decoder.linear[op.results[0]] = Linear(int(attribute.value))
    elif isinstance(attribute, ir.IntegerAttr):
        value = attribute.value
        is_flag = str(op.results[0].type) == "i1"
        decoder.linear[op.results[0]] = Linear(value & 1 if is_flag else value)


def _add(decoder: Decoder, op: ir.Operation) -> None:
    a, b = (decoder.index(v) for v in op.operands)
    decoder.linear[op.results[0]] = a + b


def _subtract(decoder: Decoder, op: ir.Operation) -> None:
    a, b = (decoder.index(v) for v in op.operands)
    decoder.linear[op.results[0]] = a + b * -1


def _cast(decoder: Decoder, op: ir.Operation) -> None:
    decoder.linear[op.results[0]] = decoder.index(op.operands[0])


def _apply(decoder: Decoder, op: ir.Operation) -> None:
    map_ = ir.AffineMapAttr(op.attributes["map"]).value
    operands = [decoder.index(v) for v in op.operands]
    decoder.linear[op.results[0]] = _affine(decoder, map_.results[0], operands, map_.n_dims)


def _affine(
    decoder: Decoder, expression: ir.AffineExpr, operands: list[Linear], n_dims: int
) -> Linear:
    if isinstance(expression, ir.AffineConstantExpr):
        return Linear(expression.value)
    if isinstance(expression, ir.AffineDimExpr):
        return operands[expression.position]
    if isinstance(expression, ir.AffineSymbolExpr):
        return operands[n_dims + expression.position]
    pair: Any = expression
    a = _affine(decoder, pair.lhs, operands, n_dims)
    b = _affine(decoder, pair.rhs, operands, n_dims)
    if isinstance(expression, ir.AffineAddExpr):
        return a + b
    if isinstance(expression, ir.AffineMulExpr) and (a.is_constant or b.is_constant):
        return a * b.constant if b.is_constant else b * a.constant
    names = {
        ir.AffineModExpr: "arith.remui",
        ir.AffineFloorDivExpr: "arith.floordivsi",
        ir.AffineCeilDivExpr: "arith.ceildivsi",
        ir.AffineMulExpr: "arith.muli",
    }
    function, range_of = next(
        NONLINEAR[name] for kind, name in names.items() if isinstance(expression, kind)
    )
    slot = decoder.slot(range_of(a.range(decoder.ranges), b.range(decoder.ranges)), exact=False)
    decoder.out.append(_assign(slot, function, [a.evaluator(), b.evaluator()]))
    return Linear(0, ((slot, 1),))


# --- loops ---


def _for(decoder: Decoder, op: ir.Operation) -> None:
    if len(op.results):
        raise SimulationError("'scf.for' of an npu program carries no values", op=op)
    names = ("lower bound", "upper bound", "step")
    low, high, step = (
        decoder.constant(v, name, op) for v, name in zip(op.operands, names, strict=True)
    )
    if step <= 0:
        raise SimulationError(f"'scf.for' has step {step}, which must be positive", op=op)
    steps = range(low, high, step)
    if not steps:
        return
    slot = decoder.slot((steps[0], steps[-1]), exact=True)
    block = op.regions[0].blocks[0]
    decoder.linear[block.arguments[0]] = Linear(0, ((slot, 1),))
    outer = decoder.trips
    decoder.trips *= len(steps)
    nodes = decoder.block(block)
    decoder.trips = outer
    decoder.out.append(_loop(slot, steps, nodes))


def _loop(slot: int, steps: range, nodes: list[Node]) -> Node:
    def loop(frame: Frame) -> None:
        values = frame.values
        for i in steps:
            values[slot] = i
            for node in nodes:
                node(frame)

    return loop


Handler = Callable[[Decoder, ir.Operation], None]
HANDLERS: dict[str, Handler] = {
    "arith.constant": _constant,
    "arith.addi": _add,
    "arith.subi": _subtract,
    "arith.index_cast": _cast,
    "arith.index_castui": _cast,
    "arith.extsi": _cast,
    "arith.extui": _cast,
    "affine.apply": _apply,
    "scf.for": _for,
}
"""What decodes an operation, by its name; the modules of buffers and instructions add theirs."""

_IGNORED = ("scf.yield", "func.return")
