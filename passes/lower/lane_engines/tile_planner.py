"""Plans the instructions of a tile from the body of its operation."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from polystage.dialects import npu
from polystage.errors import PassError
from polystage.machine.lane_passes import LaneOperand, LaneOperation, lane_passes
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Linear
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.lane_engines.affine import peel_affine
from polystage.passes.lower.lane_engines.loop_nest import LoopNest
from polystage.passes.lower.lane_engines.operand import Operand
from polystage.passes.lower.lane_engines.partition import can_transpose
from polystage.passes.lower.lane_engines.scalar_functions import body_function, engine_of
from polystage.passes.lower.lane_engines.scalar_graph import (
    Node,
    ScalarBody,
    cone,
    is_cast,
    substitute,
    uncast,
    unrounded,
    widened,
)
from polystage.passes.lower.lane_engines.shared_values import shared_nodes
from polystage.passes.lower.lane_engines.tile_program import (
    Activate,
    Compute,
    Fill,
    Gather,
    Iota,
    Load,
    Slot,
    Store,
    TileProgram,
)


def make_program(
    builder: KernelBuilder, nest: LoopNest, body: ScalarBody, initial: Initial | None
) -> TileProgram:
    """Return the program of a nest.

    exp(x - m) / s becomes: load x, m, s; elementwise x - m; activate exp; elementwise t / s; store.
    """
    planner = TilePlanner(builder, nest, _with_iotas(body, nest), initial)
    if nest.reductions:
        planner.reduce()
    else:
        planner.elementwise()
    return planner.program


def _with_iotas(body: ScalarBody, nest: LoopNest) -> ScalarBody:
    """Return the body with `linalg.index` spelled as a sum of loops, each a coordinate that
    gpsimd writes."""
    graph = body.graph

    def replace_index(node: Node) -> Node | None:
        if node.kind != "index":
            return None
        linear = nest.coordinates[node.number]
        total: Node | None = None
        for d in linear.dims:
            term = graph.node("iota", node.type, number=d)
            if linear.coefficients[d] != 1:
                factor = graph.constant(linear.coefficients[d], node.type)
                term = graph.arith("muli", term, factor)
            total = term if total is None else graph.arith("addi", total, term)
        constant = graph.constant(linear.constant, node.type)
        if total is None:
            return constant
        return graph.arith("addi", total, constant) if linear.constant else total

    return replace(body, results=tuple(substitute(graph, body.results, replace_index)))


class TilePlanner:
    """Plans the steps of one tile: what a value needs first, each value once."""

    def __init__(
        self,
        builder: KernelBuilder,
        nest: LoopNest,
        body: ScalarBody,
        initial: Initial | None,
        folded: Sequence[Node] = (),
    ) -> None:
        self.builder = builder
        self.target: Target = builder.target
        self.nest = nest
        self.body = body
        self.initial = initial
        self.program = TileProgram(nest)
        self.slots: dict[Node, Slot] = {}
        self.depends: dict[Node, set[int]] = {}
        self.shared = {n for n in shared_nodes(body, folded) if not self.accumulates(n)}

    # --- buffers ----------------------------------------------------------------------------------

    def loop(self, d: int) -> Linear:
        """Return the expression that is loop `d`."""
        return Linear(0, tuple(int(i == d) for i in range(len(self.nest.extents))))

    def operand_slot(self, operand: Operand, type_: ir.Type) -> Slot:
        """Return a buffer laid out as the operand lies in DRAM, the partition in front."""
        partition = operand.dim_of(0)
        order = [i for i in operand.memory_order() if i != partition]
        return Slot(type_, tuple(operand.index[i] for i in order))

    def loop_slot(self, type_: ir.Type, dims: set[int]) -> Slot:
        """Return a buffer with a dimension for every one of some loops, in their order."""
        return Slot(type_, tuple(self.loop(d) for d in sorted(dims - {0})))

    def dims(self, node: Node) -> set[int]:
        """Return the loops that a value depends on, the partition aside."""
        if node not in self.depends:
            match node.kind:
                case "input":
                    found = self.nest.inputs[node.number].dims
                case "output":
                    found = self.nest.outputs[node.number].dims
                case "iota":
                    found = {node.number}
                case _:
                    found = {d for o in node.operands for d in self.dims(o)}
            self.depends[node] = found - {0}
        return self.depends[node]

    def slot(self, node: Node) -> Slot:
        """Return the buffer that holds a value, adding the steps that fill it at first use."""
        if node not in self.slots:
            make = {
                "input": self.load,
                "output": self.previous,
                "iota": self.iota,
                "constant": self.fill,
                "math": self.activate,
                "load": self.gather,
                "arith": self.compute,
            }[node.kind]
            self.slots[node] = make(node)
        return self.slots[node]

    def load(self, node: Node) -> Slot:
        """Load an operand."""
        operand = self.nest.inputs[node.number]
        slot = self.operand_slot(operand, operand.element_type)
        self.program.steps.append(Load(operand, slot, self.staged(operand)))
        return slot

    def previous(self, node: Node) -> Slot:
        """Return the buffer of an output with its present content."""
        operand = self.nest.outputs[node.number]
        slot = self.operand_slot(operand, node.type)
        initial = self.initial
        if node.number not in self.body.reads("output"):
            initial = Initial(0)  # an instruction may look at it all the same
        if initial is not None:
            self.program.steps.append(Fill(slot, initial.value))
            return slot
        source = slot
        if operand.element_type != node.type:
            source = self.operand_slot(operand, operand.element_type)
        self.program.steps.append(Load(operand, source, self.staged(operand)))
        if source is not slot:
            self.program.steps.append(Activate(source, slot, "identity"))
        return slot

    def staged(self, operand: Operand) -> int | None:
        """Return the dimension by which tiles go through the array, or None where they need not."""
        partition = operand.dim_of(0)
        if partition is None or not can_transpose(
            operand, partition, self.nest.extents[0], self.target
        ):
            return None
        rows = [i for i, x in enumerate(operand.index) if i != partition and x.single is not None]
        limit = self.target.tensor.rows
        return max(rows, key=lambda i: (min(operand.shape[i], limit), operand.strides[i]))

    def iota(self, node: Node) -> Slot:
        """Write the values of a loop."""
        slot = self.loop_slot(node.type, self.dims(node))
        self.program.steps.append(Iota(slot, node.number))
        return slot

    def fill(self, node: Node) -> Slot:
        """Set a buffer to a constant."""
        slot = self.loop_slot(node.type, set())
        assert node.constant is not None
        self.program.steps.append(Fill(slot, node.constant))
        return slot

    def activate(self, node: Node, target: Slot | None = None) -> Slot:
        """Apply a function of the scalar engine, with the scale and the bias before it."""
        affine = peel_affine(node.operands[0])
        source = self.slot(widened(affine.source))
        target = target or Slot(node.type, source.index)
        self.program.steps.append(Activate(source, target, node.name, affine.scale, affine.bias))
        return target

    def compute(self, node: Node) -> Slot:
        """Compute a value into a buffer of its own."""
        if self.is_affine(node):
            affine = peel_affine(node)
            source = self.slot(affine.source)
            target = Slot(node.type, source.index)
            step = Activate(source, target, "identity", affine.scale, affine.bias)
            self.program.steps.append(step)
            return target
        target = self.loop_slot(node.type, self.dims(node))
        self.elementwise_step([node], [target])
        return target

    def gather(self, node: Node) -> Slot:
        """Look rows of a table up."""
        columns = self.columns(node)
        rows = node.operands[: len(node.operands) - len(columns)]
        dims = {d for row in rows for d in self.dims(row)}
        indices = []
        for row in rows:
            lead = self.loop_slot(row.type, dims)
            source = self.slot(row)
            if source.index != lead.index:
                self.elementwise_step([row], [lead])
                source = lead
            indices.append(source)
        target = Slot(node.type, (*self.loop_slot(node.type, dims).index, *columns))
        table = self.builder.arguments[self.first_table + node.number]
        self.program.steps.append(Gather(table, tuple(indices), target, tuple(columns)))
        return target

    @property
    def first_table(self) -> int:
        """The kernel's argument that is the first table."""
        return len(self.builder.arguments) - len(self.body.tables)

    def columns(self, node: Node) -> list[Linear]:
        """Return the loops of the trailing indices that simply count: what a row of the table
        holds."""
        found: list[Linear] = []
        for i in range(len(node.operands) - 1, 0, -1):
            operand = node.operands[i]
            others = [o for j, o in enumerate(node.operands) if j != i]
            if operand.kind != "iota" or operand.number == 0:
                break
            if any(operand.number in self.dims(o) for o in others):
                break
            found.insert(0, self.loop(operand.number))
        return found

    def cone(self, results: Sequence[Node]) -> tuple[list[Node], list[Node]]:
        """Return the leaves and arith nodes of `results`; with too many leaves for one instruction,
        parts are computed before and become leaves."""
        limit = npu.ops.BoxOp.MAX_OPERANDS - len(results)
        within = cone(results, self.slots)[1]
        self.shared |= {n for n in within if n not in results and self.is_affine(n)}
        while True:
            known = {*self.slots, *(n for n in self.shared if n not in results)}
            leaves, nodes = cone(results, known)
            if len(leaves) <= limit:
                return leaves, nodes
            parts = {n: cone([n], known)[0] for n in nodes if n not in results}
            sizes = {
                n: len(part)
                for n, part in parts.items()
                if len(part) < npu.ops.BoxOp.MAX_OPERANDS and not self.accumulates(n)
            }
            if not sizes or max(sizes.values()) < 2:
                raise PassError(
                    f"one instruction would have {len(leaves)} operands, allowed are {limit}",
                    help="split the operation",
                )
            self.slot(max(sizes, key=lambda n: sizes[n]))

    def is_affine(self, node: Node) -> bool:
        """Whether the scalar engine computes a value in one pass where the vector engine takes
        several: a function's result, scaled and shifted."""
        affine = peel_affine(node)
        return affine.operations > 1 and affine.source.kind == "math"

    def accumulates(self, node: Node) -> bool:
        """Whether a value of a reduction depends on what has been accumulated."""
        return bool(self.nest.reductions) and any(
            n.kind == "output" for n in self.body.walk([node])
        )

    # --- instructions -----------------------------------------------------------------------------

    def elementwise_step(self, results: Sequence[Node], targets: Sequence[Slot]) -> None:
        """Compute `results` into `targets`, with one instruction where it has operands enough."""
        inputs, nodes = self.cone(results)
        sources = tuple(self.slot(n) for n in inputs)
        graph = self.body.graph
        present = [
            graph.node("output", result.type, "present", number=-1 - j)
            for j, result in enumerate(results)
        ]
        name = body_function(self.builder, [*inputs, *present], results)
        dims = {d for slot in (*sources, *targets) for d in slot.dims}
        box, engine = tuple(sorted(dims)), engine_of(nodes)
        read: dict[Hashable, LaneOperand] = {
            node: self.lane_operand(self.slot(node), box) for node in inputs
        }
        written: dict[Hashable, LaneOperand] = {
            uncast(node): self.lane_operand(slot, box)
            for node, slot in zip(results, targets, strict=True)
        }
        unit = getattr(self.target, engine)
        arithmetic = [node for node in nodes if not is_cast(node)]
        operations = [LaneOperation(n.name, _streamed(n), n) for n in arithmetic]
        passes = lane_passes(unit, operations, read, written) or (1,)
        step = Compute("elementwise", sources, tuple(targets), name, engine, box, passes)
        self.program.steps.append(step)

    def lane_operand(self, slot: Slot, box: Sequence[int]) -> LaneOperand:
        """Return what a buffer is to an instruction over the loops of `box`."""
        order = [linear.single for linear in slot.index]
        is_plain = isinstance(slot.type, ir.BF16Type) and order == list(box)
        return LaneOperand(not slot.dims, self.is_psum(slot), is_plain)

    def is_psum(self, slot: Slot) -> bool:
        """Whether a buffer lies in psum."""
        return False

    def passes(self, nodes: Sequence[Node]) -> tuple[int, ...]:
        """Return how many tensors every arithmetic operation of a fold streams; what is accumulated
        stays in the engine."""
        streamed = [
            len({o for o in node.operands if o.kind != "constant" and not self.accumulates(o)})
            for node in nodes
            if not is_cast(node)
        ]
        return tuple(streamed) or (1,)

    def elementwise(self) -> None:
        """Plan an operation without reduction."""
        for leaf in self.body.walk():
            if leaf.kind == "output":
                self.slot(leaf)
        together: list[int] = []
        for j, result in enumerate(self.body.results):
            if not self.direct(j, result):
                together.append(j)
        if together:
            outputs = [self.nest.outputs[j] for j in together]
            slots = [self.operand_slot(o, o.element_type) for o in outputs]
            self.elementwise_step([self.body.results[j] for j in together], slots)
            for output, slot in zip(outputs, slots, strict=True):
                self.store(slot, output)

    def direct(self, j: int, result: Node) -> bool:
        """Plan output j without arithmetic of its own, where its value is a constant, an operand
        or a function's result."""
        output = self.nest.outputs[j]
        target = self.operand_slot(output, output.element_type)
        if result.kind == "constant":
            assert result.constant is not None
            self.program.steps.append(Fill(target, result.constant))
        elif (function := unrounded(result)).kind == "math" and self.is_last_use(function):
            source = self.slot(widened(peel_affine(function.operands[0]).source))
            if source.index != target.index:
                return False
            self.activate(function, target)
        elif result.kind in ("input", "load", "math") and result.type == output.element_type:
            target = self.slot(result)
            if not self.storable(target, output):
                return False
        else:
            return False
        self.store(target, output)
        return True

    def is_last_use(self, node: Node) -> bool:
        """Whether a value is one result, perhaps rounded, and nothing else."""
        uses = sum(o is node for n in self.body.walk() for o in n.operands)
        ends = [r for r in self.body.results if unrounded(r) is node]
        return len(ends) == 1 and uses == (ends[0] is not node)

    def storable(self, slot: Slot, output: Operand) -> bool:
        """Whether a buffer holds exactly the output's tile, in an order that leaves in long
        runs."""
        order = [i for i in output.memory_order() if i != output.dim_of(0)]
        wanted = [output.index[i] for i in order]
        if sorted(wanted, key=str) != sorted(slot.index, key=str):
            return False
        plain = all(linear.single is not None for linear in wanted)
        return plain and (
            self.staged(output) is not None or not wanted or wanted[-1] == slot.index[-1]
        )

    def store(self, slot: Slot, output: Operand) -> None:
        """Store an output's tile."""
        self.program.stores.append(Store(slot, output, self.staged(output)))

    def reduce(self) -> None:
        """Plan a reduction: accumulators first, then what the body needs of the inputs, then the
        fold."""
        outputs = self.nest.outputs
        for node in self.body.walk():
            if node.kind in ("math", "load") and self.accumulates(node):
                raise PassError(
                    f"a reduction applies '{node.name or 'memref.load'}' to what it has "
                    "accumulated",
                    help="split it: reduce with arith operations only",
                )
        present = self.accumulators()
        accumulators = [self.slot(node) for node in present]
        leaves, nodes = self.cone(self.body.results)
        inputs = [n for n in leaves if n.kind != "output"]
        sources = tuple(self.slot(n) for n in inputs)
        name = body_function(self.builder, [*inputs, *present], self.body.results)
        box = tuple(range(1, len(self.nest.extents)))
        self.program.steps.append(
            Compute(
                "reduce",
                sources,
                tuple(accumulators),
                name,
                engine_of(nodes),
                box,
                self.passes(nodes),
            )
        )
        for slot, output in zip(accumulators, outputs, strict=True):
            source = slot
            if slot.type != output.element_type:
                source = self.operand_slot(output, output.element_type)
                self.program.stores.append(Activate(slot, source, "identity"))
            self.store(source, output)

    def accumulators(self) -> list[Node]:
        """Return one `output` node per output, also where the body does not read it."""
        read = {n.number: n for n in self.body.walk() if n.kind == "output"}
        graph = self.body.graph
        return [
            read.get(j) or graph.node("output", result.type, number=j)
            for j, result in enumerate(self.body.results)
        ]


def _streamed(node: Node) -> tuple[Node, ...]:
    """Return the operands of an operation that are no constants, as they are before casts."""
    return tuple(uncast(o) for o in node.operands if o.kind != "constant")
