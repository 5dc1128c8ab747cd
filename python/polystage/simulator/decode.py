"""From an npu module to instructions: functions decoded once, no MLIR object touched afterwards.

Memrefs become views (`access.View`), index arithmetic becomes linear forms over slots that hold
the values of all iterations, operations become instructions. Bounds are checked here, for all
iterations at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from polystage.dialects.npu import space_of, strides_of
from polystage.dtypes import numpy_dtype
from polystage.errors import SimulationError
from polystage.evaluator.scalar_body import ScalarBody, compile_function
from polystage.machine import cost
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.simulator.access import Alloc, DramRef, OperandWindow, View
from polystage.simulator.index import IndexSpace, Linear
from polystage.simulator.instructions import Instruction, Loop, Place, Times
from polystage.simulator.memory import ChipBuffer, ChipMemory, DramBuffer
from polystage.simulator.occupancy import Occupancy
from polystage.simulator.queues import Queues
from polystage.slices import DYNAMIC

Counts = Counter[tuple[str, ...]]
Shape = tuple[int, int, int, str]


@dataclass
class Program:
    """What all functions of a module share while it is decoded.

    `instructions`, `windows` and `buffers` are numbered over the program; `sides` are the queues
    that signal and that wait, by semaphore and kind.
    """

    target: Target
    queues: Queues
    memories: dict[str, ChipMemory]
    symbols: dict[str, ir.Operation]
    numerics: bool
    concurrent: bool
    bodies: dict[str, ScalarBody] = field(default_factory=dict)
    matmul_times: dict[tuple[int, int, int, str, int], Times] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    windows: list[OperandWindow] = field(default_factory=list)
    buffers: list[ChipBuffer | DramBuffer] = field(default_factory=list)
    sides: dict[tuple[int, int], str] = field(default_factory=dict)

    def body(self, name: str, op: ir.Operation) -> ScalarBody:
        """Return the scalar function `name`, compiled once."""
        if name not in self.bodies:
            if name not in self.symbols:
                raise SimulationError(f"scalar function @{name} does not exist", op=op)
            self.bodies[name] = compile_function(self.symbols[name])
        return self.bodies[name]

    def times_of_matmul(self, k: int, m: int, n: int, dtype: str, stride_bytes: int) -> Times:
        """Return how long a matmul takes, worked out once for every shape."""
        key = k, m, n, dtype, stride_bytes
        if key not in self.matmul_times:
            changed, held = (
                cost.matmul(self.target, k, m, n, dtype, c, stride_bytes) for c in (True, False)
            )
            self.matmul_times[key] = Times(changed, held)
        return self.matmul_times[key]


@dataclass
class Work:
    """What a call does for one layer: instructions, bytes, operations; matmuls by shape."""

    counts: Counts = field(default_factory=Counter)
    matmuls: Counter[Shape] = field(default_factory=Counter)


@dataclass
class Decoded:
    """A function ready to be expanded.

    `length` are the instructions of one call, `lives` those of its on-chip buffers. `work` is what
    a call does, by layer; that of the call itself is "". `peak_bytes` is the most that is taken
    at a time, per partition and memory.
    """

    name: str
    instructions: list[Instruction]
    space: IndexSpace
    length: int
    lives: int
    allocs: list[Alloc]
    work: dict[str, Work]
    peak_bytes: dict[str, int]


class Decoder:
    """Decodes one function; the modules of buffers and instructions add handlers."""

    def __init__(self, program: Program, name: str) -> None:
        self.program = program
        self.name = name
        self.space = IndexSpace()
        self.linear: dict[ir.Value, Linear] = {}
        self.views: dict[ir.Value, View] = {}
        self.loops: list[Loop] = []
        self.length = 0
        self.dram_slots = 0
        self.lives = 0
        self.allocs: list[Alloc] = []
        self.occupied: dict[str, Occupancy] = {}
        self.static_views: dict[tuple[object, ...], View] = {}
        self.windows: dict[tuple[View, object], OperandWindow] = {}
        self.layer = ""
        self.work_of: dict[str, Work] = {}
        self.transfers: Counter[str] = Counter()
        self.instructions: list[Instruction] = []

    # --- structure ---

    @property
    def depth(self) -> int:
        """Number of loops around the present operation."""
        return len(self.loops)

    @property
    def trips(self) -> int:
        """How often the present operation is executed."""
        trips = 1
        for loop in self.loops:
            trips *= loop.trips
        return trips

    def decoded(self) -> Decoded:
        """Return what was decoded so far."""
        return Decoded(
            self.name,
            self.instructions,
            self.space,
            self.length,
            self.lives,
            self.allocs,
            self.work_of,
            {name: memory.peak_bytes for name, memory in self.occupied.items()},
        )

    def block(self, block: ir.Block) -> None:
        """Decode a block; its on-chip buffers end with it."""
        depths = {name: memory.depth for name, memory in self.occupied.items()}
        for op in block.operations:
            self.operation(op.operation)
        for name, memory in self.occupied.items():
            memory.give_back(depths.get(name, 0))

    def operation(self, op: ir.Operation) -> None:
        """Decode one operation."""
        handler = HANDLERS.get(op.name)
        if op.name.startswith("npu."):
            self.layer = layer_of(op)
        if handler is not None:
            handler(self, op)
        elif op.name not in _IGNORED:
            raise SimulationError(
                f"operation '{op.name}' is not part of an npu program",
                help="lower the module with convert-linalg-to-npu first",
                op=op,
            )

    def add(self, instruction: Instruction) -> None:
        """Append an instruction at the present place."""
        instruction.layer = self.layer
        instruction.loops = tuple(self.loops)
        instruction.start = self.length
        instruction.index = len(self.program.instructions)
        self.program.instructions.append(instruction)
        self.instructions.append(instruction)
        self.length += 1

    def dram_slot(self) -> int:
        """Return a new slot for a DRAM buffer."""
        self.dram_slots += 1
        return self.dram_slots - 1

    def occupancy(self, memory: ChipMemory) -> Occupancy:
        """Return what the buffers so far take of a memory."""
        if memory.name not in self.occupied:
            self.occupied[memory.name] = Occupancy(memory)
        return self.occupied[memory.name]

    def place(self, op: ir.Operation) -> Place:
        """Return where an operation stands, for messages."""
        return Place(op.name, self.name, op.location)

    @property
    def work(self) -> Work:
        """What a call does for the layer of the present operation."""
        found = self.work_of.get(self.layer)
        if found is None:
            found = self.work_of[self.layer] = Work()
        return found

    def count(self, *key: str, by: int = 1, times: int | None = None) -> None:
        """Add to what one execution of the function does, each time the operation is executed.

        `times` says how often otherwise.
        """
        self.work.counts[key] += by * (self.trips if times is None else times)

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

    # --- bounds ---

    def check(
        self, offset: Linear, reach: int, extent: int, message: Callable[[int, int], str], op: Any
    ) -> None:
        """Refuse an access to [offset, offset + reach] that leaves [0, extent) in any iteration.

        Raises: SimulationError with the range of all iterations, or of the first at fault where an
        index is not linear.
        """
        below, above = min(0, reach), max(0, reach)
        low, high = self.space.range(offset)
        if low + below >= 0 and high + above < extent:
            return
        if not self.space.is_exact(offset):
            wrong = self.space.first(offset, lambda x: (x + below < 0) | (x + above >= extent))
            assert wrong is not None
            low = high = wrong
        raise SimulationError(message(low + below, high + above), op=op)

    # --- values ---

    def view(self, value: ir.Value) -> View:
        """Return what a memref value is."""
        found = self.views.get(value)
        if found is None:
            raise SimulationError(f"memref {str(value)[:80]} has no known buffer")
        return found

    def argument(self, value: ir.Value, name: str) -> View:
        """Give a DRAM memref that comes from outside a slot."""
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
        view = self.whole(name, shape, strides, numpy_dtype(type_))
        self.views[value] = view
        return view

    def whole(
        self, name: str, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any
    ) -> View:
        """Return the view of all of a DRAM buffer in a new slot."""
        ref = DramRef(self.dram_slot(), shape, strides, name)
        return View(ref, Linear(), shape, strides, dtype)


def layer_of(op: ir.Operation) -> str:
    """Return the layer that a call or an instruction names, "" for none."""
    attribute = op.attributes.get("layer", None)
    if attribute is None:
        return ""
    if not isinstance(attribute, ir.StringAttr):
        raise SimulationError(f"'layer' is {attribute}, but must be a string", op=op)
    return attribute.value


Handler = Callable[[Any, ir.Operation], None]
HANDLERS: dict[str, Handler] = {}
"""What decodes an operation, by its name; the modules of operations add theirs."""

_IGNORED = ("scf.yield", "func.return")
