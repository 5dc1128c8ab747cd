"""Orders of tasks from list schedules forwards and backwards.

The way to the end says how urgent a block is as if it were alone. Where many have the same way,
the parts of one layer that all engines work on, the order is that of the program, breadth first.
A schedule of the tasks with time reversed knows more: what queues have to do after a block, with
all that is in their way. That as urgency gives the schedule forwards, which says in turn which
blocks end late, for the next schedule backwards.

Source: K. Y. Li and R. J. Willis, An iterative scheduling technique for resource-constrained
project scheduling (1992).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from polystage.planner.list_schedule import Scheduled, list_schedule
from polystage.planner.task_blocks import Blocks


def schedules(blocks: Blocks, banks: Sequence[int] = ()) -> Iterator[Scheduled]:
    """Yield schedules with `banks`, those first that are often the best."""
    for urgency, wanted in _rounds(blocks):
        yield from _known(_along(blocks, banks, urgency, wanted) if banks else wanted)
    yield from _known(list_schedule(blocks, banks, max(_AHEAD)))


_ROUNDS = 4
"""Schedules backwards; more gain little."""

_AHEAD = (24, 48, 64)
"""How many blocks may begin lives: none is best for all kernels."""


def _rounds(blocks: Blocks) -> Iterator[tuple[Sequence[float], Scheduled]]:
    """Yield schedules that have as many banks as they want, until they repeat themselves, with the
    urgency of every block: how long before the end it starts in a schedule backwards."""
    backward = blocks.backward()
    late: list[float] | None = None
    known_ns: set[float] = set()
    for _ in range(_ROUNDS):
        back = list_schedule(backward, urgency=late)
        if back is None:
            return
        urgency = blocks.longest(back.end_ns[::-1])
        wanted = list_schedule(blocks, urgency=urgency, leaves_ports=True)
        if wanted is None or wanted.last_ns in known_ns:
            return
        yield urgency, wanted
        known_ns.add(wanted.last_ns)
        late = backward.longest(wanted.end_ns[::-1])


def _along(
    blocks: Blocks, banks: Sequence[int], urgency: Sequence[float], wanted: Scheduled
) -> Scheduled | None:
    """Return a schedule in which those begin lives first that do so in another, which had as many
    banks as it wanted; if there is none, those that come first in the program."""
    for sequence in (wanted.blocks, None):
        tried = (
            list_schedule(blocks, banks, ahead, urgency, sequence, leaves_ports=True)
            for ahead in _AHEAD
        )
        found = [schedule for schedule in tried if schedule is not None]
        if found:
            return min(found, key=lambda schedule: schedule.last_ns)
    return None


def _known(found: Scheduled | None) -> Iterator[Scheduled]:
    if found is not None:
        yield found
