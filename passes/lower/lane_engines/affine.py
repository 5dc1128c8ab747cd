"""The scale and the bias that the scalar engine applies before its function."""

from __future__ import annotations

from dataclasses import dataclass

from polystage.mlir import ir
from polystage.passes.lower.lane_engines.scalar_graph import Node


@dataclass(frozen=True)
class Affine:
    """`scale * source + bias`, as the scalar engine computes before its function, in place of so
    many operations."""

    source: Node
    scale: float = 1.0
    bias: float = 0.0
    operations: int = 0


def peel_affine(node: Node) -> Affine:
    """Return the largest `scale * x + bias` with constants that an f32 node ends in."""
    scale, bias, operations = 1.0, 0.0, 0
    while node.kind == "arith" and isinstance(node.type, ir.F32Type):
        step = _affine_step(node)
        if step is None:
            break
        node, factor, term = step
        scale, bias, operations = scale * factor, scale * term + bias, operations + 1
    return Affine(node, scale, bias, operations)


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
