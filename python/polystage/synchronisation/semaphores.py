"""From edges to semaphores: as many signals as waits, in the same order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from polystage.synchronisation.order import Edge

Anchor = TypeVar("Anchor")


@dataclass(frozen=True)
class Semaphore(Generic[Anchor]):
    """A semaphore: `source_queue` signals after each of `signals`, `target_queue` waits before each
    of `waits`; `initial` of the waits pass at once."""

    source_queue: int
    target_queue: int
    signals: tuple[Anchor, ...]
    waits: tuple[Anchor, ...]
    initial: int


def semaphores(
    anchors: Sequence[Anchor],
    edges: Iterable[Edge],
    trips: Mapping[Edge, tuple[Anchor, Anchor]],
) -> Iterator[Semaphore[Anchor]]:
    """Yield semaphores that keep the edges between the children of a body: one for two queues where
    their signals and waits come in the same order, else one for each edge.

    `trips` has the anchors of edges trip by trip.
    """
    pairs: dict[tuple[int, int], list[Edge]] = defaultdict(list)
    for edge in sorted(edges):
        if edge.trips:
            signal, wait = trips[edge]
            queues = (edge.source_queue, edge.target_queue)
            yield Semaphore(*queues, (signal,), (wait,), edge.distance * edge.trips)
        else:
            pairs[edge.source_queue, edge.target_queue].append(edge)
    for (source, target), group in pairs.items():
        initial = tokens(group, len(anchors))
        parts = [group] if initial is not None else [[edge] for edge in group]
        for part in parts:
            yield Semaphore(
                source,
                target,
                tuple(anchors[e.source] for e in part),
                tuple(anchors[e.target] for e in part),
                part[0].distance if initial is None else initial,
            )


def tokens(edges: list[Edge], children: int) -> int | None:
    """Return the initial value with which one semaphore serves all edges between two queues, or
    None where that is impossible. Edges are in order of their targets.

    Wait `i` of execution `n` takes the signal of execution `n - distance`, so between the two all
    signals must be in the order of the waits, each one's own.

    >>> tokens([Edge(1, 0, 0, 1, 0), Edge(3, 0, 2, 1, 0)], 4)
    0
    >>> tokens([Edge(1, 0, 2, 1, 1), Edge(3, 0, 0, 1, 0)], 4)
    1
    >>> tokens([Edge(1, 0, 0, 1, 0), Edge(3, 0, 0, 1, 0)], 4) is None
    True
    """
    targets = [e.target for e in edges]
    sources = [e.source - e.distance * children for e in edges]
    following = [*sources[1:], sources[0] + children]
    if len(set(targets)) < len(targets) or any(
        a >= b for a, b in zip(sources, following, strict=True)
    ):
        return None
    rank = {s: i for i, s in enumerate(sorted(e.source for e in edges))}
    first = edges[0]
    return first.distance * len(edges) - rank[first.source]
