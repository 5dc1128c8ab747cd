"""The scalar body of a linalg.generic as a graph, and the private functions that instructions name.

The vector engines run arith operations, the scalar engine one function of one number, gpsimd makes
coordinates and looks up
tables. So a body is read into a graph of nodes of these kinds; `index` becomes i64, and what has
no instruction of its own
is spelled in arith.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from polystage.dialects.npu.rules import ACTIVATIONS
from polystage.errors import PassError
from polystage.mlir import arith, func, ir
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.kernel_builder import KernelBuilder

Kind = Literal["input", "output", "index", "iota", "constant", "arith", "math", "load"]

_DEFAULTS = ("#arith.fastmath<none>", "#arith.overflow<none>")
_ACTIVATION_NAMES = {f"math.{name}": name for name in ACTIVATIONS} | {"math.absf": "abs"}
_INTEGER_ARITHMETIC = frozenset(
    f"arith.{name}"
    for name in (
        *("addi", "subi", "muli", "divsi", "divui", "remsi", "remui", "floordivsi", "ceildivsi"),
        *("ceildivui", "maxsi", "minsi", "maxui", "minui", "andi", "ori", "xori", "shli", "shrsi"),
        *("shrui", "cmpi"),
    )
)
_LEAVES = ("input", "output", "index", "iota", "constant", "math", "load")


@dataclass(frozen=True, eq=False)
class Node:
    """A scalar value of a body.

    `name` is the operation of an `arith` node and the function of a `math` node. `number` is the
    operand of an `input` or
    `output`, the dimension of an `index` or `iota`, the table of a `load`. Equal values of one
    body are one node.
    """

    kind: Kind
    type: ir.Type
    name: str = ""
    operands: tuple[Node, ...] = ()
    attributes: tuple[tuple[str, ir.Attribute], ...] = ()
    number: int = 0

    @property
    def constant(self) -> float | int | None:
        """The value of a constant node, else None."""
        if self.kind != "constant":
            return None
        attribute = self.attributes[0][1]
        if isinstance(attribute, ir.BoolAttr):
            return int(attribute.value)
        return attribute.value  # type: ignore[attr-defined]

    @property
    def is_leaf(self) -> bool:
        """Whether the value lies in a buffer or is a constant, rather than being computed by
        arith."""
        return self.kind in _LEAVES


class Graph:
    """Makes nodes, each value once."""

    def __init__(self, context: ir.Context) -> None:
        self.context = context
        self._nodes: dict[tuple[object, ...], Node] = {}

    def node(
        self,
        kind: Kind,
        type_: ir.Type,
        name: str = "",
        operands: Sequence[Node] = (),
        attributes: Sequence[tuple[str, ir.Attribute]] = (),
        number: int = 0,
    ) -> Node:
        """Return the node with these parts."""
        texts = tuple((key, str(value)) for key, value in attributes)
        key = (kind, str(type_), name, tuple(id(o) for o in operands), texts, number)
        if key not in self._nodes:
            self._nodes[key] = Node(kind, type_, name, tuple(operands), tuple(attributes), number)
        return self._nodes[key]

    def constant(self, value: float | int, type_: ir.Type) -> Node:
        """Return a constant of `type_`."""
        with self.context, ir.Location.unknown():
            attribute = (
                ir.IntegerAttr.get(type_, int(value))
                if isinstance(type_, ir.IntegerType)
                else ir.FloatAttr.get(type_, float(value))
            )
        return self.node("constant", type_, attributes=[("value", attribute)])

    def arith(self, name: str, *operands: Node, type_: ir.Type | None = None) -> Node:
        """Return `arith.name` of the operands, of the type of the first."""
        return self.node("arith", type_ or operands[0].type, f"arith.{name}", operands)

    def compare(self, name: str, predicate: int, a: Node, b: Node) -> Node:
        """Return `arith.cmpf` or `arith.cmpi` with a predicate by number."""
        with self.context:
            i1, i64 = ir.IntegerType.get_signless(1), ir.IntegerType.get_signless(64)
            attribute = ir.IntegerAttr.get(i64, predicate)
        return self.node("arith", i1, f"arith.{name}", (a, b), [("predicate", attribute)])


@dataclass(frozen=True)
class ScalarBody:
    """What a linalg.generic computes per iteration: `results[j]` is the new value of output j."""

    graph: Graph
    results: tuple[Node, ...]
    tables: tuple[ir.Value, ...]
    """Captured memrefs that `load` nodes read, in order of first use."""
    elements: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Table and place of every element that is the same for all iterations; element k is the
    `input` behind all operands, number `operands + k`."""
    operands: int = 0

    def walk(self, roots: Sequence[Node] | None = None) -> list[Node]:
        """Return all nodes below `roots` (the results), operands first."""
        return topological(self.results if roots is None else roots, lambda node: node.operands)

    @property
    def passes(self) -> float:
        """Estimate how many elements the engines stream per iteration: one for every operand that
        is no constant, at most two for each operation; a copy may have to be rearranged."""
        total = 0.0
        for node in self.walk():
            if node.kind in ("arith", "math") and not is_cast(node):
                total += max(1, min(2, sum(o.kind != "constant" for o in node.operands)))
        return max(total, 1.0)

    def reads(self, kind: Kind) -> set[int]:
        """Return the numbers of all nodes of a kind: operands that are used, dimensions that are
        asked for."""
        return {node.number for node in self.walk() if node.kind == kind}


