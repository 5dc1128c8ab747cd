"""Finds functions of the scalar engine that a body spells in several operations.

    x * (1 / (1 + exp(-x)))              ->  silu(x)
    0.5 * x * (1 + erf(x / sqrt(2)))     ->  gelu(x)

Sums and products are compared as such, whatever their order and wherever their constants stand, and
what differs by a scale is found, too: `x * sigmoid(1.702 * x)` is `silu(1.702 * x) / 1.702`.
Roundings between the operations of such a function are those of the function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import isclose, pi, sqrt

from polystage.mlir import ir
from polystage.passes.lower.lane_engines.affine import peel_affine
from polystage.passes.lower.lane_engines.scalar_graph import Graph, Node, topological

_EXACT = 1e-6
"""Relative difference of constants that are equal but for their rounding to f32."""

_CLOSE = 3e-4
"""The same where a function is an approximation by itself: torch-mlir computes the tanh of gelu
with 0.797724 for sqrt(2 / pi) = 0.797885."""

_CUBE = 0.044715
_SATURATED = 10.0
"""From here on softplus(x) is x, within what f32 can tell from it after adding."""


def name_functions(graph: Graph, roots: Sequence[Node]) -> list[Node]:
    """Return `roots` with one `math` node for each function that is spelled out."""
    namer = _Namer(graph)
    done: dict[Node, Node] = {}
    for node in topological(roots, lambda n: n.operands):
        done[node] = namer.named(graph.rebuilt(node, [done[o] for o in node.operands]))
    return [done[root] for root in roots]


Product = tuple[float, Counter[Node]]
"""A constant times factors with their powers."""

Polynomial = tuple[float, float, float, float]
"""The coefficients of a polynomial of degree three or less, the constant first."""


class _Namer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.products: dict[Node, Product] = {}

    def named(self, node: Node) -> Node:
        """Return the function that a value is, if its operands have been named."""
        if not isinstance(node.type, ir.F32Type):
            return node
        if node.name == "arith.divf":
            node = _with_sigmoid(self.graph, node)
        if node.name in ("arith.mulf", "arith.divf"):
            return self.gated(node) or self.unscaled(node)
        if node.name in ("log", "log1p"):
            return _softplus(self.graph, node)
        if node.name == "arith.select":
            return _saturated(node)
        return node

    # --- x * gate(x) ------------------------------------------------------------------------------

    def gated(self, node: Node) -> Node | None:
        """Return gelu, gelu_tanh or silu of a scaled x, where a product is one."""
        constant, factors = self.product(node)
        for gate in (factor for factor, power in factors.items() if power == 1):
            rest = Counter({f: power for f, power in factors.items() if f is not gate})
            for function, argument, scale in _gates(gate):
                x = self.first_product(argument, rest)
                found = None if x is None else _gate(function, _polynomial(argument, x, {}))
                if x is None or found is None:
                    continue
                name, inner, outer = found
                ratio = constant * scale / (self.product(x)[0] * inner * outer)
                source = _scaled(self.graph, x, inner)
                function_of_x = self.graph.node("math", node.type, name, [source])
                return _scaled(self.graph, function_of_x, ratio)
        return None

    def first_product(self, argument: Node, factors: Counter[Node]) -> Node | None:
        """Return the first value on the way to `argument` that has just these factors."""
        for node in topological([argument], lambda n: n.operands):
            if isinstance(node.type, ir.F32Type) and self.product(node)[1] == factors:
                return None if node.constant is not None else node
        return None

    def unscaled(self, node: Node) -> Node:
        """Return the function that a product is, where its constants cancel each other."""
        constant, factors = self.product(node)
        if len(factors) != 1 or not isclose(constant, 1.0, rel_tol=_EXACT):
            return node
        ((factor, power),) = factors.items()
        return factor if factor.kind == "math" and power == 1 else node

    def product(self, node: Node) -> Product:
        """Return a value as a product."""
        if node not in self.products:
            self.products[node] = self._product(node)
        return self.products[node]

    def _product(self, node: Node) -> Product:
        if node.constant is not None:
            return float(node.constant), Counter()
        if node.name == "arith.negf":
            constant, factors = self.product(node.operands[0])
            return -constant, factors
        if node.name in ("arith.mulf", "arith.divf"):
            (a, first), (b, second) = map(self.product, node.operands)
            total = Counter(first)
            if node.name == "arith.mulf":
                total.update(second)
                return a * b, Counter({f: power for f, power in total.items() if power})
            if b:
                total.subtract(second)
                return a / b, Counter({f: power for f, power in total.items() if power})
        return 1.0, Counter({node: 1})


def _gates(factor: Node) -> Iterator[tuple[str, Node, float]]:
    """Yield (function, argument, scale) where a factor is `scale * (1 + function(argument))`, or
    for sigmoid and erfc `function(argument)`."""
    if factor.name in ("sigmoid", "erfc"):
        yield factor.name, factor.operands[0], 1.0
    affine = peel_affine(factor)
    function = affine.source
    if function.name in ("erf", "tanh") and isclose(affine.scale, affine.bias, rel_tol=_EXACT):
        yield function.name, function.operands[0], affine.scale


def _gate(function: str, polynomial: Polynomial | None) -> tuple[str, float, float] | None:
    """Return (name, s, f) where x times the gate of a polynomial of x is name(s * x) / (s * f)."""
    if polynomial is None:
        return None
    constant, linear, square, cube = polynomial
    if constant or square or not linear:
        return None
    if function == "tanh":
        inner = linear / sqrt(2 / pi)
        inner = 1.0 if isclose(inner, 1.0, rel_tol=_CLOSE) else inner
        is_gelu = isclose(cube, sqrt(2 / pi) * _CUBE * inner**3, rel_tol=_CLOSE)
        return ("gelu_tanh", inner, 0.5) if is_gelu else None
    if cube:
        return None
    if function == "sigmoid":
        return "silu", linear, 1.0
    sign = -1.0 if function == "erfc" else 1.0  # erfc(y) = 1 + erf(-y)
    return "gelu", sign * linear * sqrt(2), 0.5


def _polynomial(node: Node, x: Node, known: dict[Node, Polynomial | None]) -> Polynomial | None:
    """Return a value as a polynomial of `x`, or None where it is none."""
    if node not in known:
        known[node] = _as_polynomial(node, x, known)
    return known[node]


def _as_polynomial(node: Node, x: Node, known: dict[Node, Polynomial | None]) -> Polynomial | None:
    if node is x:
        return 0.0, 1.0, 0.0, 0.0
    if node.constant is not None:
        return float(node.constant), 0.0, 0.0, 0.0
    if node.name == "arith.negf":
        a = _polynomial(node.operands[0], x, known)
        return None if a is None else _times(a, (-1.0, 0.0, 0.0, 0.0))
    if node.name not in ("arith.addf", "arith.subf", "arith.mulf", "arith.divf"):
        return None
    a, b = (_polynomial(operand, x, known) for operand in node.operands)
    if a is None or b is None:
        return None
    if node.name == "arith.mulf":
        return _times(a, b)
    if node.name == "arith.divf":
        return None if any(b[1:]) or not b[0] else _times(a, (1 / b[0], 0.0, 0.0, 0.0))
    sign = 1 if node.name == "arith.addf" else -1
    return a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2], a[3] + sign * b[3]


def _times(a: Polynomial, b: Polynomial) -> Polynomial | None:
    total = [0.0] * 7
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            total[i + j] += p * q
    return None if any(total[4:]) else (total[0], total[1], total[2], total[3])


# --- sigmoid and softplus -------------------------------------------------------------------------


def _with_sigmoid(graph: Graph, node: Node) -> Node:
    """a / (1 + exp(y)) -> a * sigmoid(-y)."""
    numerator, denominator = node.operands
    affine = peel_affine(denominator)
    is_sigmoid = isclose(affine.scale, affine.bias, rel_tol=_EXACT)
    if affine.source.name != "exp" or not is_sigmoid:
        return node
    source, scale = affine.source.operands[0], -1.0
    inner = peel_affine(source)
    if not inner.bias:
        source, scale = inner.source, -inner.scale
    sigmoid = graph.node("math", node.type, "sigmoid", [_scaled(graph, source, scale)])
    if numerator.constant is not None:
        return _scaled(graph, sigmoid, float(numerator.constant) / affine.scale)
    return graph.arith("mulf", _scaled(graph, numerator, 1 / affine.scale), sigmoid)


def _softplus(graph: Graph, node: Node) -> Node:
    """log(1 + exp(x)) -> softplus(x)."""
    exponential = node.operands[0]
    if node.name == "log":
        affine = peel_affine(exponential)
        exponential = affine.source
        if affine.scale != 1 or affine.bias != 1:
            return node
    if exponential.name != "exp":
        return node
    return graph.node("math", node.type, "softplus", exponential.operands)


def _saturated(node: Node) -> Node:
    """select(x > large, x, softplus(x)) -> softplus(x)."""
    condition, x, softplus = node.operands
    if softplus.name != "softplus" or softplus.operands[0] is not x:
        return node
    if condition.name != "arith.cmpf" or condition.operands[0] is not x:
        return node
    limit = condition.operands[1].constant
    predicate = ir.IntegerAttr(dict(condition.attributes)["predicate"]).value
    return softplus if predicate in _GREATER and limit and limit >= _SATURATED else node


_GREATER = (2, 3, 9, 10)
"""The predicates ogt, oge, ugt and uge of `arith.cmpf`."""


def _scaled(graph: Graph, node: Node, factor: float) -> Node:
    if isclose(factor, 1.0, rel_tol=_EXACT):
        return node
    return graph.arith("mulf", node, graph.constant(factor, node.type))
