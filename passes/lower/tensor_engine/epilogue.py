"""What happens to the results of a contraction on their way out of psum, before they are stored.

    r = relu(a x b + c[m] + s)    array:   psum = a x b;  psum += identity x s
                                  scalar:  r = relu(psum + c)

Where the body begins with sums, the array adds: a residual as a product with the identity, a bias
along the columns as the product of ones with it. Both are exact for finite elements: the array does
not add what may hide results by -inf, of which zeros would make NaN. A bias of every row is free
where the scalar engine reads psum first. What is left of the body runs on the lane engines, from
psum into the output buffer. The contraction's result is not rounded in between, as it is nowhere
stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from polystage.dtypes import cost_dtype
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.clusters import Cluster, Declined
from polystage.passes.lower.finite import is_given, may_be_infinite
from polystage.passes.lower.generic_op import Access, GenericOp
from polystage.passes.lower.lane_engines.affine import peel_affine
from polystage.passes.lower.lane_engines.scalar_code import read_body
from polystage.passes.lower.lane_engines.scalar_functions import engine_of
from polystage.passes.lower.lane_engines.scalar_graph import (
    Graph,
    Node,
    ScalarBody,
    substitute,
    topological,
)
from polystage.passes.lower.tensor_engine.contraction import Contraction
from polystage.planner.layouts.variants import array_takes


@dataclass(frozen=True)
class Epilogue:
    """A body on psum: `body` reads it as the `input` node `sums`, and operand i of the consumer,
    which is `reads[i]`, as `input` node i.

    The array adds `addends` before, in order; the scalar engine adds `shift` as it reads psum.
    """

    body: ScalarBody
    sums: Node
    addends: tuple[Access, ...]
    shift: Access | None
    reads: Mapping[int, Access]

    @property
    def result(self) -> Node:
        """What is stored, before the output's type rounds it."""
        (result,) = self.body.results
        return result.operands[0] if result.name == "arith.truncf" else result


def read_epilogue(
    cluster: Cluster, contraction: Contraction, target: Target
) -> Epilogue | Declined:
    """Return what the consumer of a cluster does with the results of `contraction`, which has the
    consumer's operands as riders."""
    consumer = GenericOp.from_op(cluster.consumer.opview)
    body = read_body(consumer, cluster.consumer.context)
    is_integer = contraction.dtype == "i8"
    reader = _Reader(cluster, contraction, target, body, _accumulator(body.graph, is_integer))
    if (reason := reader.obstacle()) is not None:
        return Declined(reason)
    return reader.read()


def _accumulator(graph: Graph, is_integer: bool) -> ir.Type:
    with graph.context:
        return ir.IntegerType.get_signless(32) if is_integer else ir.F32Type.get()


def row_of(contraction: Contraction) -> int:
    """Return the row dimension that lies across the partitions of psum, or -1 where there is
    none."""
    extents = contraction.generic.extents
    return max(contraction.rows, key=lambda d: extents[d], default=-1)