def topological(roots: Sequence[Node], operands: Callable[[Node], Sequence[Node]]) -> list[Node]:
    """Return the nodes that `roots` reach through `operands`, operands first, each once."""
    order: list[Node] = []
    seen: set[Node] = set()

    def visit(node: Node) -> None:
        if node in seen:
            return
        seen.add(node)
        for operand in operands(node):
            visit(operand)
        order.append(node)

    for root in roots:
        visit(root)
    return order


# --- reading a body -------------------------------------------------------------------------------


def read_body(generic: GenericOp, context: ir.Context) -> ScalarBody:
    """Return the graph of a body.

    Raises:
        PassError: the body holds an operation that no engine executes, or captures a value that is
        not a constant.
    """
    return _Reader(generic, Graph(context)).read()


def _held(type_: ir.Type) -> ir.Type:
    """Return the type that a value has on chip: index is i64."""
    if isinstance(type_, ir.IndexType):
        return ir.IntegerType.get_signless(64, type_.context)
    return type_


class _Reader:
    def __init__(self, generic: GenericOp, graph: Graph) -> None:
        self.graph = graph
        self.block = generic.body
        self.tables: list[ir.Value] = []
        self.elements: list[tuple[int, tuple[int, ...]]] = []
        self.values: dict[ir.Value, Node] = {}
        n_inputs = generic.outputs[0].argument
        for i, argument in enumerate(self.block.arguments):
            kind: Kind = "input" if i < n_inputs else "output"
            number = i if i < n_inputs else i - n_inputs
            self.values[argument] = graph.node(kind, _held(argument.type), number=number)

    def read(self) -> ScalarBody:
        for view in self.block.operations:
            op = view.operation
            if op.name == "linalg.yield":
                results = tuple(self.value(v) for v in op.operands)
                return ScalarBody(
                    self.graph,
                    results,
                    tuple(self.tables),
                    tuple(self.elements),
                    len(self.block.arguments),
                )
            self.values[op.results[0]] = self.op(op)
        raise PassError("the body has no linalg.yield")

    def value(self, value: ir.Value) -> Node:
        if value not in self.values:
            self.values[value] = self.captured(value)
        return self.values[value]

    def captured(self, value: ir.Value) -> Node:
        owner = value.owner
        if isinstance(owner, ir.Block) or owner.operation.name != "arith.constant":
            raise PassError(
                f"the body uses a value of type {value.type} from outside that is not a constant",
                op=None if isinstance(owner, ir.Block) else owner,
                help="pass it as an operand",
            )
        return self.constant(owner.operation)

    def constant(self, op: ir.Operation) -> Node:
        attribute = op.attributes["value"]
        if isinstance(op.results[0].type, ir.IndexType):
            value = ir.IntegerAttr(attribute).value
            return self.graph.constant(value, _held(op.results[0].type))
        return self.graph.node("constant", op.results[0].type, attributes=[("value", attribute)])

    def op(self, op: ir.Operation) -> Node:
        dialect = op.name.partition(".")[0]
        if op.name == "linalg.index":
            dim = ir.IntegerAttr(op.attributes["dim"]).value
            return self.graph.node("index", _held(op.results[0].type), number=dim)
        if op.name == "memref.load":
            return self.load(op)
        operands = [self.value(v) for v in op.operands]
        if op.name == "arith.constant":
            return self.constant(op)
        if op.name in ("arith.index_cast", "arith.index_castui"):
            return self.integer_cast(operands[0], op.results[0].type, op.name.endswith("ui"))
        if dialect == "arith" and len(op.results) == 1:
            named = [(key, op.attributes[key]) for key in op.attributes]
            kept = [(key, value) for key, value in named if str(value) not in _DEFAULTS]
            if (extremum := _extremum(self.graph, op.name, operands)) is not None:
                return extremum
            return self.graph.node("arith", _held(op.results[0].type), op.name, operands, kept)
        if expand := _EXPANSIONS.get(op.name):
            return expand(self.graph, *operands)
        if op.name in _ACTIVATION_NAMES:
            return self.graph.node("math", op.results[0].type, _ACTIVATION_NAMES[op.name], operands)
        raise PassError(
            f"no engine executes '{op.name}'",
            op=op,
            help="expand it to arith and unary math operations first (math-expand-ops)",
        )

    def load(self, op: ir.Operation) -> Node:
        table, *indices = op.operands
        if table not in self.tables:
            self.tables.append(table)
        number, places = self.tables.index(table), [self.value(v) for v in indices]
        if all(place.kind == "constant" for place in places):
            return self.element(op, number, tuple(int(p.constant or 0) for p in places))
        return self.graph.node("load", op.results[0].type, operands=places, number=number)

    def element(self, op: ir.Operation, table: int, place: tuple[int, ...]) -> Node:
        if (table, place) not in self.elements:
            self.elements.append((table, place))
        number = len(self.block.arguments) + self.elements.index((table, place))
        return self.graph.node("input", op.results[0].type, number=number)

    def integer_cast(self, source: Node, type_: ir.Type, unsigned: bool) -> Node:
        target = _held(type_)
        before, after = ir.IntegerType(source.type).width, ir.IntegerType(target).width
        if before == after:
            return source
        name = "trunci" if after < before else "extui" if unsigned else "extsi"
        return self.graph.arith(name, source, type_=target)


