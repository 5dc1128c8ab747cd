"""Data dependences between statement instances, array by array, and what they are made from.

All three kinds are value-based: a flow dependence runs from the *last* write of an element to the
read, an anti dependence from a read to the *next* write, an output dependence from a write to the
next write. Everything else follows by transitivity. An inexact access ("some part of the array")
takes part as a possible one: it never hides an earlier write.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import islpy as isl

from polystage.polyhedral.model import Access, Statement


class DependenceKind(StrEnum):
    """Which accesses a dependence orders."""

    FLOW = "flow"
    """Write, then read of that value."""
    ANTI = "anti"
    """Read, then the next write."""
    OUTPUT = "output"
    """Write, then the next write."""


@dataclass(frozen=True)
class Dependence:
    """Instances of `target` that must run after instances of `source`."""

    kind: DependenceKind
    array: str
    source: str
    target: str
    map: isl.Map = field(repr=False)
    """Source instance to target instance."""


@dataclass(frozen=True)
class Dependences:
    """All dependences of a program, ordered by array, target and source."""

    all: tuple[Dependence, ...]
    live_in: dict[tuple[str, str], isl.Map] = field(repr=False)
    """Statement and array to the reads of elements that no statement has written before."""

    def __iter__(self) -> Iterator[Dependence]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def of_kind(self, kind: DependenceKind | str) -> list[Dependence]:
        """Return the flow, anti or output dependences."""
        return [dependence for dependence in self.all if dependence.kind == kind]

    @cached_property
    def _by_target(self) -> dict[str, list[Dependence]]:
        found: dict[str, list[Dependence]] = defaultdict(list)
        for dependence in self.all:
            found[dependence.target].append(dependence)
        return found

    def into(self, statement: str) -> list[Dependence]:
        """Return the dependences whose target is `statement`."""
        return self._by_target.get(statement, [])


@dataclass(frozen=True)
class Event:
    """What one statement does to one array."""

    statement: Statement
    reads: isl.Map | None
    writes: isl.Map | None
    """The exact writes."""
    may_writes: isl.Map | None


def event_of(array: str, statement: Statement) -> Event:
    """Return what `statement` does to `array`."""
    reads = [access for access in statement.reads if access.array == array]
    writes = [access for access in statement.writes if access.array == array]
    return Event(
        statement,
        union_of(reads),
        union_of([access for access in writes if access.is_exact]),
        union_of([access for access in writes if not access.is_exact]),
    )


def union_of(accesses: Iterable[Access]) -> isl.Map | None:
    """Return the union of access maps, or None where there are none."""
    total: isl.Map | None = None
    for access in accesses:
        total = access.map if total is None else total.union(access.map)
    return total
