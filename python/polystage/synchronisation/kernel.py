"""The order that a kernel needs: which instructions of different queues touch the same bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from polystage.mlir import ir
from polystage.synchronisation.accesses import Access
from polystage.synchronisation.distance import least_distance
from polystage.synchronisation.order import Child, Edge, Orders

FARTHEST = 128
"""An order over more executions than these is kept as if it were over these: no queue runs ahead
any farther."""


@dataclass(eq=False)
class Instruction:
    """An instruction, by the number of its queue."""

    op: ir.Operation
    queue: int
    accesses: tuple[Access, ...]


@dataclass(eq=False)
class Body:
    """The body of a loop or function: `loops` are the variables around it, outermost first, the
    innermost of which makes `trips`."""

    loops: tuple[int, ...] = ()
    trips: int = 1
    children: list[Instruction | Loop] = field(default_factory=list["Instruction | Loop"])


@dataclass(eq=False)
class Loop:
    """A loop that is executed at least once."""

    op: ir.Operation
    body: Body


@dataclass(frozen=True)
class Ordered:
    """The edges that a body needs; anchors are the operations of its children."""

    anchors: tuple[ir.Operation, ...]
    edges: tuple[Edge, ...]
    wanted: int


def order_kernel(
    body: Body,
    queues: int,
    *,
    together: frozenset[frozenset[int]] = frozenset(),
    reduce: bool = True,
) -> tuple[list[Ordered], Child]:
    """Return the edges of every body in a kernel, and what its queues know of each other at its
    end.

    `together` are pairs of arguments of which a call may pass overlapping parts of one array.
    """
    found: list[Ordered] = []
    child = _order(body, queues, _Conflicts(together), reduce, found)
    return found, child


def _order(
    body: Body, queues: int, conflicts: _Conflicts, reduce: bool, found: list[Ordered]
) -> Child:
    children = [
        Child((c.queue,))
        if isinstance(c, Instruction)
        else _order(c.body, queues, conflicts, reduce, found)
        for c in body.children
    ]
    edges = conflicts.edges(body)
    anchors = tuple(c.op for c in body.children)
    farthest = max((e.distance for e in edges), default=0)
    orders = _orders(children, queues, edges)
    for _ in range(farthest):
        orders.execute()
    kept = orders.execute()
    if edges:
        found.append(Ordered(anchors, tuple(sorted(kept if reduce else edges)), len(edges)))
    trips = min(body.trips, 2 * farthest + 3)
    if orders.executions != trips:
        orders = _orders(children, queues, edges)
        for _ in range(trips):
            orders.execute()
    return orders.as_child()


def _orders(children: Sequence[Child], queues: int, edges: Iterable[Edge]) -> Orders:
    into: dict[tuple[int, int], list[Edge]] = defaultdict(list)
    for edge in edges:
        into[edge.target, edge.target_queue].append(edge)
    return Orders(children, queues, lambda _, x, q, __: into.get((x, q), ()))


Pair = tuple[int, int, int, int]
"""Target child and queue, source child and queue, as in `Edge`."""


class _Conflicts:
    """Finds the least distances between the children of a body."""

    def __init__(self, together: frozenset[frozenset[int]]) -> None:
        self.together = together

    def edges(self, body: Body) -> list[Edge]:
        """Return an edge for every ordered pair of parts that conflict, as near as they do."""
        found: dict[Pair, int] = {}
        for (x, source, a), (y, target, b) in _neighbours(body, self.together):
            self._pair(body, found, (y, target, x, source), a, b, 0)
            if body.loops:
                self._pair(body, found, (x, source, y, target), b, a, 1)
        return [Edge(*pair, min(d, FARTHEST)) for pair, d in found.items()]

    def _pair(
        self,
        body: Body,
        found: dict[Pair, int],
        pair: Pair,
        source: Access,
        target: Access,
        least: int,
    ) -> None:
        known = found.get(pair)
        if known == least:
            return
        if source.buffer is not target.buffer and source.buffer.memory == "dram":
            distance = least
        else:
            distance = least_distance(source, target, body.loops, least)
        if distance is not None and (known is None or distance < known):
            found[pair] = distance


Placed = tuple[int, int, Access]
"""Child, queue, access."""


def _neighbours(body: Body, together: frozenset[frozenset[int]]) -> Iterator[tuple[Placed, Placed]]:
    """Yield the pairs of accesses by different children and queues that may meet."""
    groups: dict[object, list[Placed]] = defaultdict(list)
    for x, child in enumerate(body.children):
        for queue, access in accesses_in(child):
            buffer = access.buffer
            groups[buffer if buffer.memory == "dram" else buffer.memory].append((x, queue, access))
    for group in groups.values():
        group.sort(key=lambda placed: placed[2].hull[0])
        for i, (x, queue, access) in enumerate(group):
            for y, other_queue, other in group[i + 1 :]:
                if other.hull[0] >= access.hull[1]:
                    break
                if x != y and queue != other_queue and access.may_meet(other):
                    yield _sorted((x, queue, access), (y, other_queue, other))
    yield from _aliases(groups, together)


def _aliases(
    groups: dict[object, list[Placed]], together: frozenset[frozenset[int]]
) -> Iterator[tuple[Placed, Placed]]:
    """Yield the pairs of accesses to arguments that may be parts of one array."""
    drams = {g[0][2].buffer.argument: g for g in groups.values() if g[0][2].buffer.memory == "dram"}
    for first, second in (sorted(pair) for pair in together):
        for a in drams.get(first, ()):
            for b in drams.get(second, ()):
                if a[0] != b[0] and a[1] != b[1] and (a[2].writes or b[2].writes):
                    yield _sorted(a, b)


def _sorted(a: Placed, b: Placed) -> tuple[Placed, Placed]:
    return (a, b) if a[0] < b[0] else (b, a)


def accesses_in(child: Instruction | Loop) -> Iterator[tuple[int, Access]]:
    """Yield (queue, access) of every instruction in a child."""
    if isinstance(child, Instruction):
        for access in child.accesses:
            yield child.queue, access
        return
    for inner in child.body.children:
        yield from accesses_in(inner)
