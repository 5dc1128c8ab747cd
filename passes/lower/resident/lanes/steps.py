"""An elementwise body as steps of the lane engines, over arrays of which some are smaller.

    (x - s / 768) * rsqrt(v / 768 + eps) * gamma + beta

with x an array, s and v the same on all partitions, gamma and beta one value per partition:

    scalar  [rows]   a = s / 768
    scalar  [rows]   b = rsqrt(v / 768 + eps)
    vector  [array]  c = (x - a) * b
    scalar  [array]  c * gamma + beta

What depends on small operands alone is computed once, as small as they are. Roundings between
operations are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from polystage.dialects.npu.ops import BoxOp
from polystage.errors import PassError
from polystage.mlir import ir
from polystage.passes.lower.lane_engines.affine import Affine, peel_affine
from polystage.passes.lower.lane_engines.scalar_graph import Graph, Node, cone, is_cast, topological


class Extent(Enum):
    """What a value has elements for."""

    NONE = "nothing: a constant"
    COLUMN = "partitions: one element for each"
    ROW = "free dimensions: all partitions have the same"
    ARRAY = "both"
    PART = "both, but not all free dimensions"

    def __or__(self, other: Extent) -> Extent:
        """Return that of a value that depends on two."""
        if self is other or other is Extent.NONE:
            return self
        if self is Extent.NONE:
            return other
        return Extent.ARRAY

    @property
    def is_array(self) -> bool:
        """Whether a value has elements for partitions and free dimensions."""
        return self in (Extent.ARRAY, Extent.PART)


@dataclass(frozen=True, eq=False)
class Value:
    """What a buffer holds: operand `number`, or a value in between, which has none."""

    extent: Extent
    number: int | None = None


@dataclass(frozen=True)
class Pass:
    """`target = function(scale * source + bias)` in the scalar engine; `factor` and `shift` have a
    value per partition and stand in place of `scale` and beside `bias`."""

    source: Value
    target: Value
    function: str = "identity"
    scale: float = 1.0
    bias: float = 0.0
    factor: Value | None = None
    shift: Value | None = None

    @property
    def reads(self) -> tuple[Value, ...]:
        """What the step reads."""
        return tuple(v for v in (self.source, self.factor, self.shift) if v is not None)


@dataclass(frozen=True)
class Arithmetic:
    """`target = result(sources)` in the vector engine: `arguments` are the nodes that the sources
    are."""

    sources: tuple[Value, ...]
    target: Value
    arguments: tuple[Node, ...]
    result: Node

    @property
    def reads(self) -> tuple[Value, ...]:
        """What the step reads."""
        return self.sources


Step = Pass | Arithmetic


@dataclass(frozen=True)
class Steps:
    """The steps of a body, and their last target."""

    steps: tuple[Step, ...]
    result: Value

    @property
    def between(self) -> list[Value]:
        """The values in between, in the order of their steps."""
        return [s.target for s in self.steps if s.target is not self.result]

    @property
    def in_sbuf(self) -> list[Value]:
        """Those that need room in sbuf. Rows lie in psum: the vector engine reads an operand from
        there beside one from sbuf in the time of one."""
        return [value for value in self.between if value.extent is not Extent.ROW]


def plan_steps(
    graph: Graph, root: Node, extents: Mapping[int, Extent], wanted: Extent, fresh: bool
) -> Steps:
    """Return the steps that compute `root`, a value `without_roundings`, for every element of
    `wanted`; `extents` are those of its inputs.

    A result that has fewer elements takes a step that repeats it, and where it has to be a `fresh`
    buffer, one that is an operand a copy.

    Raises:
        PassError: the body needs an engine that is neither the vector nor the scalar engine.
    """
    planner = _Planner(graph, extents)
    result = planner.place(root)
    if result.extent is not wanted or (fresh and result.number is not None):
        result = planner.repeated(root, wanted)
    return Steps(tuple(planner.steps), result)


def without_roundings(graph: Graph, root: Node) -> Node:
    """Return a value with all of its floats in f32.

    Raises: PassError where it has conversions of other kinds, or inputs that are no floats.
    """
    with graph.context:
        f32 = ir.F32Type.get()
    exact: dict[Node, Node] = {}
    for node in topological([root], lambda n: n.operands):
        is_float = isinstance(node.type, ir.FloatType)
        if node.name in ("arith.extf", "arith.truncf"):
            exact[node] = exact[node.operands[0]]
        elif node.kind == "constant":
            exact[node] = graph.constant(node.constant or 0.0, f32) if is_float else node
        elif is_cast(node) or node.kind not in ("input", "arith", "math"):
            raise PassError("a group computes floats from floats alone")
        elif node.kind == "input" and not is_float:
            raise PassError(f"an operand has elements of type {node.type}")
        else:
            operands = [exact[o] for o in node.operands]
            type_ = f32 if is_float else node.type
            exact[node] = graph.node(
                node.kind, type_, node.name, operands, node.attributes, node.number
            )
    return exact[root]


@dataclass(frozen=True)
class _Affine:
    """`scale * factor * source + shift + bias`; factor and shift have a value per partition."""

    source: Node
    scale: float = 1.0
    bias: float = 0.0
    factor: Node | None = None
    shift: Node | None = None
    operations: int = 0

    def after(self, graph: Graph, inner: Affine) -> _Affine:
        """Return the function of what an affine function with constants gives `source`."""
        operations = self.operations + inner.operations
        found = replace(self, source=inner.source, operations=operations)
        if self.factor is not None and inner.bias:
            found = found.shifted(graph, self.scaled(graph, self.factor, inner.bias))
        elif inner.bias:
            found = replace(found, bias=self.bias + self.scale * inner.bias)
        return replace(found, scale=self.scale * inner.scale)

    def after_column(self, graph: Graph, source: Node, name: str, column: Node) -> _Affine:
        """Return the function of `source + column` or `source * column`."""
        found = replace(self, source=source, operations=self.operations + 1)
        both = column if self.factor is None else graph.arith("mulf", self.factor, column)
        if name == "mulf":
            return replace(found, factor=both)
        return found.shifted(graph, self.scaled(graph, both))

    def scaled(self, graph: Graph, column: Node, by: float = 1.0) -> Node:
        """Return a column times the scale, and a number."""
        if self.scale * by == 1.0:
            return column
        return graph.arith("mulf", column, graph.constant(self.scale * by, column.type))

    def shifted(self, graph: Graph, by: Node) -> _Affine:
        """Return the function with a column more in its shift."""
        return replace(
            self, shift=by if self.shift is None else graph.arith("addf", self.shift, by)
        )


@dataclass
class _Planner:
    graph: Graph
    extents: Mapping[int, Extent]
    steps: list[Step] = field(default_factory=list[Step])
    places: dict[Node, Value] = field(default_factory=dict[Node, Value])
    found: dict[Node, Extent] = field(default_factory=dict[Node, Extent])

    def extent(self, node: Node) -> Extent:
        """Return what a value has elements for."""
        if node not in self.found:
            if node.kind == "input":
                self.found[node] = self.extents[node.number]
            else:
                found = Extent.NONE
                for operand in node.operands:
                    found = found | self.extent(operand)
                self.found[node] = found
        return self.found[node]

    def place(self, node: Node) -> Value:
        """Return the buffer that holds a value, adding the steps that compute it at first use."""
        if node not in self.places:
            if self.extent(node) is Extent.NONE:
                raise PassError("the body computes a constant")
            if not isinstance(node.type, ir.F32Type):
                raise PassError(f"the body computes a {node.type} that an engine would hand on")
            self.places[node] = self.computed(node)
        return self.places[node]

    def computed(self, node: Node) -> Value:
        if node.kind == "input":
            return Value(self.extent(node), node.number)
        applied = _function_of(node)
        if applied is not None:
            name, argument = applied
            return self.function(name, self.affine(argument), self.extent(node))
        affine = self.affine(node)
        if affine.operations:
            return self.function("identity", affine, self.extent(node))
        return self.arithmetic(node)

    def function(self, name: str, affine: _Affine, extent: Extent) -> Value:
        """Apply a function of the scalar engine."""
        source = self.whole(affine.source)
        factor = shift = None
        if affine.factor is not None:
            factor = self.place(affine.scaled(self.graph, affine.factor))
        if affine.shift is not None:
            shift = self.place(affine.shift)
        scale = 1.0 if factor is not None else affine.scale
        target = Value(Extent.ARRAY if extent is Extent.PART else extent)
        self.steps.append(Pass(source, target, name, scale, affine.bias, factor, shift))
        return target

    def whole(self, node: Node) -> Value:
        """Return the place of a value that the scalar engine reads, which repeats nothing."""
        place = self.place(node)
        if place.extent is not Extent.PART:
            return place
        return self.repeated(node, Extent.ARRAY)

    def repeated(self, node: Node, wanted: Extent) -> Value:
        """Copy a value to where it has more elements, or to a buffer of its own."""
        target = Value(wanted)
        self.steps.append(Arithmetic((self.place(node),), target, (node,), node))
        return target

    def arithmetic(self, node: Node) -> Value:
        """Compute what no function of the scalar engine is, with one instruction."""
        extent = self.extent(node)
        inner = {
            n
            for n in cone([node])[1]
            if n is not node and (self.extent(n) is not extent or self.goes_ahead(n))
        }
        leaves, _ = cone([node], {*self.places, *inner} - {node})
        if len(leaves) + 1 > BoxOp.MAX_OPERANDS:
            raise PassError(f"one instruction would have {len(leaves) + 1} operands")
        leaves = [leaf for leaf in leaves if self.extent(leaf) is not Extent.NONE]
        sources = tuple(self.place(leaf) for leaf in leaves)
        target = Value(Extent.ARRAY if extent is Extent.PART else extent)
        self.steps.append(Arithmetic(sources, target, tuple(leaves), node))
        return target

    def goes_ahead(self, node: Node) -> bool:
        """Whether the scalar engine computes a part of an expression in one pass, where the vector
        engine would take several."""
        if not isinstance(node.type, ir.F32Type):
            return False
        if _function_of(node) is not None:
            return True
        affine = self.affine(node)
        columns = affine.factor is not None or affine.shift is not None
        return affine.operations > 1 or (affine.operations == 1 and columns)

    def affine(self, node: Node) -> _Affine:
        """Return the largest affine function of an array that a value ends in, whose factors and
        summands are constants or have a value per partition."""
        graph = self.graph
        found = _Affine(node)
        while True:
            constants = peel_affine(found.source)
            if constants.operations:
                found = found.after(graph, constants)
            column = self.column_step(found.source)
            if column is None:
                return found
            found = found.after_column(graph, *column)

    def column_step(self, node: Node) -> tuple[Node, str, Node] | None:
        """Return (x, operation, column) where a value is `x operation column`."""
        names = ("arith.addf", "arith.subf", "arith.mulf")
        if self.extent(node) is not Extent.ARRAY or node.name not in names:
            return None
        x, column = node.operands
        if self.extent(x) is Extent.COLUMN and node.name != "arith.subf":
            x, column = column, x
        if self.extent(column) is not Extent.COLUMN or not self.extent(x).is_array:
            return None
        if node.name == "arith.subf":
            return x, "addf", self.graph.arith("negf", column)
        return x, node.name.removeprefix("arith."), column


def _function_of(node: Node) -> tuple[str, Node] | None:
    """Return the function of the scalar engine that a node is, and of what."""
    if node.kind == "math":
        return node.name, node.operands[0]
    if len(node.operands) != 2:
        return None
    a, b = node.operands
    if node.name == "arith.mulf" and a is b:
        return "square", a
    if node.name == "arith.maximumf" and 0 in (a.constant, b.constant):
        return "relu", a if b.constant == 0 else b
    if node.name == "arith.divf" and a.constant == 1:
        return "reciprocal", b
    return None