# --- simpler operations ---------------------------------------------------------------------------

_GREATER, _LESS, _UNORDERED = (2, 3, 9, 10), (4, 5, 11, 12), (9, 10, 11, 12)


def _extremum(graph: Graph, name: str, operands: Sequence[Node]) -> Node | None:
    """Return `max(x, c)` or `min(x, c)` for a select that spells it: one operation instead of two.

    select(x ugt c, x, c) -> maximumf(x, c), which is NaN where x is; for `ogt`, maxnumf(x, c),
    which is c there.
    """
    if name != "arith.select" or operands[0].name != "arith.cmpf":
        return None
    condition, first, second = operands
    predicate = ir.IntegerAttr(dict(condition.attributes)["predicate"]).value
    a, b = condition.operands
    constants = [o.constant for o in (a, b)]
    known = [c for c in constants if c is not None and c == c]
    if {first, second} != {a, b} or first is second or len(known) != 1:
        return None
    if predicate not in (*_GREATER, *_LESS):
        return None
    greatest = (predicate in _GREATER) == (first is a)
    where_nan = first if predicate in _UNORDERED else second
    word = "max" if greatest else "min"
    kind = "num" if where_nan.constant is not None else "imum"
    variable, constant = (a, b) if b.constant is not None else (b, a)
    return graph.arith(f"{word}{kind}f", variable, constant)


# --- operations spelled in arith ------------------------------------------------------------------

_OLT, _OEQ, _UNO = 4, 1, 14
_SLT = 2


def _absf(graph: Graph, x: Node) -> Node:
    return graph.arith("maximumf", x, graph.arith("negf", x))


def _absi(graph: Graph, x: Node) -> Node:
    return graph.arith("maxsi", x, graph.arith("subi", graph.constant(0, x.type), x))


def _fma(graph: Graph, a: Node, b: Node, c: Node) -> Node:
    return graph.arith("addf", graph.arith("mulf", a, b), c)


def _clampf(graph: Graph, x: Node, low: Node, high: Node) -> Node:
    return graph.arith("minimumf", graph.arith("maximumf", x, low), high)


def _isnan(graph: Graph, x: Node) -> Node:
    return graph.compare("cmpf", _UNO, x, x)


def _isinf(graph: Graph, x: Node) -> Node:
    return graph.compare("cmpf", _OEQ, _absf(graph, x), graph.constant(float("inf"), x.type))


def _isfinite(graph: Graph, x: Node) -> Node:
    return graph.compare("cmpf", _OLT, _absf(graph, x), graph.constant(float("inf"), x.type))


def _copysign(graph: Graph, x: Node, sign: Node) -> Node:
    """Return |x| with the sign of `sign`, told by 1 / sign so that -0 counts as negative."""
    zero, one = graph.constant(0.0, x.type), graph.constant(1.0, x.type)
    size = _absf(graph, x)
    below = graph.compare("cmpf", _OLT, sign, zero)
    negative_zero = graph.compare("cmpf", _OLT, graph.arith("divf", one, sign), zero)
    negative = graph.arith("ori", below, negative_zero)
    return graph.arith("select", negative, graph.arith("negf", size), size, type_=x.type)


