"""Where the buffers of a plan lie: bytes that fit are of no use without addresses that do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from polystage.allocation import BUFFER_ALIGNMENT_BYTES, Memory, Problem, aligned, allocate
from polystage.allocation import Buffer as Placed
from polystage.planner.fusion.decisions import Place, Plan
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import GroupSchedule

EFFORT = 5_000_000
"""Steps of the exact search at most: the few hundred buffers of a plan take a fraction of that."""


@dataclass(frozen=True)
class Placement:
    """An address for everything that is on chip."""

    groups: tuple[tuple[int, ...], ...]
    """By group, for each buffer of its schedule; steps follow each other at the same addresses."""
    resident: Mapping[str, int]
    """By array."""


def place(
    program: Program, plan: Plan, schedules: Sequence[GroupSchedule], capacity: int
) -> Placement:
    """Return addresses such that what is on chip at the same time shares no byte.

    The time is the operators', one after another: a buffer of a group lives in every step during
    the same operators, and what its contents outlast a step for, during all of the group.

    Raises:
        DoesNotFitError: none were found.
    """
    starts = list(accumulate((len(group.operators) for group in plan.groups), initial=0))
    buffers = [
        _placed(f"group {number}", start + first, start + last + 1, buffer.bytes)
        for number, (start, steps) in enumerate(zip(starts, schedules, strict=False))
        for buffer in steps.buffers
        for first, last in [buffer.operators]
    ]
    owners = _owners(schedules)
    lives = _lives(plan, owners)
    for name, (first, last) in lives.items():
        size = aligned(program.arrays[name].size_bytes)
        buffers.append(_placed(name, starts[first], starts[last + 1], size))
    found = allocate(Problem(buffers, (Memory(capacity=capacity),)), EFFORT).addresses
    ends = list(accumulate((len(steps.buffers) for steps in schedules), initial=0))
    at = dict(zip(lives, found[ends[-1] :], strict=True))
    return Placement(
        tuple(found[start:end] for start, end in pairwise(ends)),
        {name: at[owners.get(name, name)] for name in plan.resident},
    )


def _placed(name: str, start: int, end: int, size: int) -> Placed:
    return Placed(name, start, end, size, alignment=BUFFER_ALIGNMENT_BYTES)


def _owners(schedules: Sequence[GroupSchedule]) -> dict[str, str]:
    """Return in whose buffer each array lies that takes the place of others, one after another."""
    owners: dict[str, str] = {}
    for steps in schedules:
        owners |= {name: owners.get(owner, owner) for name, owner in steps.shares.items()}
    return owners


def _lives(plan: Plan, owners: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return the first and the last group that touches each resident array, or one that takes its
    place."""
    lives: dict[str, tuple[int, int]] = {}
    for number, group in enumerate(plan.groups):
        for name, where in group.places.items():
            if where is Place.RESIDENT:
                owner = owners.get(name, name)
                lives[owner] = lives.get(owner, (number, number))[0], number
    return lives
