"""Reads the body of a linalg.generic into a graph of what the engines can execute.

`index` becomes i64; what has no instruction of its own is spelled in arith.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from polystage.dialects.npu.rules import ACTIVATIONS
from polystage.errors import PassError
from polystage.mlir import ir
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.lane_engines.function_idioms import name_functions
from polystage.passes.lower.lane_engines.scalar_graph import (
    Graph,
    Kind,
    Node,
    ScalarBody,
    substitute,
)

_DEFAULTS = ("#arith.fastmath<none>", "#arith.overflow<none>")
_ACTIVATION_NAMES = {f"math.{name}": name for name in ACTIVATIONS}


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
                results = name_functions(self.graph, [self.value(v) for v in op.operands])
                return ScalarBody(
                    self.graph,
                    tuple(results),
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