_EXPANSIONS: dict[str, Callable[..., Node]] = {
    "math.absf": _absf,
    "math.absi": _absi,
    "math.fma": _fma,
    "math.clampf": _clampf,
    "math.isnan": _isnan,
    "math.isinf": _isinf,
    "math.isfinite": _isfinite,
    "math.copysign": _copysign,
}


# --- rewriting ------------------------------------------------------------------------------------


def substitute(
    graph: Graph, roots: Sequence[Node], replace: Callable[[Node], Node | None]
) -> list[Node]:
    """Return `roots` with every node for which `replace` gives another one exchanged for it."""
    done: dict[Node, Node] = {}

    for node in topological(roots, lambda n: () if replace(n) is not None else n.operands):
        new = replace(node)
        if new is None:
            operands = [done[o] for o in node.operands]
            new = graph.node(
                node.kind, node.type, node.name, operands, node.attributes, node.number
            )
        done[node] = new
    return [done[root] for root in roots]


def widen_accumulators(body: ScalarBody) -> ScalarBody:
    """Return the body with accumulators in the type in which it adds, so that they are rounded
    once, at the end.

    truncf(op(extf(out), x)) -> op(out, x), where out now has the wide type.
    """
    results = list(body.results)
    for j, result in enumerate(body.results):
        wide = _wide_type(body, result, j)
        if wide is None:
            continue
        output = body.graph.node("output", wide, number=j)

        def extended(node: Node, j: int = j, output: Node = output) -> Node | None:
            extends = node.name == "arith.extf" and node.operands[0].kind == "output"
            return output if extends and node.operands[0].number == j else None

        results[j] = result.operands[0]
        results = substitute(body.graph, results, extended)
    return replace(body, results=tuple(results))


def _wide_type(body: ScalarBody, result: Node, j: int) -> ir.Type | None:
    if result.name != "arith.truncf":
        return None
    wide = result.operands[0].type
    uses = [
        node
        for node in body.walk()
        for operand in node.operands
        if operand.kind == "output" and operand.number == j
    ]
    extends = all(use.name == "arith.extf" and use.type == wide for use in uses)
    bare = any(root.kind == "output" and root.number == j for root in body.results)
    return wide if uses and extends and not bare else None


@dataclass(frozen=True)
class Affine:
    """`scale * source + bias`, as the scalar engine computes before its function."""

    source: Node
    scale: float = 1.0
    bias: float = 0.0


def peel_affine(node: Node) -> Affine:
    """Return the largest `scale * x + bias` with constants that an f32 node ends in."""
    scale, bias = 1.0, 0.0
    while node.kind == "arith" and isinstance(node.type, ir.F32Type):
        step = _affine_step(node)
        if step is None:
            break
        node, factor, term = step
        scale, bias = scale * factor, scale * term + bias
    return Affine(node, scale, bias)


def _affine_step(node: Node) -> tuple[Node, float, float] | None:
    """Return (x, factor, term) where the node is factor * x + term."""
    name = node.name.removeprefix("arith.")
    if name == "negf":
        return node.operands[0], -1.0, 0.0
    if name not in ("addf", "subf", "mulf", "divf"):
        return None
    a, b = node.operands
    x, c = a.constant, b.constant
    forms: dict[str, tuple[float, float]]
    if c is not None:
        if name == "divf":
            return (a, 1.0 / c, 0.0) if c else None
        forms = {"addf": (1.0, c), "subf": (1.0, -c), "mulf": (c, 0.0)}
        return (a, *forms[name])
    if x is not None and name != "divf":
        forms = {"addf": (1.0, x), "subf": (-1.0, x), "mulf": (x, 0.0)}
        return (b, *forms[name])
    return None


# --- functions ------------------------------------------------------------------------------------


def cone(roots: Sequence[Node], known: Collection[Node] = ()) -> tuple[list[Node], list[Node]]:
    """Return (leaves, arith nodes) that compute `roots`, each in the order of need.

    Nodes in `known` are leaves; constants belong to neither list.
    """

    def is_leaf(node: Node) -> bool:
        return node.is_leaf or node in known

    order = topological(roots, lambda node: () if is_leaf(node) else node.operands)
    leaves = [node for node in order if is_leaf(node) and node.kind != "constant"]
    return leaves, [node for node in order if not is_leaf(node)]


