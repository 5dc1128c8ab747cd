"""List scheduling: in which order in-order queues take instructions, so that the last ends early.

Greedy: whenever a queue is free, it takes of what could start the instruction with the longest way
to the end. Blocks, instructions of one queue, stay together and in their order.

Source: R. L. Graham, Bounds on Multiprocessing Timing Anomalies (1969), with critical paths as
priorities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate
from math import inf


@dataclass(frozen=True, slots=True)
class Task:
    """An instruction: its queue, how long it keeps that, when its result is there.

    It comes after the tasks of `after`, and starts when those of `waits` have ended, which are
    among them. `held` says that it takes `held_busy_ns` where the task before in its queue has the
    same number; `ports` are bits: of two queues only one uses a port. A transfer moves `startup_ns`
    after it was triggered, behind the one before, and needs all DMA engines for `busy_ns`. `lives`
    are the contents of banks that it has part in.
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
    lives: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Tasks in an order that respects `after`, and the bank of every life."""

    order: tuple[int, ...]
    banks: tuple[int, ...]


@dataclass(slots=True)
class _Block:
    tasks: Sequence[int]
    queue: int
    way_ns: float
    missing: int = 0
    followers: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class _Queue:
    """Blocks that nothing is missing of: those that wait for a time, those that could start, and
    those that wait for banks, the first of which may be free at `bank_ns`."""

    free_ns: float = 0.0
    held: int = -1
    later: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    now: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    for_bank: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    bank_ns: float = inf

    def next_ns(self) -> float:
        """Return when the queue can take a block, infinity where there is none."""
        if self.now:
            return self.free_ns
        first = min(self.later[0][0] if self.later else inf, self.bank_ns)
        return max(self.free_ns, first)

    def try_banks(self) -> None:
        """Let blocks try that wait for banks."""
        for entry in self.for_bank:
            heappush(self.now, entry)
        self.for_bank.clear()
        self.bank_ns = inf


def list_schedule(
    tasks: Sequence[Task],
    together: Sequence[Sequence[int]],
    banks: Sequence[int] = (),
    ahead: int = 0,
) -> Scheduled | None:
    """Return tasks in a good order, or None where none is found.

    Tasks come after those that they need. `together` are the blocks of more than one task. A life
    takes one of the `banks` from its first task until all its tasks have ended. Only the first
    `ahead` blocks, in the order given, of those with part in a life may begin one, and all but the
    very first leave two banks: what runs far ahead would hold banks for long, or hold all of them
    and wait for what comes before; then there is no order.
    """
    return _Scheduler(tasks, together, _Banks(tasks, banks), ahead).run()


_RESERVE = 2
"""Banks that are left to what comes first."""


class _Banks:
    """Which bank every life has, and when a bank is free."""

    def __init__(self, tasks: Sequence[Task], banks: Sequence[int]) -> None:
        self.free: dict[int, float] = dict.fromkeys(banks, 0.0)
        self.of_life: dict[int, int] = {}
        self.left = Counter(life for task in tasks for life in task.lives)
        self.end_ns: dict[int, float] = {}

    def room_ns(self, lives: Collection[int], ahead: int) -> float:
        """Return when there are banks for a block with part in some lives, before which so many
        others may need banks; infinity where that is not known."""
        new = sum(life not in self.of_life for life in lives)
        if not new:
            return 0.0
        if new + (_RESERVE if ahead else 0) > len(self.free):
            return inf
        return sorted(self.free.values())[new - 1]

    def enter(self, task: Task) -> float:
        """Give new lives of a task the banks that are free first, and return when they are."""
        start = 0.0
        for life in task.lives:
            if life not in self.of_life:
                bank = min(self.free, key=lambda b: self.free[b])
                start = max(start, self.free.pop(bank))
                self.of_life[life] = bank
        return start

    def leave(self, task: Task, end_ns: float) -> bool:
        """Note when a task ends, and return whether that frees a bank."""
        freed = False
        for life in task.lives:
            self.end_ns[life] = max(self.end_ns.get(life, 0.0), end_ns)
            self.left[life] -= 1
            if not self.left[life]:
                self.free[self.of_life[life]] = self.end_ns[life]
                freed = True
        return freed


class _Scheduler:
    def __init__(
        self,
        tasks: Sequence[Task],
        together: Sequence[Sequence[int]],
        banks: _Banks,
        ahead: int,
    ) -> None:
        self.tasks = tasks
        self.ahead = ahead
        self.banks = banks
        self.end_ns = [0.0] * len(tasks)
        self.queues = [_Queue() for _ in range(1 + max(t.queue for t in tasks))]
        self.port_free: dict[int, tuple[float, int]] = {}
        self.engines_free_ns = 0.0
        self.blocks, self.block_of = _blocks(tasks, together)
        self.lives = [{n for i in b.tasks for n in tasks[i].lives} for b in self.blocks]
        self.started = [False] * len(self.blocks)
        self.place = list(accumulate(map(bool, self.lives), initial=0))
        """Blocks with part in a life that come before."""
        self.first = 0
        """All blocks before have started, or have no part in a life."""
        for number, block in enumerate(self.blocks):
            needed = {self.block_of[j] for i in block.tasks for j in tasks[i].after} - {number}
            block.missing = len(needed)
            for other in needed:
                self.blocks[other].followers.append(number)

    def run(self) -> Scheduled | None:
        """Return the order."""
        order: list[int] = []
        for number, block in enumerate(self.blocks):
            if not block.missing:
                self._offer(number)
        while (chosen := self._choose()) is not None:
            block = self.blocks[chosen]
            for i in block.tasks:
                self._start(i)
            self.started[chosen] = True
            if self.first == chosen:
                self._offer_again()
            order += block.tasks
            for follower in block.followers:
                self.blocks[follower].missing -= 1
                if not self.blocks[follower].missing:
                    self._offer(follower)
        if len(order) < len(self.tasks):
            return None
        of_life = self.banks.of_life
        return Scheduled(tuple(order), tuple(of_life[n] for n in range(len(of_life))))

    def _offer(self, number: int) -> None:
        """Give a block to its queue, for the time when none of its tasks would have to wait."""
        ready, offset = 0.0, 0.0
        for i in self.blocks[number].tasks:
            others = (j for j in self.tasks[i].waits if self.block_of[j] != number)
            ready = max([ready, *(self.end_ns[j] - offset for j in others)])
            offset += self.tasks[i].busy_ns
        heappush(self.queues[self.blocks[number].queue].later, (ready, number))

    def _choose(self) -> int | None:
        """Take the block that starts next from its queue, if there is room for it in the banks."""
        while True:
            now, queue = min(((q.next_ns(), q) for q in self.queues), key=lambda pair: pair[0])
            if now == inf:
                return None
            while queue.later and queue.later[0][0] <= now:
                _, number = heappop(queue.later)
                heappush(queue.now, (-self.blocks[number].way_ns, number))
            if queue.bank_ns <= now:
                queue.try_banks()
            while queue.now:
                entry = heappop(queue.now)
                room_ns = self._room_ns(entry[1])
                if room_ns <= now:
                    return entry[1]
                queue.for_bank.append(entry)
                queue.bank_ns = min(queue.bank_ns, room_ns)

    def _room_ns(self, number: int) -> float:
        """Return when there are banks for a block."""
        if not self.lives[number]:
            return 0.0
        while self.first < number and (self.started[self.first] or not self.lives[self.first]):
            self.first += 1
        ahead = self.place[number] - self.place[self.first]
        return self.banks.room_ns(self.lives[number], ahead) if ahead <= self.ahead else inf

    def _offer_again(self) -> None:
        """Let all blocks try that wait for banks."""
        for queue in self.queues:
            queue.try_banks()

    def _start(self, i: int) -> None:
        """Run a task on its queue, which takes tasks in turn."""
        task = self.tasks[i]
        queue = self.queues[task.queue]
        entered = self.banks.enter(task)
        start = max([queue.free_ns, entered, *(self.end_ns[j] for j in task.waits)])
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
        if self.banks.leave(task, self.end_ns[i]):
            self._offer_again()

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
