"""The order that a kernel needs: which instructions of different queues touch the same bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from polystage.mlir import ir
from polystage.synchronisation.accesses import Access
from polystage.synchronisation.distance import least_distance
from polystage.synchronisation.order import UNKNOWN, Child, Edge, Known, Orders

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
    return found, _order(body, queues, together, reduce, found)


def _order(
    body: Body,
    queues: int,
    together: frozenset[frozenset[int]],
    reduce: bool,
    found: list[Ordered],
) -> Child:
    children = [
        Child((c.queue,))
        if isinstance(c, Instruction)
        else _order(c.body, queues, together, reduce, found)
        for c in body.children
    ]
    conflicts = _Conflicts(body, together)
    orders = Orders(children, queues, conflicts.wanted)
    kept = orders.execute()
    while body.loops and orders.executions <= max(1, conflicts.farthest):
        kept = orders.execute()
    edges = kept if reduce else list(conflicts.all_edges())
    if edges:
        found.append(Ordered(tuple(c.op for c in body.children), tuple(sorted(edges))))
    trips = min(body.trips, 2 * conflicts.farthest + 3)
    if orders.executions != trips:
        orders = Orders(children, queues, conflicts.wanted)
        for _ in range(trips):
            orders.execute()
    return orders.as_child()


Group = object
"""A memory on chip, or an array in DRAM, or all those that may be parts of another."""
SHARED: Group = "arrays that a call may pass together"


class _Conflicts:
    """Finds, for a queue of a child, the latest conflicting child of every other queue.

    Only the latest matters, since the other queue executes in order. `farthest` is the largest
    distance found so far.
    """

    def __init__(self, body: Body, together: frozenset[frozenset[int]]) -> None:
        self.body = body
        self.together = together
        self.farthest = 0
        self.parts = [_parts(child, together) for child in body.children]
        self.places: dict[int, list[int]] = defaultdict(list)
        self.hulls: dict[tuple[int, Group], tuple[int, int]] = {}
        for x, parts in enumerate(self.parts):
            for queue, groups in parts.items():
                self.places[queue].append(x)
                for group, accesses in groups.items():
                    self._widen((queue, group), accesses)
        self._distances: dict[tuple[int, int, int], int | None] = {}

    def _widen(self, key: tuple[int, Group], accesses: Sequence[Access]) -> None:
        low, high = self.hulls.get(key, accesses[0].hull)
        for access in accesses:
            low, high = min(low, access.hull[0]), max(high, access.hull[1])
        self.hulls[key] = (low, high)

    def all_edges(self) -> Iterator[Edge]:
        """Yield the latest conflict of every queue of every child with every other queue."""
        for y, parts in enumerate(self.parts):
            for queue in parts:
                yield from self.wanted(FARTHEST, y, queue, lambda _: UNKNOWN)

    def wanted(self, execution: int, y: int, queue: int, known: Known) -> list[Edge]:
        """Return an edge from the latest conflict with every other queue that is not known."""
        edges: list[Edge] = []
        for other in self.places:
            if other != queue:
                edge = self._latest(execution, y, queue, other, known(other))
                if edge is not None:
                    edges.append(edge)
        return edges

    def _latest(self, execution: int, y: int, queue: int, other: int, known: int) -> Edge | None:
        targets = {
            group: found
            for group, accesses in self.parts[y].get(queue, {}).items()
            if (found := [a for a in accesses if self._may_meet(a, other, group)])
        }
        if not targets:
            return None
        total = len(self.parts)
        best: Edge | None = None
        latest = known
        for x, least in self._candidates(y, other):
            if (execution - least) * total + x <= latest:
                break
            distance = self._distance(x, other, targets, least)
            if distance is not None:
                edge = Edge(y, queue, x, other, min(distance, FARTHEST))
                self.farthest = max(self.farthest, edge.distance)
                position = (execution - edge.distance) * total + x
                if position > known and (best is None or position > latest):
                    best, latest = edge, position
        return best

    def _may_meet(self, access: Access, queue: int, group: Group) -> bool:
        hull = self.hulls.get((queue, group))
        if hull is None or group is SHARED:
            return hull is not None
        return hull[0] < access.hull[1] and access.hull[0] < hull[1]

    def _candidates(self, y: int, other: int) -> Iterator[tuple[int, int]]:
        """Yield (child, least distance) of another queue, those first that may be latest."""
        places = self.places[other]
        yield from ((x, 0) for x in reversed(places) if x < y)
        if self.body.loops:
            yield from ((x, 1) for x in reversed(places) if x > y)

    def _distance(
        self, x: int, other: int, targets: dict[Group, list[Access]], least: int
    ) -> int | None:
        """Return the least distance of any access of a queue of a child to one of the targets."""
        best: int | None = None
        for group, accesses in self.parts[x][other].items():
            for target in targets.get(group, ()):
                for source in accesses:
                    if source.writes or target.writes:
                        found = self._between(source, target, least)
                        if found == least:
                            return least
                        if found is not None and (best is None or found < best):
                            best = found
        return best

    def _between(self, source: Access, target: Access, least: int) -> int | None:
        if source.buffer is not target.buffer and source.buffer.memory == "dram":
            pair = frozenset((source.buffer.argument, target.buffer.argument))
            return least if pair in self.together else None
        if not source.may_meet(target):
            return None
        key = (id(source), id(target), least)
        if key not in self._distances:
            self._distances[key] = least_distance(source, target, self.body.loops, least)
        return self._distances[key]


Parts = dict[int, dict[Group, list[Access]]]
"""Queue -> group -> accesses."""


def _parts(child: Instruction | Loop, together: frozenset[frozenset[int]]) -> Parts:
    shared = frozenset().union(*together)
    parts: Parts = {}
    for queue, access in accesses_in(child):
        buffer = access.buffer
        group: Group = buffer if buffer.memory == "dram" else buffer.memory
        if buffer.argument in shared:
            group = SHARED
        parts.setdefault(queue, {}).setdefault(group, []).append(access)
    return parts


def accesses_in(child: Instruction | Loop) -> Iterator[tuple[int, Access]]:
    """Yield (queue, access) of every instruction in a child."""
    if isinstance(child, Instruction):
        for access in child.accesses:
            yield child.queue, access
        return
    for inner in child.body.children:
        yield from accesses_in(inner)
