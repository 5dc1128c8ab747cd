"""The bodies of several operations as one graph: what one leaves for the next is a value in it.

    s = sum(x); y = x - s / n; v = sum(y * y); z = y * rsqrt(v)
        ->  folds s: s + x, v: v + (x - s / n) * (x - s / n);  result (x - s / n) * rsqrt(v)

Values that stay on chip are not rounded to the type of the array that would have held them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from polystage.mlir import ir
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.lane_engines.scalar_code import read_body, widen_accumulators
from polystage.passes.lower.lane_engines.scalar_graph import (
    Graph,
    Node,
    ScalarBody,
    substitute,
    unrounded,
)


@dataclass(frozen=True)
class Fold:
    """A reduction within a chain: `node` is what is accumulated so far, `value` what it becomes
    with the next iteration."""

    node: Node
    value: Node
    initial: float | int


@dataclass(frozen=True)
class ChainBody:
    """What a chain computes per iteration: `body` has its one result, after the folds."""

    body: ScalarBody
    folds: Mapping[int, Fold]
    """By the number of the node."""


@dataclass(frozen=True)
class Link:
    """An operation of a chain. Its operand i is `values[i]` of the chain; those that operations of
    the chain make are numbered as well. `initial` is what a reduction starts from."""

    generic: GenericOp
    values: Mapping[int, int]
    makes: int
    initial: float | int | None


def chain_body(links: Sequence[Link], context: ir.Context) -> ChainBody:
    """Return the bodies of a chain as one."""
    graph = Graph(context)
    made: dict[int, Node] = {}
    folds: dict[int, Fold] = {}
    for link in links:
        body = read_body(link.generic, context)
        if link.initial is not None:
            body = widen_accumulators(body)
        number = link.makes
        node: Node | None = None
        if link.initial is not None:
            node = graph.node("fold", unrounded(body.results[0]).type, number=number)
        (root,) = substitute(graph, body.results, _reading(graph, link, made, node))
        made[number] = root
        if node is not None:
            folds[number] = Fold(node, unrounded(root), link.initial or 0)
            made[number] = node
    body = ScalarBody(graph, (made[links[-1].makes],), ())
    return ChainBody(body, folds)


def _reading(
    graph: Graph, link: Link, made: Mapping[int, Node], fold: Node | None
) -> Callable[[Node], Node | None]:
    """Return what exchanges the operands of an operation for values of the chain."""

    def value(node: Node) -> Node | None:
        if node.kind == "output":
            return fold
        if node.name == "arith.extf" and node.operands[0].kind == "input":
            known = made.get(link.values[node.operands[0].number])
            if known is not None:
                exact = unrounded(known)
                if exact.type == node.type:
                    return exact
                return graph.arith("extf", exact, type_=node.type)
        if node.kind != "input":
            return None
        number = link.values[node.number]
        known = made.get(number)
        if known is None:
            return graph.node("input", node.type, number=number)
        return known if known.type == node.type else graph.arith("truncf", known, type_=node.type)

    return value
