"""The exact search for addresses within a capacity.

A partial placement is a *floor* per section (`polystage.allocation.table.Sections`): what is not
placed yet lies on it or above. Only placements in which nothing can move down matter, so:

* A floor rises to the lowest address that any buffer over it can have.
* Where a floor and all that has to go above it exceed the capacity, there is no placement. The
  buffers over a section, stacked in the order of their lowest addresses, must fit, too.
* Over one section, the lowest buffer either lies at the floor, or leaves room: as much as the
  smallest other buffer takes that could be below it, at least. These are the ways to go on. A
  section is chosen over which nothing could leave room elsewhere, so no order of choices comes
  twice.
* Parts of time without a common buffer are placed each for itself.

What failed is explained: by a set of sections whose floors suffice for it. Choices that do not
touch these are not varied (backjumping), and floors that failed are remembered with the buffers
that were left: no higher floors are tried with these again. Orders of trying buffers and sections
take turns in growing attempts (the sequence of Luby), first as they are, then at random, all with
the same memory of failures.

Source: floors, sections and placements in which nothing can move down are those of MiniMalloc
(Moffitt, ASPLOS 2023); the ways to go on, the explanations, the memory of failures and the restarts
are ours.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import inf

import numpy as np

from polystage.allocation.table import FREE, Int64, Table
from polystage.compiled import _core, uses_core

MOST_PLACES = 4000
"""More are not searched for: the search goes as deep as there are places."""
DEFAULT_EFFORT = 1_000_000_000
"""In steps (a look at a place in a section): a few seconds of the compiled core."""


@dataclass(frozen=True)
class Answer:
    """Addresses, or None: there are none if `proven`, else the effort was not enough."""

    addresses: Int64 | None
    proven: bool
    effort: int


def search(table: Table, capacity: int, effort: int = DEFAULT_EFFORT) -> Answer:
    """Return addresses within the capacity, or that there are none, or that `effort` steps were not
    enough; the same answer every time, from the compiled core or without it."""
    if len(table) > MOST_PLACES or effort <= 0:
        return Answer(None, False, 0)
    table = table.padded(capacity)
    unit = table.unit()
    sections = table.sections
    fixed = np.where(table.address == FREE, FREE, table.address // unit)
    length = table.length.astype(np.float64)
    size = table.size // unit
    arguments = (
        sections.start,
        sections.section,
        size,
        np.maximum(table.alignment // unit, 1),
        fixed,
        _kinds(table),
        np.stack([length * size, length, size.astype(np.float64)]),
        sections.count,
        capacity // unit,
        effort,
    )
    if uses_core():
        code, addresses, spent = _core.search_addresses(*arguments)
    else:
        with _deep_recursion(len(table)):
            code, addresses, spent = Search(*arguments).run()
    return Answer(addresses * unit if code == 1 else None, code == 0, spent)


def _kinds(table: Table) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Return equal numbers for places that may be exchanged."""
    sections = table.sections
    seen: dict[object, int] = {}
    kinds = [
        seen.setdefault(
            (
                sections.section[sections.start[p] : sections.start[p + 1]].tobytes(),
                int(table.size[p]),
                int(table.alignment[p]),
                p if table.address[p] != FREE else FREE,
            ),
            p,
        )
        for p in range(len(table))
    ]
    return np.array(kinds, np.int32)


@contextmanager
def _deep_recursion(places: int) -> Generator[None]:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 1000 + 20 * places))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


IMPOSSIBLE, FOUND, UNKNOWN = 0, 1, -1
NOWHERE = -1
FAILURES_OF_A_SET, REMEMBERED = 64, 1 << 22
_MASK = (1 << 64) - 1


@dataclass
class _Node:
    """What is to be placed in the sections [low, high), and why their floors are where they are.

    Sets of sections are integers, section s being bit s.
    """

    low: int
    high: int
    unplaced: list[int] = field(default_factory=list[int])
    key: int = 0
    entry: list[int] = field(default_factory=list[int])
    causes: dict[int, int] = field(default_factory=dict[int, int])


