"""The order that a kernel needs: which instructions of different queues touch the same bytes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from polystage.mlir import ir
from polystage.synchronisation.accesses import Access
from polystage.synchronisation.conflicts import Conflicts
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
    trips: Mapping[Edge, tuple[ir.Operation, ir.Operation]] = field(
        default_factory=dict[Edge, tuple[ir.Operation, ir.Operation]]
    )
    """For edges trip by trip: after which operation in the source to signal, and before which in
    the target to wait."""


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
    conflicts = _Accesses(body, together)
    orders = Orders(children, queues, conflicts.wanted)
    kept = orders.execute()
    while body.loops and orders.executions <= max(1, conflicts.farthest):
        kept = orders.execute()
    edges = kept if reduce else conflicts.all_edges(FARTHEST)
    if edges:
        anchors = tuple(c.op for c in body.children)
        trips = {e: conflicts.anchors(e) for e in edges if e.trips}
        found.append(Ordered(anchors, tuple(sorted(edges)), trips))
    trips = min(body.trips, 2 * conflicts.farthest + 3)
    if orders.executions != trips:
        orders = Orders(children, queues, conflicts.wanted)
        for _ in range(trips):
            orders.execute()
    return orders.as_child()


Group = object
"""A memory on chip, or an array in DRAM, or all those that may be parts of another."""
SHARED: Group = "arrays that a call may pass together"


class _Accesses(Conflicts):
    """Finds conflicts between accesses; `farthest` is the largest distance found so far."""

    def __init__(self, body: Body, together: frozenset[frozenset[int]]) -> None:
        self.body = body
        self.together = together
        self.farthest = 0
        shared = frozenset[int]().union(*together)
        self.parts = [_parts(child, shared) for child in body.children]
        super().__init__(self.parts)
        self.hulls: dict[tuple[int, Group], tuple[int, int]] = {}
        for parts in self.parts:
            for queue, groups in parts.items():
                for group, accesses in groups.items():
                    self._widen((queue, group), accesses)
        self._distances: dict[tuple[int, int, int], int | None] = {}
        self._finer: dict[Edge, Edge] = {}

    def _widen(self, key: tuple[int, Group], accesses: Sequence[Access]) -> None:
        low, high = self.hulls.get(key, accesses[0].hull)
        for access in accesses:
            low, high = min(low, access.hull[0]), max(high, access.hull[1])
        self.hulls[key] = (low, high)

    def latest(self, execution: int, y: int, queue: int, other: int, known: int) -> Edge | None:
        """Return the edge from the latest conflict; between equal loops, trip by trip if it may."""
        total = len(self.parts)
        best: Edge | None = None
        latest = known
        targets: dict[Group, list[Access]] | None = None
        for x, least in self._candidates(y, other):
            if (execution - least) * total + x <= latest:
                break
            if targets is None:
                targets = self._meeting(y, queue, other)
            if not targets:
                break
            distance = self._distance(x, other, targets, least)
            if distance is not None:
                edge = Edge(y, queue, x, other, min(distance, FARTHEST))
                self.farthest = max(self.farthest, edge.distance)
                position = (execution - edge.distance) * total + x
                if position > known and (best is None or position > latest):
                    best, latest = edge, position
        if best is None:
            return None
        if best not in self._finer:
            self._finer[best] = self._trip_by_trip(best)
        return self._finer[best]

    def _trip_by_trip(self, edge: Edge) -> Edge:
        """Return an edge between the trips of two loops where no trip of the target needs a later
        one of the source than the same, else the edge itself."""
        source, target = self.body.children[edge.source], self.body.children[edge.target]
        if not (isinstance(source, Loop) and isinstance(target, Loop)):
            return edge
        trips = source.body.trips
        if trips == 1 or target.body.trips != trips or self._is_shared(edge):
            return edge
        same = edge.distance * trips
        for a, b in self._pairs(edge):
            found = least_distance(a, b, source.body.loops, same - trips + 1, target.body.loops)
            if found is not None and found < same:
                return edge
        return replace(edge, trips=trips)

    def _is_shared(self, edge: Edge) -> bool:
        """Say whether both touch arrays that may be parts of one."""
        sources = self.parts[edge.source][edge.source_queue]
        return SHARED in sources and SHARED in self.parts[edge.target][edge.target_queue]

    def _pairs(self, edge: Edge) -> Iterator[tuple[Access, Access]]:
        """Yield the accesses of the source's queue and the target's that may meet."""
        sources = self.parts[edge.source][edge.source_queue]
        targets = self.parts[edge.target][edge.target_queue]
        for group, accesses in sources.items():
            for b in targets.get(group, ()):
                yield from ((a, b) for a in accesses if a.may_meet(b))

    def anchors(self, edge: Edge) -> tuple[ir.Operation, ir.Operation]:
        """Return after which operation of the source loop an edge trip by trip signals, and before
        which of the target loop it waits."""
        source, target = self.body.children[edge.source], self.body.children[edge.target]
        assert isinstance(source, Loop) and isinstance(target, Loop)
        return (
            [c.op for c in source.body.children if _executes(c, edge.source_queue)][-1],
            next(c.op for c in target.body.children if _executes(c, edge.target_queue)),
        )

    def _meeting(self, y: int, queue: int, other: int) -> dict[Group, list[Access]]:
        """Return the accesses of a queue of a child that may meet any of another queue."""
        return {
            group: found
            for group, accesses in self.parts[y].get(queue, {}).items()
            if (found := [a for a in accesses if self._may_meet(a, other, group)])
        }

    def _may_meet(self, access: Access, queue: int, group: Group) -> bool:
        hull = self.hulls.get((queue, group))
        if hull is None or group is SHARED:
            return hull is not None
        return hull[0] < access.hull[1] and access.hull[0] < hull[1]

    def _candidates(self, y: int, other: int) -> Iterator[tuple[int, int]]:
        """Yield (child, least distance) of another queue, those first that may be latest."""
        places = self.places[other]
        for i in range(bisect_left(places, y) - 1, -1, -1):
            yield places[i], 0
        if self.body.loops:
            for i in range(len(places) - 1, bisect_right(places, y) - 1, -1):
                yield places[i], 1

    def _distance(
        self, x: int, other: int, targets: dict[Group, list[Access]], least: int
    ) -> int | None:
        """Return the least distance of any access of a queue of a child to one of the targets."""
        best: int | None = None
        for group, accesses in self.parts[x][other].items():
            for target in targets.get(group, ()):
                low, high = target.hull
                for source in accesses:
                    if group is not SHARED and (high <= source.hull[0] or source.hull[1] <= low):
                        continue  # most of them, so without further ado
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
        key = (id(source), id(target), least)
        if key not in self._distances:
            self._distances[key] = least_distance(source, target, self.body.loops, least)
        return self._distances[key]


def _executes(child: Instruction | Loop, queue: int) -> bool:
    if isinstance(child, Instruction):
        return child.queue == queue
    return any(_executes(inner, queue) for inner in child.body.children)


Parts = dict[int, dict[Group, list[Access]]]
"""Queue -> group -> accesses."""


def _parts(child: Instruction | Loop, shared: frozenset[int]) -> Parts:
    """Return what a child touches; `shared` are the arguments that may overlap others."""
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
