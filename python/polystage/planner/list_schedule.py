"""List scheduling: in which order in-order queues take instructions, so that the last ends early.

Greedy: whenever a queue is free, it takes of what could start the instruction with the longest way
to the end. Blocks, instructions of one queue, stay together and in their order.

Source: R. L. Graham, Bounds on Multiprocessing Timing Anomalies (1969), with critical paths as
priorities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush


@dataclass(frozen=True, slots=True)
class Task:
    """An instruction: its queue, how long it keeps that, when its result is there.

    It comes after the tasks of `after`, and starts when those of `waits` have ended, which are
    among them. `held` says that it takes `held_busy_ns` where the task before in its queue has the
    same number; `ports` are bits: of two queues only one uses a port. A transfer moves `startup_ns`
    after it was triggered, behind the one before, and needs all DMA engines for `busy_ns`.
    """

    queue: int
    busy_ns: float
    latency_ns: float
    after: tuple[int, ...]
    waits: tuple[int, ...]
    ports: int = 0
    held: int = -1
    held_busy_ns: float = 0.0
    startup_ns: float = 0.0


@dataclass(slots=True)
class _Block:
    tasks: Sequence[int]
    queue: int
    way_ns: float
    missing: int = 0
    followers: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class _Queue:
    """Blocks that nothing is missing of: those that wait for a time, those that could start."""

    free_ns: float = 0.0
    held: int = -1
    later: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    now: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    def next_ns(self) -> float | None:
        """Return when the queue can take a block; None where there is none."""
        if self.now:
            return self.free_ns
        return max(self.free_ns, self.later[0][0]) if self.later else None


def list_schedule(tasks: Sequence[Task], together: Sequence[Sequence[int]]) -> list[int] | None:
    """Return tasks in an order that respects `after`, or None where blocks wait for each other.

    Tasks come after those that they need. `together` are the blocks of more than one task.
    """
    return _Scheduler(tasks, together).run()


class _Scheduler:
    def __init__(self, tasks: Sequence[Task], together: Sequence[Sequence[int]]) -> None:
        self.tasks = tasks
        self.end_ns = [0.0] * len(tasks)
        self.queues = [_Queue() for _ in range(1 + max(t.queue for t in tasks))]
        self.port_free: dict[int, tuple[float, int]] = {}
        self.engines_free_ns = 0.0
        self.blocks, self.block_of = _blocks(tasks, together)
        for number, block in enumerate(self.blocks):
            needed = {self.block_of[j] for i in block.tasks for j in tasks[i].after} - {number}
            block.missing = len(needed)
            for other in needed:
                self.blocks[other].followers.append(number)

    def run(self) -> list[int] | None:
        """Return the order."""
        order: list[int] = []
        for number, block in enumerate(self.blocks):
            if not block.missing:
                self._offer(number)
        while (chosen := self._choose()) is not None:
            block = self.blocks[chosen]
            for i in block.tasks:
                self._start(i)
            order += block.tasks
            for follower in block.followers:
                self.blocks[follower].missing -= 1
                if not self.blocks[follower].missing:
                    self._offer(follower)
        return order if len(order) == len(self.tasks) else None

    def _offer(self, number: int) -> None:
        """Give a block to its queue, for the time when none of its tasks would have to wait."""
        ready, offset = 0.0, 0.0
        for i in self.blocks[number].tasks:
            others = (j for j in self.tasks[i].waits if self.block_of[j] != number)
            ready = max([ready, *(self.end_ns[j] - offset for j in others)])
            offset += self.tasks[i].busy_ns
        heappush(self.queues[self.blocks[number].queue].later, (ready, number))

    def _choose(self) -> int | None:
        """Take the block that starts next from its queue."""
        times = [(t, q) for q in self.queues if (t := q.next_ns()) is not None]
        if not times:
            return None
        now, queue = min(times, key=lambda pair: pair[0])
        while queue.later and queue.later[0][0] <= now:
            _, number = heappop(queue.later)
            heappush(queue.now, (-self.blocks[number].way_ns, number))
        return heappop(queue.now)[1]

    def _start(self, i: int) -> None:
        """Run a task on its queue, which takes tasks in turn."""
        task = self.tasks[i]
        queue = self.queues[task.queue]
        start = max([queue.free_ns, *(self.end_ns[j] for j in task.waits)])
        if task.startup_ns:
            move = start + task.startup_ns
            self.engines_free_ns = max(self.engines_free_ns, move) + task.busy_ns
            self.end_ns[i] = max(move + task.latency_ns, self.engines_free_ns)
            queue.free_ns = max(start, self.end_ns[i] - task.startup_ns)
            return
        start = max([start, *(free for free, who in self._ports(task) if who != task.queue)])
        is_held = task.held >= 0 and task.held == queue.held
        busy = task.held_busy_ns if is_held else task.busy_ns
        queue.held, queue.free_ns = task.held, start + busy
        self.end_ns[i] = start + task.latency_ns
        for bit in _bits(task.ports):
            self.port_free[bit] = (start + busy, task.queue)

    def _ports(self, task: Task) -> list[tuple[float, int]]:
        return [self.port_free[bit] for bit in _bits(task.ports) if bit in self.port_free]


def _bits(ports: int) -> list[int]:
    return [bit for bit in (1, 2) if ports & bit]


def _blocks(
    tasks: Sequence[Task], together: Sequence[Sequence[int]]
) -> tuple[list[_Block], list[int]]:
    """Return the blocks, in the order of their first tasks, and the block of every task."""
    ways = _ways(tasks)
    grouped = {i for block in together for i in block}
    alone = ([i] for i in range(len(tasks)) if i not in grouped)
    groups = sorted([*together, *alone], key=lambda block: block[0])
    block_of = [0] * len(tasks)
    for number, block in enumerate(groups):
        for i in block:
            block_of[i] = number
    blocks = [_Block(b, tasks[b[0]].queue, max(ways[i] for i in b)) for b in groups]
    return blocks, block_of


def _ways(tasks: Sequence[Task]) -> list[float]:
    """Return how long it takes from the start of every task to the end, with nothing in the way but
    what comes after it."""
    found = [0.0] * len(tasks)
    for i in range(len(tasks) - 1, -1, -1):
        task = tasks[i]
        found[i] += task.startup_ns + task.latency_ns
        for j in task.after:
            found[j] = max(found[j], found[i])
    return found
