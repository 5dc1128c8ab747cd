"""What the bodies of kernels and of @main share: the latest conflict between two queues."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence

from polystage.synchronisation.order import UNKNOWN, Edge, Known


class Conflicts(ABC):
    """Finds, for a queue of a child, the latest conflicting child of every other queue.

    Only the latest matters, since the other queue executes in order.
    """

    def __init__(self, queues: Sequence[Iterable[int]]) -> None:
        """`queues` are those of every child."""
        self.queues = [tuple(of_child) for of_child in queues]
        self.places: dict[int, list[int]] = defaultdict(list)
        for x, of_child in enumerate(self.queues):
            for queue in of_child:
                self.places[queue].append(x)

    @abstractmethod
    def latest(self, execution: int, y: int, queue: int, other: int, known: int) -> Edge | None:
        """Return an edge to a queue of child `y` from the latest conflict with another queue, None
        where there is none beyond the position `known`."""

    def wanted(self, execution: int, y: int, queue: int, known: Known) -> list[Edge]:
        """Return an edge from the latest conflict with every other queue that is not known."""
        found = (
            self.latest(execution, y, queue, other, known(other))
            for other in self.places
            if other != queue
        )
        return [edge for edge in found if edge is not None]

    def all_edges(self, execution: int) -> list[Edge]:
        """Return the latest conflict of every queue of every child with every other queue, so many
        executions after the first."""
        return [
            edge
            for y, queues in enumerate(self.queues)
            for queue in queues
            for edge in self.wanted(execution, y, queue, lambda _: UNKNOWN)
        ]
