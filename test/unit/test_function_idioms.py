"""Functions of the scalar engine that bodies spell out: found in any spelling, else left alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.mlir import ir
from polystage.passes.lower.lane_engines.function_idioms import name_functions
from polystage.passes.lower.lane_engines.scalar_graph import Graph, Node
from polystage.simulator.activations import ACTIVATIONS

ARITHMETIC = {
    "arith.addf": np.add,
    "arith.subf": np.subtract,
    "arith.mulf": np.multiply,
    "arith.divf": np.divide,
    "arith.negf": np.negative,
    "arith.select": np.where,
    "arith.cmpf": np.greater,
}


class Body:
    """Spells a body out over one input, in an order and with scales that a draw chooses."""

    def __init__(self, coin=lambda: False, scale: float = 1.0) -> None:
        self.graph = Graph(ir.Context())
        with self.graph.context:
            self.f32 = ir.F32Type.get()
        self.coin = coin
        self.input = self.graph.node("input", self.f32, number=0)
        self.x = self.input if scale == 1.0 else self.mul(self.input, self.number(scale))

    def number(self, value: float) -> Node:
        return self.graph.constant(value, self.f32)

    def add(self, a: Node, b: Node) -> Node:
        return self.graph.arith("addf", *((b, a) if self.coin() else (a, b)))

    def mul(self, a: Node, b: Node) -> Node:
        return self.graph.arith("mulf", *((b, a) if self.coin() else (a, b)))

    def divide(self, a: Node, b: Node) -> Node:
        return self.graph.arith("divf", a, b)

    def scaled(self, a: Node, factor: float) -> Node:
        if self.coin():
            return self.divide(a, self.number(1 / factor))
        return self.mul(a, self.number(factor))

    def math(self, name: str, a: Node) -> Node:
        return self.graph.node("math", self.f32, name, [a])

    def product(self, factors: list[Node], factor: float) -> Node:
        """Multiply in any order, the constant anywhere."""
        while len(factors) > 1:
            last = factors.pop()
            at = -1 if self.coin() else 0
            factors[at] = self.mul(factors[at], last)
            if factor != 1.0 and self.coin():
                factors[at], factor = self.scaled(factors[at], factor), 1.0
        return self.scaled(factors[0], factor) if factor != 1.0 else factors[0]

    def gelu(self) -> Node:
        inner = self.math("erf", self.scaled(self.x, 0.70710678))
        return self.product([self.x, self.add(inner, self.number(1))], 0.5)

    def gelu_tanh(self) -> Node:
        cube = self.product([self.x, self.x, self.x], 0.044715)
        inner = self.scaled(self.add(self.x, cube), 0.7978845608)
        gate = self.add(self.math("tanh", inner), self.number(1))
        return self.product([self.x, gate], 0.5)

    def sigmoid(self) -> Node:
        minus = self.graph.arith("negf", self.x) if self.coin() else self.scaled(self.x, -1.0)
        return self.divide(self.number(1), self.add(self.math("exp", minus), self.number(1)))

    def silu(self) -> Node:
        if self.coin():
            minus = self.graph.arith("negf", self.x)
            return self.divide(self.x, self.add(self.number(1), self.math("exp", minus)))
        return self.mul(self.x, self.sigmoid())

    def softplus(self) -> Node:
        soft = self.math("log1p", self.math("exp", self.x))
        if self.coin():
            soft = self.math("log", self.add(self.math("exp", self.x), self.number(1)))
        large = self.graph.compare("cmpf", 2, self.x, self.number(20))
        return self.graph.arith("select", large, self.x, soft, type_=self.f32)

    def named(self, node: Node) -> Node:
        (result,) = name_functions(self.graph, [node])
        return result


def value(node: Node, x: np.ndarray) -> np.ndarray:
    if node.kind == "input":
        return x
    if node.constant is not None:
        return np.float32(node.constant)
    operands = [value(o, x) for o in node.operands]
    return {**ARITHMETIC, **ACTIVATIONS}[node.name](*operands)


def functions(node: Node) -> set[str]:
    return {node.name, *(name for o in node.operands for name in functions(o))}


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "sigmoid", "silu", "softplus"])
@given(st.data(), st.sampled_from([1.0, -1.0, 1.702, 0.5]))
@settings(max_examples=40, deadline=None)
def test_any_spelling_is_found(name: str, data: st.DataObject, scale: float) -> None:
    body = Body(lambda: data.draw(st.booleans()), scale)
    spelled = getattr(body, name)()
    found = body.named(spelled)
    assert name in functions(found)
    assert not functions(found) & {"erf", "tanh", "exp", "log", "log1p", "arith.divf"}
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    np.testing.assert_allclose(value(found, x), value(spelled, x), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "sigmoid", "silu", "softplus"])
def test_nothing_is_left_of_a_plain_one(name: str) -> None:
    body = Body()
    found = body.named(getattr(body, name)())
    assert (found.name, found.operands) == (name, (body.input,))


def test_torch_mlir_rounds_the_constant_of_the_tanh() -> None:
    body = Body()
    cube = body.product([body.x, body.x, body.x], 0.044715)
    inner = body.scaled(body.add(body.x, cube), 0.797724)
    gate = body.add(body.math("tanh", inner), body.number(1))
    found = body.named(body.product([body.x, gate], 0.5))
    assert (found.name, found.operands) == ("gelu_tanh", (body.x,))


def test_a_gate_of_another_value_is_a_sigmoid_only() -> None:
    body = Body()
    other = body.graph.node("input", body.f32, number=1)
    exponential = body.math("exp", body.graph.arith("negf", body.x))
    gated = body.divide(other, body.add(exponential, body.number(1)))
    assert functions(body.named(gated)) == {"arith.mulf", "", "sigmoid"}


@pytest.mark.parametrize(
    "spell",
    [
        lambda b: b.mul(b.x, b.add(b.math("erf", b.add(b.x, b.number(1))), b.number(1))),
        lambda b: b.mul(b.x, b.add(b.math("erf", b.x), b.number(2))),
        lambda b: b.mul(b.x, b.add(b.math("tanh", b.x), b.number(1))),
        lambda b: b.mul(b.x, b.math("tanh", b.x)),
        lambda b: b.divide(b.number(1), b.add(b.math("exp", b.x), b.number(2))),
        lambda b: b.math("log", b.add(b.math("exp", b.x), b.number(2))),
        lambda b: b.mul(b.mul(b.x, b.x), b.add(b.math("erf", b.x), b.number(1))),
    ],
)
def test_no_other_product_or_sum(spell) -> None:
    body = Body()
    spelled = spell(body)
    assert body.named(spelled) is spelled


def test_no_softplus_that_saturates_early() -> None:
    body = Body()
    soft = body.math("log1p", body.math("exp", body.x))
    early = body.graph.compare("cmpf", 2, body.x, body.number(2))
    found = body.named(body.graph.arith("select", early, body.x, soft, type_=body.f32))
    assert (found.name, found.operands[2].name) == ("arith.select", "softplus")


def test_repeated_squares_take_no_time() -> None:
    body = Body()
    power = body.x
    for _ in range(60):
        power = body.mul(power, power)
    assert body.named(power) is power
