"""The body of an elementwise operation as a sum of operands under a function."""

from __future__ import annotations

from dataclasses import dataclass

from polystage.dialects.npu.rules import ACTIVATIONS
from polystage.mlir import ir
from polystage.passes.lower.lane_engines.affine import peel_affine
from polystage.passes.lower.lane_engines.scalar_graph import Node, ScalarBody, is_cast


@dataclass(frozen=True)
class Terms:
    """`function(scale * sum(operands) + bias)`, as the scalar engine computes it."""

    operands: tuple[int, ...]
    function: str
    scale: float
    bias: float


def read_terms(body: ScalarBody) -> Terms | None:
    """Return the sum that a body is, or None where it is anything else.

    Roundings between its operations are left out.
    """
    if len(body.results) != 1 or body.tables or body.reads("output"):
        return None
    node, function = _without_function(_without_casts(body.results[0]))
    affine = peel_affine(node)
    operands = _summands(affine.source)
    if operands is None:
        return None
    return Terms(tuple(operands), function, affine.scale, affine.bias)


def _without_casts(node: Node) -> Node:
    while is_cast(node) and _is_float(node.type) and _is_float(node.operands[0].type):
        node = node.operands[0]
    return node


def _is_float(type_: ir.Type) -> bool:
    return isinstance(type_, ir.FloatType)


def _without_function(node: Node) -> tuple[Node, str]:
    """Return (x, f) where a node is the function f of the scalar engine of x, else the node
    itself under the identity."""
    rectified = _rectified(node)
    if rectified is not None:
        return rectified, "relu"
    name = node.name.removeprefix("math.")
    if node.kind == "math" and name in ACTIVATIONS and len(node.operands) == 1:
        return _without_casts(node.operands[0]), name
    return node, "identity"


def _rectified(node: Node) -> Node | None:
    """Return x where the node is `maximumf(x, 0)`."""
    if node.name != "arith.maximumf":
        return None
    for x, zero in (node.operands, node.operands[::-1]):
        if zero.constant == 0:
            return _without_casts(x)
    return None


def _summands(node: Node) -> list[int] | None:
    """Return the numbers of the inputs that a node adds up."""
    node = _without_casts(node)
    if node.kind == "input" and _is_float(node.type):
        return [node.number]
    if node.name != "arith.addf":
        return None
    a, b = (_summands(operand) for operand in node.operands)
    return None if a is None or b is None else a + b
