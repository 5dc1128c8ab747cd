"""Time: engines with in-order queues, ports that exclude each other, and the DMA engines' pool."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable

from polystage.machine.target import Target

COMPUTE_ENGINES = ("tensor", "vector", "scalar", "gpsimd")


class Engine:
    """A compute engine: it takes its instructions in order, each when the one before is issued."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.free_ns = 0.0
        self.busy_ns = 0.0


class DmaQueue:
    """An in-order queue of transfers: one moves data at a time, the next is already triggered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.trigger_ns = 0.0
        self.free_ns = 0.0


class DmaPool:
    """The DMA engines together, which all queues share.

    A transfer needs all engines for `busy_ns`, or a part of them for longer. Transfers that come
    first in the program take what they can use, later ones what is left: no capacity stays unused
    while a transfer could use it, and a transfer that waits for its data does not hold up a later
    one. `_times[i]` to `_times[i + 1]` has `_levels[i]` of the capacity taken.
    """

    def __init__(self) -> None:
        self._times = [0.0]
        self._levels = [0.0]
        self.busy_ns = 0.0

    def reserve(self, start_ns: float, busy_ns: float, alone_ns: float) -> float:
        """Take the capacity that a transfer needs from `start_ns` on, and return when it ends."""
        self.busy_ns += busy_ns
        if busy_ns <= 0.0:
            return start_ns
        fastest = min(1.0, busy_ns / alone_ns) if alone_ns > 0.0 else 1.0
        i = self._split(start_ns)
        work, time = busy_ns, start_ns
        while True:
            rate = min(fastest, 1.0 - self._levels[i])
            last = i + 1 == len(self._times)
            if rate > 1e-9:
                end = time + work / rate
                if last or end <= self._times[i + 1]:
                    self._split(end)
                    self._take(i, rate)
                    return end
                work -= rate * (self._times[i + 1] - time)
                i = self._take(i, rate)
            i += 1
            time = self._times[i]

    def _split(self, time: float) -> int:
        """Make `time` a boundary and return its position."""
        i = bisect_right(self._times, time) - 1
        if self._times[i] == time:
            return i
        self._times.insert(i + 1, time)
        self._levels.insert(i + 1, self._levels[i])
        return i + 1

    def _take(self, i: int, rate: float) -> int:
        """Raise a level, join it with an equal one before, and return its position."""
        level = self._levels[i] + rate
        self._levels[i] = 1.0 if level > 1.0 - 1e-9 else level
        if i and self._levels[i - 1] == self._levels[i]:
            del self._times[i], self._levels[i]
            return i - 1
        return i


class Port:
    """A memory interface that some engines cannot use at the same time."""

    def __init__(self, engines: Collection[str]) -> None:
        self.uses: dict[str, deque[tuple[float, float]]] = {e: deque() for e in engines}

    def first_gap(self, engine: Engine, start_ns: float, busy_ns: float) -> float:
        """Return the first time from `start_ns` on at which no other engine uses the port."""
        moved = True
        while moved:
            moved = False
            for name, uses in self.uses.items():
                if name == engine.name:
                    continue
                while uses and uses[0][1] <= engine.free_ns:
                    uses.popleft()
                for begin, end in uses:
                    if start_ns + busy_ns <= begin:
                        break
                    if end > start_ns:
                        start_ns, moved = end, True
        return start_ns

    def use(self, engine: Engine, start_ns: float, busy_ns: float) -> None:
        """Note a use; uses of one engine come in order of time."""
        self.uses[engine.name].append((start_ns, start_ns + busy_ns))


QUEUE_CLASSES = ("load", "weight", "store", "copy")


class Machine:
    """All engines of a target, and the time up to now.

    `held` is what the array of the tensor engine keeps, to be compared with what the next matmul
    wants.
    """

    def __init__(self, target: Target, used_engines: Iterable[str]) -> None:
        used = set(used_engines)
        self.target = target
        self.engines = {name: Engine(name) for name in COMPUTE_ENGINES}
        self.queues = [DmaQueue(f"dma{i}") for i in range(target.dma.queues)]
        self.pool = DmaPool()
        self.end_ns = 0.0
        self.held: object = None
        self.ports = {
            memory: _port(exclusive, used)
            for memory, exclusive in (
                ("sbuf", target.sbuf.exclusive_engines),
                ("psum", target.psum.exclusive_engines),
            )
        }

    def ports_of(self, engine: str, memories: Collection[str]) -> tuple[Port, ...]:
        """Return the ports that an engine must have to itself to use `memories`."""
        found = (self.ports[m] for m in memories if m in self.ports)
        return tuple(p for p in found if p is not None and engine in p.uses)

    def queue_of(self, queue_class: str, instruction: int) -> DmaQueue:
        """Return the queue of the i-th transfer of its class in a kernel.

        Every class has its share of the queues, so that what waits for a result to store does not
        hold up what loads the next operand.
        """
        count = len(self.queues)
        share = max(1, count // len(QUEUE_CLASSES))
        first = QUEUE_CLASSES.index(queue_class) * share
        return self.queues[(first + instruction % share) % count]

    def busy_ns(self) -> dict[str, float]:
        """Return how long every engine was busy; for `dma`, all DMA engines together."""
        busy = {name: engine.busy_ns for name, engine in self.engines.items()}
        return busy | {"dma": self.pool.busy_ns}


def _port(exclusive: Collection[str], used: set[str]) -> Port | None:
    present = [e for e in exclusive if e in used]
    return Port(present) if len(present) > 1 else None
