"""List scheduling: in which order in-order queues take instructions, so that the last ends early.

Greedy: whenever a queue is free, it takes of what could start the instruction with the longest way
to the end. Blocks, instructions of one queue, stay together and in their order.

Source: R. L. Graham, Bounds on Multiprocessing Timing Anomalies (1969), with critical paths as
priorities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import accumulate
from math import inf

from polystage.planner.task_blocks import Blocks, Task


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Tasks in an order that respects `after`, the bank of every life, and when tasks end.

    `blocks` are the blocks in the same order.
    """

    order: tuple[int, ...]
    banks: tuple[int, ...]
    blocks: tuple[int, ...] = field(default=(), compare=False)
    end_ns: tuple[float, ...] = field(default=(), compare=False)

    @property
    def last_ns(self) -> float:
        """When all tasks have ended."""
        return max(self.end_ns)


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
    blocks: Blocks,
    banks: Sequence[int] = (),
    ahead: int = 0,
    urgency: Sequence[float] | None = None,
    sequence: Sequence[int] | None = None,
    *,
    leaves_ports: bool = False,
) -> Scheduled | None:
    """Return tasks in a good order, or None where none is found.

    A queue takes the block of the greatest `urgency`, by default the longest way to the end. A life
    takes one of the `banks`, if there are any, from its first task until all its tasks have ended.
    Only the first
    `ahead` blocks, in the order of `sequence`, of those with part in a life may begin one, and all
    but the very first leave two banks: what runs far ahead would hold banks for long, or hold all
    of them and wait for what comes before; then there is no order. The sequence is that of the
    first tasks, if none is given. With `leaves_ports` a queue takes something else while another
    queue holds a port that the most urgent block needs first; else it waits for that.
    """
    scheduler = _Scheduler(
        blocks,
        _Banks(blocks.tasks, banks),
        ahead,
        blocks.ways_ns() if urgency is None else urgency,
        range(len(blocks.members)) if sequence is None else sequence,
        leaves_ports,
    )
    return scheduler.run()


def time_of_order(tasks: Sequence[Task]) -> float:
    """Return when the last task ends if every queue takes its tasks in the order given.

    Tasks that their queue orders have to be begun by time nevertheless: they meet at ports and at
    the DMA engines.
    """
    before: dict[int, int] = {}
    ordered: list[Task] = []
    for i, task in enumerate(tasks):
        previous = (before[task.queue],) if task.queue in before else ()
        ordered.append(replace(task, after=(*task.after, *previous)))
        before[task.queue] = i
    found = list_schedule(Blocks(ordered, ()))
    assert found is not None, "tasks come after those that they need"
    return found.last_ns


_RESERVE = 2
"""Banks that are left to what comes first."""


class _Banks:
    """Which bank every life has, and when a bank is free."""

    def __init__(self, tasks: Sequence[Task], banks: Sequence[int]) -> None:
        self.free: dict[int, float] = dict.fromkeys(banks, 0.0)
        self.any = bool(self.free)
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
        if not self.any:
            return start
        for life in task.lives:
            if life not in self.of_life:
                bank = min(self.free, key=lambda b: self.free[b])
                start = max(start, self.free.pop(bank))
                self.of_life[life] = bank
        return start

    def leave(self, task: Task, end_ns: float) -> bool:
        """Note when a task ends, and return whether that frees a bank."""
        freed = False
        if not self.any:
            return freed
        for life in task.lives:
            self.end_ns[life] = max(self.end_ns.get(life, 0.0), end_ns)
            self.left[life] -= 1
            if not self.left[life]:
                self.free[self.of_life[life]] = self.end_ns[life]
                freed = True
        return freed