def is_cast(node: Node) -> bool:
    """Whether a node only converts, which engines do as they read and write."""
    return node.name in (
        *("arith.extf", "arith.truncf", "arith.extsi", "arith.extui", "arith.trunci"),
        *("arith.sitofp", "arith.uitofp", "arith.fptosi", "arith.fptoui", "arith.bitcast"),
    )


def engine_of(nodes: Sequence[Node]) -> str:
    """Return the engine for a cone: gpsimd for integer arithmetic of 32 bits or more, else
    vector."""
    for node in nodes:
        if node.name in _INTEGER_ARITHMETIC:
            type_ = node.operands[0].type
            if isinstance(type_, ir.IntegerType) and type_.width >= 32:
                return "gpsimd"
    return "vector"


def body_function(
    builder: KernelBuilder, arguments: Sequence[Node], results: Sequence[Node]
) -> str:
    """Return the name of the module's private function that computes `results` from `arguments`.

    Equal functions are made once per module; the name tells the operations: `@relu`, `@mul_add`.
    """
    base = _function_name(results, arguments)
    symbols = ir.SymbolTable(builder.module.operation)
    with ir.InsertionPoint(builder.function), ir.Location.unknown(builder.module.context):
        function = _make_function(base, arguments, results)
    for name in _candidate_names(base):
        if name not in symbols:
            function.attributes["sym_name"] = ir.StringAttr.get(name, builder.module.context)
            return name
        if _signature(symbols[name]) == _signature(function):
            function.erase()
            return name
    raise AssertionError("names are endless")


def _signature(function: ir.OpView) -> list[str]:
    """Return a text for every operation of a function, with values numbered."""
    numbers: dict[ir.Value, int] = {}
    lines = [str(function.attributes["function_type"])]
    if not isinstance(function, func.FuncOp) or function.is_external:
        return lines
    for argument in function.entry_block.arguments:
        numbers[argument] = len(numbers)
    for op in function.entry_block.operations:
        attributes = sorted(f"{key}={op.attributes[key]}" for key in op.attributes)
        operands = [numbers.get(v) for v in op.operands]
        lines.append(
            f"{op.operation.name}{operands}{attributes}{[str(r.type) for r in op.results]}"
        )
        for result in op.results:
            numbers[result] = len(numbers)
    return lines


def _candidate_names(base: str) -> Iterator[str]:
    yield base
    number = 2
    while True:
        yield f"{base}_{number}"
        number += 1


def _make_function(name: str, arguments: Sequence[Node], results: Sequence[Node]) -> func.FuncOp:
    types = [a.type for a in arguments], [r.type for r in results]
    function = func.FuncOp(name, types, visibility="private")
    block = function.add_entry_block()
    values = dict(zip(arguments, block.arguments, strict=True))
    order = topological(results, lambda n: () if n in values else n.operands)
    with ir.InsertionPoint(block):
        for node in order:
            if node.kind == "constant":
                values[node] = arith.ConstantOp(node.type, node.attributes[0][1]).result
            elif node not in values:
                assert node.kind == "arith", node.kind
                operands = [values[o] for o in node.operands]
                attributes = dict(node.attributes)
                op = ir.Operation.create(node.name, [node.type], operands, attributes)
                values[node] = op.results[0]
        func.ReturnOp([values[r] for r in results])
    return function


def _function_name(results: Sequence[Node], arguments: Sequence[Node]) -> str:
    nodes = cone(results, arguments)[1]
    if not nodes:
        return "copy"
    if _is_relu(nodes, results):
        return "relu"
    words: list[str] = []
    for node in nodes:
        word = _word(node)
        if word and (not words or words[-1] != word):
            words.append(word)
    return "_".join(words[:4]) or "cast"


def _word(node: Node) -> str:
    name = node.name.removeprefix("arith.")
    if name.startswith(("ext", "trunc")):
        return ""
    if name in ("sitofp", "uitofp", "fptosi", "fptoui", "bitcast"):
        return name
    short = {"maximumf": "max", "minimumf": "min", "maxnumf": "maxnum", "minnumf": "minnum"}
    if name in short:
        return short[name]
    return name.removesuffix("f").removesuffix("i")


def _is_relu(nodes: Sequence[Node], results: Sequence[Node]) -> bool:
    last = nodes[-1]
    is_maximum = last.name in ("arith.maximumf", "arith.maxnumf")
    alone = len(results) == len(nodes) == 1
    return alone and is_maximum and any(o.constant == 0 for o in last.operands)