class _Reader:
    def __init__(
        self,
        cluster: Cluster,
        contraction: Contraction,
        target: Target,
        body: ScalarBody,
        accumulator: ir.Type,
    ) -> None:
        self.target = target
        self.contraction = contraction
        self.row = row_of(contraction)
        self.body = body
        self.graph = body.graph
        self.link = cluster.link
        self.consumer = cluster.consumer
        self.riders = {i: self._rider(k) for k, i in cluster.riders.items()}
        self.sums = self.graph.node("input", accumulator, number=cluster.link)

    def _rider(self, argument: int) -> Access | None:
        riders = self.contraction.generic.riders
        return next((a for a in riders if a.argument == argument), None)

    def obstacle(self) -> str | None:
        """Return why the body cannot run on psum, or None."""
        nodes = self.body.walk()
        foreign = {n.kind for n in nodes} - {"input", "constant", "arith", "math"}
        if foreign:
            return f"its reader's body has {', '.join(sorted(foreign))} values"
        if engine_of([n for n in nodes if n.kind == "arith"]) != "vector":
            return "its reader does integer arithmetic on gpsimd, which does not reach psum"
        if len(self.body.reads("input")) > _MAX_READS:
            return "its reader has too many operands"
        for rider in self.riders.values():
            if rider is not None and (reason := self._rider_obstacle(rider)) is not None:
                return reason
        return None

    def _rider_obstacle(self, rider: Access) -> str | None:
        loops = [x for x in rider.index if x.dims]
        if any(x.single is None for x in loops) or len(loops) != len(rider.dims):
            return "an operand of its reader is no plain window"
        wide = [d for d in rider.dims if d in self.contraction.columns]
        inner = [i for i, x in enumerate(rider.index) if x.dims and rider.strides[i] == 1]
        if wide and any(rider.index[i].single in self.contraction.rows for i in inner):
            return "an operand of its reader lies in DRAM across the rows"
        return None

    # --- what the array and the scalar engine add -------------------------------------------------

    def read(self) -> Epilogue:
        """Return the epilogue."""
        (root,) = substitute(self.graph, self.body.results, self._unrounded)
        addends: list[Access] = []
        while (found := self._first_sum(root)) is not None:
            node, rider = found
            addends.append(rider)
            root = self._with_sums_for(node, root)
        (root,) = substitute(self.graph, [root], self._as_function)
        body = replace(self.body, results=(root,))
        shift = self._shift(root, addends)
        addends = [a for a in addends if a is not shift]
        used = body.reads("input")
        reads = {i: a for i, a in self.riders.items() if a is not None and i in used}
        return Epilogue(body, self.sums, tuple(addends), shift, reads)

    def _with_sums_for(self, known: Node, root: Node) -> Node:
        """Return `root` where psum already holds the value of `known`."""
        found = substitute(self.graph, [root], lambda n: self.sums if n is known else None)
        return found[0]

    def _unrounded(self, node: Node) -> Node | None:
        if node.name == "arith.extf" and self._is_link(node.operands[0]):
            return self.sums
        return self.sums if self._is_link(node) and node.type == self.sums.type else None

    def _is_link(self, node: Node) -> bool:
        return node.kind == "input" and node.number == self.link

    def _first_sum(self, root: Node) -> tuple[Node, Access] | None:
        """Return the one node that reads psum, where that adds an operand which the array can add,
        and the operand."""
        users = [n for n in topological([root], lambda n: n.operands) if self.sums in n.operands]
        if root is self.sums or len(users) != 1 or users[0].name != "arith.addf":
            return None
        others = [o for o in users[0].operands if o is not self.sums]
        if len(others) != 1:
            return None
        (other,) = others
        while other.name == "arith.extf":
            (other,) = other.operands
        rider = self.riders.get(other.number) if other.kind == "input" else None
        if rider is None or not self._is_addend(rider, self.consumer.operands[other.number]):
            return None
        return users[0], rider

    def _is_addend(self, rider: Access, operand: ir.Value) -> bool:
        """Whether the array can add an operand: it has all columns, or it has none but the row."""
        if self._hides(rider, operand):
            return False
        type_ = cost_dtype(rider.element_type)
        if not array_takes([type_, type_, str(self.sums.type)], self.target):
            return False
        columns, dims = set(self.contraction.columns), rider.dims
        return columns <= dims if columns & dims else self.row in dims

    def _hides(self, rider: Access, operand: ir.Value) -> bool:
        """Whether an operand of rows and columns may hide results by infinite elements. Of what the
        program is given that is a mask, which many batches share."""
        columns, dims = set(self.contraction.columns), rider.dims
        if not (columns & dims and self.row in dims):
            return False
        extents = self.contraction.generic.extents
        is_shared = any(extents[d] > 1 for d in set(self.contraction.batch) - dims)
        return may_be_infinite(operand) or (is_shared and is_given(operand))

    def _as_function(self, node: Node) -> Node | None:
        """Return `max(x, 0)` of psum as the function of the scalar engine that it is."""
        if node.name != "arith.maximumf" or not isinstance(node.type, ir.F32Type):
            return None
        variable = [o for o in node.operands if o.constant is None]
        if len(variable) != 1 or not any(o.constant == 0 for o in node.operands):
            return None
        if peel_affine(variable[0]).source is not self.sums:
            return None
        return self.graph.node("math", node.type, "relu", variable)

    def _shift(self, root: Node, addends: Sequence[Access]) -> Access | None:
        """Return the operand that the scalar engine adds for nothing: a bias of every row, where it
        alone reads psum, unscaled."""
        columns = set(self.contraction.columns)
        rows = [a for a in addends if self.row in a.dims and not columns & a.dims]
        result = root.operands[0] if root.name == "arith.truncf" else root
        if not rows or not isinstance(self.sums.type, ir.F32Type):
            return None
        if result is self.sums:
            return rows[-1]
        order = topological([root], lambda n: n.operands)
        affine = [peel_affine(n.operands[0]) for n in order if n.kind == "math"]
        first = [a for a in affine if a.source is self.sums]
        users = sum(self.sums in n.operands for n in order)
        is_alone = len(first) == 1 and users == 1 and first[0].scale == 1
        return rows[-1] if is_alone else None


_MAX_READS = 10
"""Most operands of a body that one instruction could still take, with its results."""
