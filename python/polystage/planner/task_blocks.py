"""What a list scheduler puts into order: instructions as tasks, in blocks that stay together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


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


class Blocks:
    """Tasks, which come after those that they need, in blocks of one queue each.

    `together` are the blocks of more than one task. `waits` has what a task waits for as far as its
    block does not anyway: of another block the last task, and what no task before it in its own
    block has waited for.
    """

    def __init__(self, tasks: Sequence[Task], together: Sequence[Sequence[int]]) -> None:
        grouped = {i for block in together for i in block}
        alone = ([i] for i in range(len(tasks)) if i not in grouped)
        self.tasks = tasks
        self.together = together
        self.members = sorted([*together, *alone], key=lambda block: block[0])
        self.of_task = [0] * len(tasks)
        for number, block in enumerate(self.members):
            for i in block:
                self.of_task[i] = number
        self.queues = [tasks[block[0]].queue for block in self.members]
        self.lives = [{n for i in block for n in tasks[i].lives} for block in self.members]
        self.missing = [0] * len(self.members)
        self.followers: list[list[int]] = [[] for _ in self.members]
        self.waits: list[list[int]] = [[] for _ in tasks]
        of_task = self.of_task
        for number, block in enumerate(self.members):
            needed = {of_task[j] for i in block for j in tasks[i].after} - {number}
            self.missing[number] = len(needed)
            for other in needed:
                self.followers[other].append(number)
            self._wait(number, block)

    def _wait(self, number: int, block: Sequence[int]) -> None:
        seen: dict[int, int] = {}
        for i in block:
            last: dict[int, int] = {}
            for j in self.tasks[i].waits:
                other = self.of_task[j]
                if j > last.get(other, -1):
                    last[other] = j
            for other, j in last.items():
                if other == number or j > seen.get(other, -1):
                    self.waits[i].append(j)
                    seen[other] = j

    def longest(self, of_tasks: Sequence[float]) -> list[float]:
        """Return the greatest of a number of tasks for every block."""
        return [max(of_tasks[i] for i in block) for block in self.members]

    def ways_ns(self) -> list[float]:
        """Return how long it takes from the start of every block to the end of all tasks, with
        nothing in the way but what comes after it."""
        found = [0.0] * len(self.tasks)
        for i in range(len(self.tasks) - 1, -1, -1):
            task = self.tasks[i]
            found[i] += task.startup_ns + task.latency_ns
            for j in task.after:
                found[j] = max(found[j], found[i])
        return self.longest(found)

    def backward(self) -> Blocks:
        """Return the same with time reversed, without lives: the first task is the last."""
        last = len(self.tasks) - 1
        after: list[list[int]] = [[] for _ in self.tasks]
        waits: list[list[int]] = [[] for _ in self.tasks]
        for i in range(last, -1, -1):
            for j in self.tasks[i].after:
                after[j].append(last - i)
            for j in self.waits[i]:
                waits[j].append(last - i)
        tasks = [
            replace(task, after=tuple(after[i]), waits=tuple(waits[i]), lives=())
            for i, task in reversed(list(enumerate(self.tasks)))
        ]
        return Blocks(tasks, [[last - i for i in reversed(block)] for block in self.together])
