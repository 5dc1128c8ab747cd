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
    return _distribute(tuple(statements), list(dependences), (), accumulations)


def _distribute(
    statements: tuple[Statement, ...],
    dependences: list[Dependence],
    fixed: tuple[int, ...],
    accumulations: frozenset[str],
) -> tuple[Node, ...]:
    """Distribute statements inside of loops over their `fixed` dims, which they share."""
    here = [d for d in _among(statements, dependences) if not _at_same(d.map, fixed).is_empty()]
    nodes: list[Node] = []
    for group in _components(statements, here):
        inner = _among(group, here)
        if len(group) == 1:
            nodes.append(_single(group[0], inner, fixed, accumulations))
            continue
        # Loops further out that carry nothing are parallel, and may as well stand inside.
        free = (dim for dim in range(group[0].depth) if dim not in fixed)
        level, because = next((dim, d) for dim in free for d in inner if _moves(d, fixed, dim))
        body = _distribute(group, inner, (*fixed, level), accumulations)
        nodes.append(Loop(level, body, because))
    return tuple(nodes)


def _among(statements: Sequence[Statement], dependences: list[Dependence]) -> list[Dependence]:
    names = {statement.name for statement in statements}
    return [d for d in dependences if d.source in names and d.target in names]


def _single(
    statement: Statement,
    own: list[Dependence],
    fixed: tuple[int, ...],
    accumulations: frozenset[str],
) -> Node:
    """Keep only those loops around one statement that carry a dependence of it on itself."""
    free = [dim for dim in range(len(statement.dims)) if dim not in fixed]
    reduction: tuple[int, ...] = ()
    if statement.name in accumulations:
        used = set[int]().union(*map(used_dims, statement.writes[0].exprs or ()))
        if not any(_moves(d, fixed, dim) for d in own for dim in free if dim in used):
            own, reduction = [], tuple(dim for dim in free if dim not in used)
    kept: list[tuple[int, Dependence]] = []
    for dim in free:
        carried = [d for d in own if _moves(d, fixed, dim)]
        kept += [(dim, d) for d in carried[:1]]
    node: Node = Leaf(statement, (*fixed, *(dim for dim, _ in kept)), reduction)
    for dim, because in reversed(kept):
        node = Loop(dim, (node,), because)
    return node


def _at_same(relation: isl.Map, dims: Sequence[int]) -> isl.Map:
    """Return the dependences between instances that agree in `dims`."""
    for dim in dims:
        relation = relation.equate(isl.dim_type.in_, dim, isl.dim_type.out, dim)
    return relation


def _moves(dependence: Dependence, fixed: Sequence[int], dim: int) -> bool:
    """Tell whether a dependence joins instances that agree in `fixed`, but not in `dim`."""
    relation = _at_same(dependence.map, fixed)
    return not relation.is_subset(_at_same(relation, (dim,)))


def _components(
    statements: tuple[Statement, ...], dependences: list[Dependence]
) -> list[tuple[Statement, ...]]:
    """Return the strongly connected components, sources first, else in program order."""
    from scipy.sparse import csr_array  # lazy: start-up time
    from scipy.sparse.csgraph import connected_components  # lazy: start-up time

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
