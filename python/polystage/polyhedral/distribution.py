"""Loop distribution: which loops around statements must stay, and which may become operations.

Source: the codegen algorithm of Allen and Kennedy, "Automatic Translation of Fortran Programs to
Vector Form", TOPLAS 9(4), 1987, on exact dependences. Where we differ: a single statement in a
cycle keeps only the loops that carry its dependences, wherever they stand, and accumulations
count as operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import islpy as isl
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from polystage.polyhedral.dependences import Dependence, Dependences
from polystage.polyhedral.expressions import used_dims
from polystage.polyhedral.model import Statement


@dataclass(frozen=True)
class Loop:
    """A loop that stays, around everything that has to share it."""

    level: int
    """The dim of the statements inside that it runs over."""
    body: tuple["Node", ...]
    because: Dependence
    """A dependence that the loop carries."""

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The statements inside."""
        return tuple(s for node in self.body for s in node.statements)


@dataclass(frozen=True)
class Leaf:
    """A statement whose remaining dims are all parallel, or fold into one element."""

    statement: Statement
    fixed: tuple[int, ...]
    """The dims that the loops around it run over."""
    reduction: tuple[int, ...]
    """The dims along which it accumulates."""

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The statement."""
        return (self.statement,)


Node = Loop | Leaf


def distribute(
    statements: Sequence[Statement], dependences: Dependences, accumulations: frozenset[str]
) -> tuple[Node, ...]:
    """Return an order of operations and remaining loops that respects `dependences`.

    `accumulations` names the statements that fold values into an element with an operation whose
    order does not matter.
    """
    names = {statement.name for statement in statements}
    inner = [d for d in dependences if d.source in names and d.target in names]
    return _distribute(tuple(statements), inner, 0, accumulations)


def _distribute(
    statements: tuple[Statement, ...],
    dependences: list[Dependence],
    level: int,
    accumulations: frozenset[str],
) -> tuple[Node, ...]:
    """Distribute statements inside of `level` loops that they share."""
    here = [d for d in dependences if not _at_same(d.map, range(level)).is_empty()]
    nodes: list[Node] = []
    for group in _components(statements, here):
        names = {statement.name for statement in group}
        inner = [d for d in here if d.source in names and d.target in names]
        if len(group) == 1:
            nodes.append(_single(group[0], inner, level, accumulations))
        else:
            carried = next(d for d in inner if _is_carried(d.map, level))
            body = _distribute(group, inner, level + 1, accumulations)
            nodes.append(Loop(level, body, carried))
    return tuple(nodes)


def _single(
    statement: Statement, own: list[Dependence], level: int, accumulations: frozenset[str]
) -> Node:
    """Keep only those loops around one statement that carry a dependence of it on itself."""
    outer = tuple(range(level))
    maps = [(d, _at_same(d.map, outer)) for d in own]
    reduction: tuple[int, ...] = ()
    if statement.name in accumulations:
        used = set[int]().union(*map(used_dims, statement.writes[0].exprs or ()))
        dims = range(level, len(statement.dims))
        candidates = tuple(dim for dim in dims if dim not in used)
        rest = tuple(dim for dim in dims if dim in used)
        if all(not _moves_along(m, rest) for _, m in maps):
            maps, reduction = [], candidates
    kept: list[tuple[int, Dependence]] = []
    for dim in range(level, len(statement.dims)):
        carried = [d for d, m in maps if _moves_along(m, (dim,))]
        if carried:
            kept.append((dim, carried[0]))
    node: Node = Leaf(statement, outer + tuple(dim for dim, _ in kept), reduction)
    for dim, because in reversed(kept):
        node = Loop(dim, (node,), because)
    return node


def _at_same(relation: isl.Map, dims: Sequence[int]) -> isl.Map:
    """Return the dependences between instances that agree in `dims`."""
    for dim in dims:
        relation = relation.equate(isl.dim_type.in_, dim, isl.dim_type.out, dim)
    return relation


def _moves_along(relation: isl.Map, dims: Sequence[int]) -> bool:
    """Tell whether some dependence joins instances that differ in one of `dims`."""
    return not relation.is_subset(_at_same(relation, dims))


def _is_carried(relation: isl.Map, level: int) -> bool:
    inputs, outputs = relation.dim(isl.dim_type.in_), relation.dim(isl.dim_type.out)
    return min(inputs, outputs) > level and _moves_along(_at_same(relation, range(level)), (level,))


def _components(
    statements: tuple[Statement, ...], dependences: list[Dependence]
) -> list[tuple[Statement, ...]]:
    """Return the strongly connected components, sources first, else in program order."""
    place = {statement.name: index for index, statement in enumerate(statements)}
    edges = {(place[d.source], place[d.target]) for d in dependences}
    rows, columns = zip(*sorted(edges), strict=True) if edges else ((), ())
    shape = (len(statements), len(statements))
    graph = csr_array((np.ones(len(edges)), (rows, columns)), shape=shape)
    count, labels = connected_components(graph, connection="strong")
    waiting = {label: {labels[s] for s, t in edges if labels[t] == label} for label in range(count)}
    order: list[int] = []
    while waiting:
        ready = [n for n in waiting if not (waiting[n] - {n}) & waiting.keys()]
        chosen = min(ready, key=lambda label: int(np.argmax(labels == label)))
        order.append(chosen)
        del waiting[chosen]
    return [tuple(s for s, own in zip(statements, labels, strict=True) if own == n) for n in order]
