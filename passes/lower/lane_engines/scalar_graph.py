"""A scalar body as a graph of values.

Vector engines run arith operations, the scalar engine one function of one number, gpsimd makes
coordinates and looks up tables: the kinds of nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from polystage.mlir import ir

Kind = Literal["input", "output", "index", "iota", "constant", "arith", "math", "load", "fold"]

_LEAVES = ("input", "output", "index", "iota", "constant", "math", "load", "fold")


@dataclass(frozen=True, eq=False)
class Node:
    """A scalar value of a body.

    `name` is the operation of an `arith` node and the function of a `math` node. `number` is the
    operand of an `input` or `output`, the dimension of an `index` or `iota`, the table of a `load`,
    the reduction of a `fold`, which is what that has accumulated.
    Equal values of one body are one node.
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

    def rebuilt(self, node: Node, operands: Sequence[Node]) -> Node:
        """Return a node of other operands that is the same otherwise."""
        return self.node(node.kind, node.type, node.name, operands, node.attributes, node.number)

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


def substitute(
    graph: Graph, roots: Sequence[Node], replace: Callable[[Node], Node | None]
) -> list[Node]:
    """Return `roots` with every node for which `replace` gives another one exchanged for it."""
    done: dict[Node, Node] = {}

    for node in topological(roots, lambda n: () if replace(n) is not None else n.operands):
        new = replace(node)
        if new is None:
            new = graph.rebuilt(node, [done[o] for o in node.operands])
        done[node] = new
    return [done[root] for root in roots]


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


def widened(node: Node) -> Node:
    """Return what a node only extends; engines extend what they read all the same."""
    return node.operands[0] if node.name == "arith.extf" else node


def unrounded(node: Node) -> Node:
    """Return what a node rounds; engines round what they write all the same."""
    return node.operands[0] if node.name == "arith.truncf" else node


def uncast(node: Node) -> Node:
    """Return the value that a node was converted from."""
    while is_cast(node):
        (node,) = node.operands
    return node
