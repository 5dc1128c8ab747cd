"""What several instructions of a body need: it is computed once, into a buffer of its own."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.passes.lower.lane_engines.affine import peel_affine
from polystage.passes.lower.lane_engines.scalar_graph import (
    Node,
    ScalarBody,
    cone,
    is_cast,
    widened,
)


def shared_nodes(body: ScalarBody, folded: Sequence[Node] = ()) -> list[Node]:
    """Return the values that several instructions would each compute: t = x + b in t * tanh(t * t).

    Of values that the same instructions share, only the last are returned; casts are free. `folded`
    are what reductions within the body accumulate.
    """
    needed: dict[Node, set[int]] = {}
    instructions = _instructions(body, folded)
    for number, roots in enumerate(instructions):
        for node in cone(roots)[1]:
            needed.setdefault(node, set()).add(number)
    ends = {root for roots in instructions for root in roots}
    for node in needed:
        ends |= {o for o in node.operands if needed.get(o, needed[node]) != needed[node]}
    return [
        node
        for node, numbers in needed.items()
        if len(numbers) > 1 and node in ends and not all(is_cast(n) for n in cone([node])[1])
    ]


def _instructions(body: ScalarBody, folded: Sequence[Node]) -> list[list[Node]]:
    """Return the arith nodes that instructions leave in buffers, those of one instruction
    together."""
    found = [list(body.results), *([node] for node in folded)]
    for node in body.walk([*body.results, *folded]):
        if node.kind == "math":
            found.append([widened(peel_affine(node.operands[0]).source)])
        elif node.kind == "load":
            found += [[operand] for operand in node.operands]
    kept = [tuple(n for n in roots if n.kind == "arith") for roots in found]
    return [list(roots) for roots in dict.fromkeys(kept) if roots]