class _Scheduler:
    """Blocks are known by their turns, their places in `sequence`."""

    def __init__(
        self,
        blocks: Blocks,
        banks: _Banks,
        ahead: int,
        urgency: Sequence[float],
        sequence: Sequence[int],
        leaves_ports: bool,
    ) -> None:
        self.blocks = blocks
        self.leaves_ports = leaves_ports
        self.tasks = blocks.tasks
        self.ahead = ahead
        self.banks = banks
        self.urgency = urgency
        self.sequence = sequence
        self.end_ns = [0.0] * len(blocks.tasks)
        self.queues = [_Queue() for _ in range(1 + max(blocks.queues))]
        self.port_free: dict[int, tuple[float, int]] = {}
        self.engines_free_ns = 0.0
        self.turn = [0] * len(sequence)
        for turn, number in enumerate(sequence):
            self.turn[number] = turn
        self.lives = [blocks.lives[number] if banks.free else set() for number in sequence]
        self.started = [False] * len(sequence)
        self.place = list(accumulate(map(bool, self.lives), initial=0))
        """Blocks with part in a life that come before."""
        self.first = 0
        """All blocks before have started, or have no part in a life."""

    def run(self) -> Scheduled | None:
        """Return the order."""
        found: list[int] = []
        missing = list(self.blocks.missing)
        for number, others in enumerate(missing):
            if not others:
                self._offer(number)
        while (turn := self._choose()) is not None:
            number = self.sequence[turn]
            for i in self.blocks.members[number]:
                self._start(i)
            self.started[turn] = True
            if self.first == turn:
                self._offer_again()
            found.append(number)
            for follower in self.blocks.followers[number]:
                missing[follower] -= 1
                if not missing[follower]:
                    self._offer(follower)
        if len(found) < len(self.sequence):
            return None
        order = tuple(i for number in found for i in self.blocks.members[number])
        banks = (self.banks.of_life[life] for life in range(len(self.banks.of_life)))
        return Scheduled(order, tuple(banks), tuple(found), tuple(self.end_ns))

    def _offer(self, number: int) -> None:
        """Give a block to its queue, for the time when none of its tasks would have to wait."""
        blocks, end_ns = self.blocks, self.end_ns
        ready, offset = 0.0, 0.0
        for i in blocks.members[number]:
            for j in blocks.waits[i]:
                if end_ns[j] - offset > ready and blocks.of_task[j] != number:
                    ready = end_ns[j] - offset
            offset += self.tasks[i].busy_ns
        heappush(self.queues[blocks.queues[number]].later, (ready, self.turn[number]))

    def _choose(self) -> int | None:
        """Take the block that starts next from its queue, if there is room for it in the banks."""
        while True:
            now, queue = inf, None
            for other in self.queues:
                if (next_ns := other.next_ns()) < now:
                    now, queue = next_ns, other
            if queue is None:
                return None
            while queue.later and queue.later[0][0] <= now:
                _, turn = heappop(queue.later)
                heappush(queue.now, (-self.urgency[self.sequence[turn]], turn))
            if queue.bank_ns <= now:
                queue.try_banks()
            while queue.now:
                entry = heappop(queue.now)
                if self.leaves_ports and (port_ns := self._port_ns(entry[1])) > now:
                    heappush(queue.later, (port_ns, entry[1]))
                    continue
                room_ns = self._room_ns(entry[1])
                if room_ns <= now:
                    return entry[1]
                queue.for_bank.append(entry)
                queue.bank_ns = min(queue.bank_ns, room_ns)

    def _port_ns(self, turn: int) -> float:
        """Return when no other queue holds a port that a block needs first."""
        task = self.tasks[self.blocks.members[self.sequence[turn]][0]]
        return max((self._port_free_ns(bit, task.queue) for bit in _PORTS[task.ports]), default=0.0)

    def _port_free_ns(self, bit: int, queue: int) -> float:
        free_ns, holder = self.port_free.get(bit, (0.0, queue))
        return 0.0 if holder == queue else free_ns

    def _room_ns(self, turn: int) -> float:
        """Return when there are banks for a block."""
        if not self.lives[turn]:
            return 0.0
        while self.first < turn and (self.started[self.first] or not self.lives[self.first]):
            self.first += 1
        ahead = self.place[turn] - self.place[self.first]
        return self.banks.room_ns(self.lives[turn], ahead) if ahead <= self.ahead else inf

    def _offer_again(self) -> None:
        """Let all blocks try that wait for banks."""
        for queue in self.queues:
            queue.try_banks()

    def _start(self, i: int) -> None:
        """Run a task on its queue, which takes tasks in turn."""
        task = self.tasks[i]
        queue = self.queues[task.queue]
        start = queue.free_ns
        if task.lives:
            start = max(start, self.banks.enter(task))
        for j in self.blocks.waits[i]:
            start = max(start, self.end_ns[j])
        if task.startup_ns:
            move = start + task.startup_ns
            self.engines_free_ns = max(self.engines_free_ns, move) + task.busy_ns
            self.end_ns[i] = max(move + task.latency_ns, self.engines_free_ns)
            queue.free_ns = max(start, self.end_ns[i] - task.startup_ns)
            return
        for bit in _PORTS[task.ports]:
            start = max(start, self._port_free_ns(bit, task.queue))
        is_held = task.held >= 0 and task.held == queue.held
        busy = task.held_busy_ns if is_held else task.busy_ns
        queue.held, queue.free_ns = task.held, start + busy
        self.end_ns[i] = start + task.latency_ns
        for bit in _PORTS[task.ports]:
            self.port_free[bit] = (start + busy, task.queue)
        if task.lives and self.banks.leave(task, self.end_ns[i]):
            self._offer_again()


_PORTS = ((), (1,), (2,), (1, 2))
"""The ports of a task, by its bits."""
