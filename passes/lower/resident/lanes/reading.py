"""Reads elementwise operations, and sums across the partitions, as operators of the lane
engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polystage.errors import PassError
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Access, GenericOp
from polystage.passes.lower.lane_engines.scalar_code import read_body, widen_accumulators
from polystage.passes.lower.lane_engines.scalar_graph import Graph, Node, ScalarBody
from polystage.passes.lower.resident.lanes.operators import Across, LaneBody, LaneOperand, Lanes
from polystage.passes.lower.resident.lanes.steps import Extent, plan_steps, without_roundings
from polystage.passes.lower.resident.operators import REPLICATED, Column, plain_dims
from polystage.passes.lower.resident.reading import Declined, Reading, constant_of
from polystage.passes.lower.resident.windows import Window


def read_lanes(reading: Reading, op: ir.Operation, generic: GenericOp) -> Lanes | Across | None:
    """Return the operator that an operation is, or None where it reduces otherwise than by a sum
    across the partitions.

    Raises: Declined, PassError.
    """
    if len(generic.outputs) != 1:
        return None
    body = read_body(generic, op.context)
    if body.tables:
        raise Declined("it looks a table up")
    if generic.reductions:
        return _read_across(reading, op, generic, body)
    root = without_roundings(body.graph, body.results[0])
    return _Reader(reading, op, generic, body.graph, root).lanes()


def computes_floats(op: ir.Operation) -> bool:
    """Whether the body of an elementwise operation computes floats from floats alone."""
    try:
        body = read_body(GenericOp.from_op(op.opview), op.context)
        without_roundings(body.graph, body.results[0])
    except PassError:
        return False
    return not body.tables and len(body.results) == 1


def _read_across(
    reading: Reading, op: ir.Operation, generic: GenericOp, body: ScalarBody
) -> Across | None:
    summed = _summed(body)
    if summed is None or op not in reading.initials or len(generic.reductions) != 1:
        return None
    return _Reader(reading, op, generic, body.graph, summed).across()


def _summed(body: ScalarBody) -> Node | None:
    """Return what a body adds to its output, or None where it does anything else."""
    (total,) = widen_accumulators(body).results
    while total.name in ("arith.extf", "arith.truncf"):
        total = total.operands[0]
    if total.name != "arith.addf":
        return None
    values = [node for node in total.operands if not _is_output(node)]
    if len(values) != 1:
        return None
    return without_roundings(body.graph, values[0])


def _is_output(node: Node) -> bool:
    while node.name in ("arith.extf", "arith.truncf"):
        node = node.operands[0]
    return node.kind == "output"


@dataclass(frozen=True)
class _Reader:
    """Reads one operation, whose value for each iteration is `root`."""

    reading: Reading
    op: ir.Operation
    generic: GenericOp
    graph: Graph
    root: Node

    def lanes(self) -> Lanes:
        """Return the operation as an elementwise operator."""
        window, dims = self.plain(self.generic.outputs[0])
        if len(dims) != len(self.generic.extents):
            raise Declined("the output is not accessed plainly")
        across = self.across_loop()
        wanted = Extent.ROW if across is None else Extent.ARRAY
        body = self.body(across, sorted(dims, key=lambda loop: dims[loop]), wanted, True)
        partition = REPLICATED if across is None else dims[across]
        self.reading.demand(window.array, partition)
        return Lanes(self.reading.with_fill(self.op), window, partition, body)

    def across(self) -> Across | None:
        """Return the operation as a sum across the partitions."""
        (reduced,) = self.generic.reductions
        window, dims = self.plain(self.generic.outputs[0])
        if set(dims) != set(self.generic.parallel):
            raise Declined("the output is not accessed plainly")
        across = self.across_loop()
        whole = any(len(self.plain(a)[1]) == len(self.generic.extents) for a in self.inputs)
        if across != reduced or not whole:
            return None  # a pooling, or a contraction
        loops = sorted(dims, key=lambda loop: dims[loop])
        body = self.body(across, loops, Extent.ARRAY, False)
        self.reading.demand(window.array, REPLICATED)
        initial = float(self.reading.initials[self.op][1].value)
        ops = self.reading.with_fill(self.op)
        source = next(o for o in body.arrays.values() if o.partition is not None)
        return Across(ops, window, REPLICATED, body, initial, source.window.element_type)

    # --- operands --------------------------------------------------------------------------------

    @property
    def inputs(self) -> list[Access]:
        """The operands that the value depends on."""
        body = ScalarBody(self.graph, (self.root,), ())
        used = body.reads("input")
        return [access for access in self.generic.inputs if access.argument in used]

    def plain(self, access: Access) -> tuple[Window, dict[int, int]]:
        """Return an operand and the dimension of its array for every loop that walks it."""
        window = self.reading.window(self.op, access)
        dims = plain_dims(window, self.generic.extents)
        if dims is None or window.fill is not None:
            raise Declined("an operand is not accessed plainly")
        return window, dims

    def across_loop(self) -> int | None:
        """Return the loop across the partitions, or None where all that is read is replicated.

        That is what an operand says of which it is known how it lies, else a constant of one value
        per partition, else what contractions behind want.
        """
        known: list[int | None] = []
        columns: list[int] = []
        wanted: list[int] = []
        for access in self.inputs:
            window, dims = self.plain(access)
            loop_of = {dim: loop for loop, dim in dims.items()}
            if window.array in self.reading.partitions:
                partition = self.reading.partitions[window.array]
                if partition is not None and partition not in loop_of:
                    raise Declined("an operand has one element across the partitions")
                known.append(None if partition is None else loop_of[partition])
            elif self.is_constant(access) and len(dims) == 1:
                columns += dims
            elif self.reading.hints.get(window.array) in loop_of:
                wanted.append(loop_of[self.reading.hints[window.array]])
        arrays = [loop for loop in known if loop is not None]
        if arrays or columns or wanted:
            return [*arrays, *columns, *wanted][0]
        if known and len(known) == len(self.inputs):
            return None
        raise Declined("nothing tells which dimension lies across the partitions")

    def is_constant(self, access: Access) -> bool:
        """Whether an operand is a constant."""
        return constant_of(self.op.operands[access.argument]) is not None

    def body(
        self, across: int | None, loops: Sequence[int], wanted: Extent, fresh: bool
    ) -> LaneBody:
        """Return the body in its loops, with all operands."""
        extents = self.generic.extents
        free = tuple(d for d in loops if d != across and extents[d] > 1)
        arrays: dict[int, LaneOperand] = {}
        constants: dict[int, Column] = {}
        kinds: dict[int, Extent] = {}
        for access in self.inputs:
            name = constant_of(self.op.operands[access.argument])
            window, dims = self.plain(access)
            if name is not None and across is not None and list(dims) == [across]:
                constants[access.argument] = Column((name,), extents[across])
                kinds[access.argument] = Extent.COLUMN
                continue
            operand = self.operand(window, dims, across)
            arrays[access.argument] = operand
            kinds[access.argument] = _extent(operand, free)
        steps = plan_steps(self.graph, self.root, kinds, wanted, fresh)
        return LaneBody(extents, across, free, arrays, constants, steps)

    def operand(self, window: Window, dims: Mapping[int, int], across: int | None) -> LaneOperand:
        """Return an array that the body reads, which lies across the partitions as that wants."""
        known = self.reading.partitions.get(window.array, REPLICATED)
        if window.array in self.reading.partitions and known is None:
            return LaneOperand(window, dims, REPLICATED)
        if across is None or across not in dims:
            raise Declined("an operand from memory is the same for all partitions")
        self.reading.demand(window.array, dims[across])
        return LaneOperand(window, dims, dims[across])


def _extent(operand: LaneOperand, free: Sequence[int]) -> Extent:
    whole = all(d in operand.dims for d in free)
    if operand.partition is not None:
        return Extent.ARRAY if whole else Extent.PART
    if not whole:
        raise Declined("a statistic has one element for several that lie within a partition")
    return Extent.ROW
