"""Which operators run together with their arrays on chip: runs of them, as long as they fit."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from polystage.planner.residency.prefetch import Life, load_positions

MIN_OPERATORS = 2
"""Fewer than these have no array between them."""


@dataclass(frozen=True)
class Operator:
    """What an operator touches: arrays by name, the bytes per partition of its weights, and those
    that it needs beside both while it runs."""

    reads: tuple[Hashable, ...]
    writes: Hashable
    weight_bytes: int
    scratch_bytes: int = 0


@dataclass(frozen=True)
class Group:
    """Operators `first` to `last`, and before which of them the weights of each start to load."""

    first: int
    last: int
    loads: tuple[int, ...]


def plan_groups(
    operators: Sequence[Operator | None], array_bytes: Mapping[Hashable, int], capacity: int
) -> list[Group]:
    """Return the groups of a program; an operator that cannot run in one is None.

    A group goes on until an operator cannot run in it, or does not fit with what is live.

    Units: bytes per partition.
    """
    groups: list[Group] = []
    first = 0
    while first < len(operators):
        last, loads = first - 1, None
        while last + 1 < len(operators) and operators[last + 1] is not None:
            longer = _loads(operators[first : last + 2], array_bytes, capacity)
            if longer is None:
                break
            last, loads = last + 1, longer
        if loads is not None and last - first + 1 >= MIN_OPERATORS:
            groups.append(Group(first, last, tuple(first + n for n in loads)))
        first = max(last, first) + 1
    return groups


def _loads(
    operators: Sequence[Operator | None], array_bytes: Mapping[Hashable, int], capacity: int
) -> list[int] | None:
    run = [operator for operator in operators if operator is not None]
    lives: dict[Hashable, Life] = {}
    for number, operator in enumerate(run):
        for array in (*operator.reads, operator.writes):
            lives[array] = lives.get(array, (number, number))[0], number
    arrays = [(life, array_bytes[array]) for array, life in lives.items()]
    arrays += [((n, n), o.scratch_bytes) for n, o in enumerate(run) if o.scratch_bytes]
    return load_positions([operator.weight_bytes for operator in run], arrays, capacity)
