"""Orders of tasks from list schedules forwards and backwards.

The way to the end says how urgent a block is as if it were alone. Where many have the same way,
the parts of one layer that all engines work on, the order is that of the program, breadth first.
A schedule of the tasks with time reversed knows more: what queues have to do after a block, with
all that is in their way. That as urgency gives the schedule forwards.

Source: K. Y. Li and R. J. Willis, An iterative scheduling technique for resource-constrained
project scheduling (1992); what they repeat, we do once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from polystage.planner.list_schedule import Scheduled, list_schedule
from polystage.planner.task_blocks import Blocks


def schedules(blocks: Blocks, banks: Sequence[int] = ()) -> Iterator[Scheduled]:
    """Yield schedules, those first that are often the best.

    With `banks`, the first is made along the schedule that has as many as it wants: what it does
    first may begin lives first. The others keep to the order of the program.
    """
    ways = blocks.ways_ns()
    urgency = _time_left(blocks)
    wanted = None if urgency is None else list_schedule(blocks, urgency=urgency)
    if wanted is not None and banks:
        yield from _known(list_schedule(blocks, banks, _FAR, urgency, wanted.blocks))
        yield from _known(list_schedule(blocks, banks, _NEAR, urgency))
    yield from _known(list_schedule(blocks, banks, _FAR, ways))
    yield from _known(list_schedule(blocks, banks, _NEAR, ways) if banks else wanted)


_NEAR, _FAR = 24, 64
"""How many blocks may begin lives: neither is best for all kernels."""


def _time_left(blocks: Blocks) -> list[float] | None:
    """Return how long before the end every block starts in a schedule backwards."""
    found = list_schedule(blocks.backward())
    return None if found is None else blocks.longest(found.end_ns[::-1])


def _known(found: Scheduled | None) -> Iterator[Scheduled]:
    if found is not None:
        yield found
