"""Which operators run together with their arrays on chip: runs of them, as long as they fit."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from polystage.planner.residency.placement import Life, Piece, Placement, place

MOST_WITH_SLACK = 0.4
"""With slack, arrays take at most this part of the scratchpad: the rest is for weights, which come
ahead."""

MIN_OPERATORS = 2
"""Fewer than these have no array between them."""

SLACK = 6
"""For so many operators more than it is used a buffer stays, where there is room: what takes its
place waits for the last instruction that reads it, however early it could run itself."""


@dataclass(frozen=True)
class Operator:
    """What an operator touches: arrays by name, and the bytes per partition of the pieces in which
    its weights come."""

    reads: tuple[Hashable, ...]
    writes: tuple[Hashable, ...]
    weights: tuple[int, ...] = ()


@dataclass(frozen=True)
class Group:
    """Operators `first` to `last`: the address of every array that they touch, and the pieces of
    every one's weights, whose positions count from the group's first operator."""

    first: int
    last: int
    addresses: Mapping[Hashable, int]
    pieces: tuple[tuple[Piece, ...], ...]


def plan_groups(
    operators: Sequence[Operator | None],
    sizes: Mapping[Hashable, int],
    everywhere: Sequence[Hashable],
    capacity: int,
) -> list[Group]:
    """Return the groups of a program; an operator that cannot run in one is None.

    A group goes on until an operator cannot run in it, or does not fit with what is live. `sizes`
    are the bytes of arrays; those of `everywhere` are live all the time.

    Units: bytes per partition.
    """
    groups: list[Group] = []
    first = 0
    while first < len(operators):
        last = first
        while last < len(operators) and operators[last] is not None:
            last += 1
        found = _longest(operators[first:last], sizes, everywhere, capacity)
        if found is not None:
            count = len(found[1].pieces)
            addresses = dict(zip(found[0], found[1].arrays, strict=True))
            groups.append(Group(first, first + count - 1, addresses, found[1].pieces))
            first += count
        else:
            first += 1
    return groups


def _longest(
    operators: Sequence[Operator | None],
    sizes: Mapping[Hashable, int],
    everywhere: Sequence[Hashable],
    capacity: int,
) -> tuple[list[Hashable], Placement] | None:
    """Return arrays and places of the longest run from the first operator that fits."""
    run = [operator for operator in operators if operator is not None]
    while len(run) >= MIN_OPERATORS:
        peak = _first_overflow(run, _lives(run, everywhere), sizes, capacity)
        if peak is not None:
            run = run[:peak]
            continue
        found = _placed(run, everywhere, sizes, capacity)
        if found is not None:
            return found
        run = run[:-1]
    return None


def _placed(
    run: Sequence[Operator],
    everywhere: Sequence[Hashable],
    sizes: Mapping[Hashable, int],
    capacity: int,
) -> tuple[list[Hashable], Placement] | None:
    """Return arrays and places, with slack where arrays leave room enough for weights."""
    weights = [operator.weights for operator in run]
    for slack in (SLACK, 0):
        lives = _lives(run, everywhere, slack)
        if slack and _peak(lives, sizes, len(run)) > capacity * MOST_WITH_SLACK:
            continue
        placement = place([(life, sizes[a]) for a, life in lives.items()], weights, capacity)
        if placement is not None:
            return list(lives), placement
    return None


def _peak(lives: Mapping[Hashable, Life], sizes: Mapping[Hashable, int], positions: int) -> int:
    """Return the bytes of all arrays where they are most."""
    used = [0] * positions
    for array, (first, last) in lives.items():
        for position in range(first, last + 1):
            used[position] += sizes[array]
    return max(used)


def _lives(
    run: Sequence[Operator], everywhere: Sequence[Hashable], slack: int = 0
) -> dict[Hashable, Life]:
    lives: dict[Hashable, Life] = {array: (0, len(run) - 1) for array in everywhere}
    for number, operator in enumerate(run):
        for array in (*operator.reads, *operator.writes):
            last = min(number + slack, len(run) - 1)
            lives[array] = lives.get(array, (number, number))[0], last
    return lives


def _first_overflow(
    run: Sequence[Operator],
    lives: Mapping[Hashable, Life],
    sizes: Mapping[Hashable, int],
    capacity: int,
) -> int | None:
    """Return the first operator whose arrays and weights are more than the capacity."""
    used = [sum(operator.weights) for operator in run]
    for array, (first, last) in lives.items():
        for position in range(first, last + 1):
            used[position] += sizes[array]
    return next((n for n, size in enumerate(used) if size > capacity), None)