class Search:
    """The twin of `Search` in core/allocation_search.cpp: statement by statement the same."""

    def __init__(
        self,
        start: Int64,
        sections: np.ndarray[tuple[int], np.dtype[np.int32]],
        size: Int64,
        alignment: Int64,
        fixed: Int64,
        kind: np.ndarray[tuple[int], np.dtype[np.int32]],
        keys: np.ndarray[tuple[int, int], np.dtype[np.float64]],
        section_count: int,
        capacity: int,
        effort: int,
    ) -> None:
        self.n, self.count = len(size), section_count
        self.sections = [sections[a:b].tolist() for a, b in pairwise(start.tolist())]
        self.size, self.alignment = size.tolist(), alignment.tolist()
        self.fixed, self.kind = fixed.tolist(), kind.tolist()
        self.keys = keys.tolist()
        self.capacity, self.effort = capacity, effort
        self.over: list[list[int]] = [[] for _ in range(section_count)]
        self.random = 88172645463325252
        self.names: list[int] = []
        for b, mine in enumerate(self.sections):
            self.names.append(self._next_random())
            for s in mine:
                self.over[s].append(b)
        self.looks = [0, *accumulate(map(len, self.over))]
        self.head, self.support = [0] * self.n, [NOWHERE] * self.n
        self.failures: dict[int, list[list[tuple[int, int]]]] = {}
        self.remembered = 0
        self.spent = 0
        self.fewest_first = False
        self.nodes_left = 0

    def run(self) -> tuple[int, Int64, int]:
        """Return 1 and addresses, 0 where there are none, -1 where the effort was not enough."""
        rows = len(self.keys)
        attempt, answer = 0, UNKNOWN
        self._reset(0, 0)
        while answer == UNKNOWN and self.spent < self.effort:
            cycle = attempt // (2 * rows)
            self._reset(attempt % rows, cycle)
            self.fewest_first = attempt // rows % 2 == 1
            self.nodes_left = 8 * self.n * luby(cycle)
            answer, _ = self._place_all(list(range(self.n)), 0, self.count)
            attempt += 1
        return answer, np.array(self.address, np.int64), self.spent

    def _next_random(self) -> int:
        x = self.random
        x ^= x << 13 & _MASK
        x ^= x >> 7
        x ^= x << 17 & _MASK
        self.random = x
        return x

    def _reset(self, row: int, cycle: int) -> None:
        self.floor = [0] * self.count
        self.rest = [0] * self.count
        self.crossing = [0] * self.count
        self.placed = [False] * self.n
        self.address = [0] * self.n
        self.trail: list[tuple[int, int]] = []
        self.preference = list(self.keys[row])
        spread = 0.5 * min(cycle, 4)
        for b in range(self.n):
            self._count_in(b, 1)
            if cycle > 0:
                unit = (self._next_random() >> 11) * 2.0**-53
                self.preference[b] *= 1 + spread * (unit - 0.5)

    def _count_in(self, b: int, sign: int) -> None:
        for s in self.sections[b]:
            self.rest[s] += sign * self.size[b]
        for s in range(self.sections[b][0], self.sections[b][-1]):
            self.crossing[s] += sign

    def _raise_floor(self, s: int, floor: int) -> None:
        self.trail.append((s, self.floor[s]))
        self.floor[s] = floor

    def _place(self, b: int, at: int) -> None:
        self.placed[b], self.address[b] = True, at
        for s in self.sections[b]:
            self._raise_floor(s, at + self.size[b])
        self._count_in(b, -1)

    def _undo(self, node: _Node, mark: int) -> None:
        for b in node.unplaced:
            if self.placed[b]:
                self.placed[b] = False
                self._count_in(b, 1)
        while len(self.trail) > mark:
            s, floor = self.trail.pop()
            self.floor[s] = floor

    def _place_all(self, among: list[int], low: int, high: int) -> tuple[int, int]:
        """Place what is unplaced in [low, high), parts with no buffer in common each for itself;
        return the answer and, where it is impossible, the sections to blame."""
        for s in range(low, high):
            if s + 1 < high and self.crossing[s] > 0:
                continue
            answer, blame = self._place_part(among, low, s + 1)
            if answer != FOUND:
                return answer, blame
            low = s + 1
        return FOUND, 0

    def _place_part(self, among: list[int], low: int, high: int) -> tuple[int, int]:
        node = _Node(high, low)
        for b in among:
            mine = self.sections[b]
            if self.placed[b] or mine[0] < low or mine[-1] >= high:
                continue
            node.unplaced.append(b)
            node.key ^= self.names[b]
            node.low = min(node.low, mine[0])
            node.high = max(node.high, mine[-1] + 1)
        if not node.unplaced:
            return FOUND, 0
        self.nodes_left -= 1
        if self.nodes_left < 0 or self.spent >= self.effort:
            return UNKNOWN, 0
        blame = self._failed_before(node)
        if blame is not None:
            return IMPOSSIBLE, blame
        mark = len(self.trail)
        node.entry = self.floor[node.low : node.high]
        blame = self._tighten(node)
        answer, blame = (IMPOSSIBLE, blame) if blame is not None else self._branch(node)
        if answer != FOUND:
            self._undo(node, mark)
        return answer, blame

    def _branch(self, node: _Node) -> tuple[int, int]:
        self.spent += self.looks[node.high] - self.looks[node.low]
        section, candidates, room = self._choose(node)
        blame = self._blame_choice(node, section, candidates)
        floor = self.floor[section]
        mark = len(self.trail)
        tried: set[int] = set()
        for b in candidates:
            if self.kind[b] in tried:
                continue
            tried.add(self.kind[b])
            self._place(b, floor)
            answer, theirs = self._place_all(node.unplaced, node.low, node.high)
            if answer == FOUND:
                return answer, 0
            self._undo(node, mark)
            if answer == UNKNOWN:
                return answer, 0
            if not any(theirs >> s & 1 for s in self.sections[b]):
                return self._remember(node, self._explain(node, theirs))
            blame |= self._explain(node, theirs)
        if room == inf:
            return self._remember(node, blame)
        self._raise_floor(section, int(room))
        answer, theirs = self._place_part(node.unplaced, node.low, node.high)
        if answer == FOUND:
            return answer, 0
        self._undo(node, mark)
        if answer == UNKNOWN:
            return answer, 0
        if not theirs >> section & 1:
            blame = 0
        return self._remember(node, blame | self._explain(node, theirs))

    def _tighten(self, node: _Node) -> int | None:
        """Raise floors to where the lowest buffer can be, until nothing changes; return the
        sections to blame where one of them is too full."""
        changed = True
        while changed:
            changed = False
            for b in node.unplaced:
                if not self._find_head(b):
                    return self._cause(node, self._highest(b))
            for s in range(node.low, node.high):
                if self.rest[s] == 0:
                    continue
                lowest = min(self.head[b] for b in self.over[s] if not self.placed[b])
                if lowest > self.floor[s]:
                    cause = 0
                    for b in self.over[s]:
                        if not self.placed[b]:
                            cause |= self._cause(node, self.support[b])
                    node.causes[s] = cause
                    self._raise_floor(s, lowest)
                    changed = True
                if self.floor[s] + self.rest[s] > self.capacity:
                    return self._cause(node, s)
        for s in range(node.low, node.high):
            if self.rest[s] > 0 and (blame := self._overfull_stack(node, s)) is not None:
                return blame
        return None

    def _highest(self, b: int) -> int:
        return max(self.sections[b], key=lambda s: self.floor[s])

    def _find_head(self, b: int) -> bool:
        """Find the lowest address of a buffer, and a section that keeps it from going lower."""
        support = self._highest(b)
        highest = self.floor[support]
        self.spent += len(self.sections[b])
        if self.fixed[b] >= 0:
            self.head[b], self.support[b] = self.fixed[b], NOWHERE
            return highest <= self.fixed[b]
        self.head[b] = -(-highest // self.alignment[b]) * self.alignment[b]
        self.support[b] = support
        return self.head[b] + self.size[b] <= self.capacity

    def _cause(self, node: _Node, s: int) -> int:
        """Return why a floor is where it is, in terms of the floors with which the node began."""
        return 0 if s == NOWHERE else node.causes.get(s, 1 << s)

    def _explain(self, node: _Node, sections: int) -> int:
        cause = 0
        for s in range(node.low, node.high):
            if sections >> s & 1:
                cause |= self._cause(node, s)
        return cause

    def _overfull_stack(self, node: _Node, s: int) -> int | None:
        """Return the sections to blame where the buffers over `s`, stacked in the order of their
        lowest addresses, end above the capacity."""
        stack = sorted((self.head[b], b) for b in self.over[s] if not self.placed[b])
        top = begin = 0
        for k, (head, b) in enumerate(stack):
            if head > top:
                top, begin = head, k
            top += self.size[b]
        if top <= self.capacity:
            return None
        blame = 0
        for _, b in stack[begin:]:
            by_floor = self.floor[s] >= stack[begin][0]
            blame |= self._cause(node, s if by_floor else self.support[b])
        return blame

    def _choose(self, node: _Node) -> tuple[int, list[int], float]:
        """Return a section, the buffers that can lie at its floor, most preferred first, and the
        floor if none of them does (infinity: one has to)."""
        best, best_rank, best_room = NOWHERE, (inf, inf), inf
        smallest = self._smallest(node)
        for s in range(node.low, node.high):
            if self.rest[s] == 0 or (weight := self._weigh(s, node.low, smallest)) is None:
                continue
            options, room = weight
            rank = (self.floor[s], options)
            rank = (options, self.floor[s]) if self.fewest_first else rank
            if rank < best_rank:
                best, best_rank, best_room = s, rank, room
        floor = self.floor[best]
        candidates = [b for b in self.over[best] if not self.placed[b] and self.head[b] == floor]
        candidates.sort(key=lambda b: -self.preference[b])
        return best, candidates, best_room

    def _weigh(
        self, s: int, low: int, smallest: list[tuple[float, float]]
    ) -> tuple[int, float] | None:
        """Return how many ways to go on there are at a section, and the floor if its lowest buffer
        leaves room; None where a buffer at its floor would leave room elsewhere."""
        options, room = 0, inf
        floor = self.floor[s]
        for b in self.over[s]:
            if self.placed[b]:
                continue
            if self.head[b] > floor:
                room = min(room, self.head[b])
                continue
            options += 1
            if any(self.floor[y] < floor for y in self.sections[b]):
                return None
            if self.fixed[b] < 0:
                size = self.size[b]
                pairs = (smallest[y - low] for y in self.sections[b])
                room = min(room, floor + min(q if p == size else p for p, q in pairs))
        if room + self.rest[s] > self.capacity:
            room = inf
        return options + (room < inf), room

    def _smallest(self, node: _Node) -> list[tuple[float, float]]:
        """Return the sizes of the two smallest unplaced buffers over every section."""
        found: list[tuple[float, float]] = []
        for s in range(node.low, node.high):
            sizes = sorted(self.size[b] for b in self.over[s] if not self.placed[b])[:2]
            found.append((sizes[0] if sizes else inf, sizes[1] if sizes[1:] else inf))
        return found

    def _blame_choice(self, node: _Node, s: int, candidates: list[int]) -> int:
        """Return the floors that make the options of a choice complete."""
        blame = self._cause(node, s)
        for b in self.over[s]:
            if not self.placed[b] and self.head[b] > self.floor[s]:
                blame |= self._cause(node, self.support[b])
        if self.floor[s] + self.rest[s] == self.capacity:
            return blame  # no room to leave, whatever is below
        for b in candidates:
            for y in self.sections[b]:
                blame |= self._cause(node, y)
        return blame

    def _failed_before(self, node: _Node) -> int | None:
        for floors in self.failures.get(node.key, ()):
            if all(self.floor[s] >= floor for s, floor in floors):
                return sum(1 << s for s, _ in floors)
        return None

    def _remember(self, node: _Node, blame: int) -> tuple[int, int]:
        known = self.failures.setdefault(node.key, [])
        if len(known) < FAILURES_OF_A_SET and self.remembered < REMEMBERED:
            floors = [(s, floor) for s, floor in enumerate(node.entry, node.low) if blame >> s & 1]
            self.remembered += len(floors)
            known.append(floors)
        return IMPOSSIBLE, blame


def luby(i: int) -> int:
    """Return the i-th number of the sequence of Luby, Sinclair and Zuckerman.

    >>> [luby(i) for i in range(15)]
    [1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8]
    """
    whole = 1
    while whole < i + 1:
        whole = 2 * whole + 1
    return (whole + 1) // 2 if whole == i + 1 else luby(i - whole // 2)
