"""Which orders between queues follow from others: clocks over the executions of a loop body.

A body is a list of children; every queue executes those parts of a child that are its own, child
after child, body after body. An edge holds a queue up before a child until another queue has
completed a child some executions of the body ago. Positions count children through all executions:
child `x` of execution `n` is at `n * children + x`.

A queue's clock says, for every queue, up to which position that one is known to have completed
everything. Merging clocks along edges gives all orders that follow, so an edge is redundant where
the clocks of the others reach its source already (the transitive reduction of the unrolled
program, which is unique since every edge points forward in it).

Source: Mattern, Virtual Time and Global States of Distributed Systems (1988), for the clocks;
Midkiff and Padua, Compiler Algorithms for Synchronization (1987), for redundant synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

START = -1
"""The position that every queue is at when a body is entered for the first time."""
UNKNOWN = -2

Clock = list[int]
Sets = Mapping[int, frozenset[int]]


@dataclass(frozen=True, order=True)
class Edge:
    """`target_queue` enters child `target` of execution n when `source_queue` has completed child
    `source` of execution n - `distance`.

    With `trips`, both children are loops of so many trips, and the target's queue begins each when
    the source's has completed the same one.
    """

    target: int
    target_queue: int
    source: int
    source_queue: int
    distance: int
    trips: int = 0


@dataclass(frozen=True)
class Child:
    """What the queues of a child know of each other, because of the order inside of it.

    `first[q]`: of whom q knows that they have come to the child, before its own first instruction;
    `starts[q]`: the same, at its end; `ends[q]`: who has completed the child by then.
    """

    queues: tuple[int, ...]
    first: Sets = field(default_factory=dict[int, frozenset[int]])
    starts: Sets = field(default_factory=dict[int, frozenset[int]])
    ends: Sets = field(default_factory=dict[int, frozenset[int]])

    def in_order(self) -> list[int]:
        """Return the queues, each after those that its first instruction waits for."""
        return sorted(self.queues, key=lambda q: (len(self._before(q)), q))

    def _before(self, queue: int) -> set[int]:
        found, new = {queue}, {queue}
        while new:
            new = {g for q in new for g in self.first.get(q, ()) if g in self.queues} - found
            found |= new
        return found


Known = Callable[[int], int]
"""Up to which position a queue is known to have completed everything."""

Wanted = Callable[[int, int, int, Known], Sequence[Edge]]
"""`wanted(execution, child, queue, known)`: the edges to it that its conflicts ask for. Edges whose
source is `known` already may be left out."""


class Orders:
    """The clocks of a body's queues while it is executed again and again."""

    def __init__(self, children: Sequence[Child], queues: int, wanted: Wanted) -> None:
        self.children = children
        self.wanted = wanted
        self.executions = 0
        self.now: list[Clock] = [
            [START if q == own else UNKNOWN for q in range(queues)] for own in range(queues)
        ]
        self._starts: dict[tuple[int, int], Clock] = {}
        self._ends: dict[tuple[int, int], Clock] = {}
        self._pending: dict[int, list[Edge]] = {}
        self.first: dict[int, Clock] = {}

    def execute(self) -> list[Edge]:
        """Execute the body once more, and return the edges that do not follow from others."""
        kept: list[Edge] = []
        for x, child in enumerate(self.children):
            kept += self._enter(x, child)
            self._leave(x, child)
        self.executions += 1
        return kept

    def _enter(self, x: int, child: Child) -> list[Edge]:
        """Let the queues of a child take their edges, and return those that they need."""
        kept: list[Edge] = []
        for q in child.in_order():
            inner = [self.now[g] for g in child.first.get(q, ()) if g != q]
            clock = _merged([self.now[q], *inner])
            found: list[tuple[Edge, Clock]] = []
            for edge in self.wanted(self.executions, x, q, clock.__getitem__):
                source = self._source(edge)
                if source is not None and clock[edge.source_queue] < self._position(edge):
                    found.append((edge, source))
            for i, (edge, source) in enumerate(found):
                self.now[q] = _merged([self.now[q], source])
                others = (e for j, (_, e) in enumerate(found) if j != i)
                if all(e[edge.source_queue] < self._position(edge) for e in others):
                    kept.append(edge)
            self._pending[q] = [edge for edge, _ in found if edge.trips]
            if q not in self.first:
                self.first[q] = _merged([self.now[q], *inner])
        return kept

    def _position(self, edge: Edge) -> int:
        return (self.executions - edge.distance) * len(self.children) + edge.source

    def _source(self, edge: Edge) -> Clock | None:
        """Return the clock that an edge hands on; None before the first execution of its source."""
        clocks = self._starts if edge.trips else self._ends
        return clocks.get((self._position(edge), edge.source_queue))

    def _leave(self, x: int, child: Child) -> None:
        """Bring the queues of a child to its end."""
        position = self.executions * len(self.children) + x
        for q in child.queues:
            self._starts[position, q] = self.now[q]
            paired = self._pending.pop(q, ())
            by_trips = [self._ends[self._position(e), e.source_queue] for e in paired]
            started = [self.now[g] for g in child.starts.get(q, ())]
            clock = _merged([self.now[q], *started, *by_trips])
            for g in child.ends.get(q, ()):
                clock[g] = position
            clock[q] = position
            self._ends[position, q] = clock
        for q in child.queues:
            self.now[q] = self._ends[position, q]

    def as_child(self) -> Child:
        """Return what the queues know of each other after all executions so far."""
        last = {q: x for x, child in enumerate(self.children) for q in child.queues}
        base = (self.executions - 1) * len(self.children)
        return Child(
            tuple(sorted(last)),
            {
                q: self._reached(self.first[q], q, dict.fromkeys(range(len(self.now)), START))
                for q in last
            },
            {
                q: self._reached(self.now[q], q, dict.fromkeys(range(len(self.now)), START))
                for q in last
            },
            {
                q: self._reached(self.now[q], q, {g: base + x for g, x in last.items()})
                for q in last
            },
        )

    @staticmethod
    def _reached(clock: Clock, own: int, positions: Mapping[int, int]) -> frozenset[int]:
        return frozenset(g for g, p in positions.items() if g != own and clock[g] >= p)


def _merged(clocks: Sequence[Clock]) -> Clock:
    if len(clocks) == 1:
        return list(clocks[0])
    return [max(values) for values in zip(*clocks, strict=True)]
