"""Where buffers come to lie, as `npu-allocate-scratchpad` will have it: what shares bytes waits.

Every buffer that a chunk or a step needs is one of its own, which lives from its first use to its
last. Where there is room they lie apart, and in loops they have two places to take in turn; where
there is none, they lie where the planner has placed them.
"""

from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from polystage.allocation import BUFFER_ALIGNMENT_BYTES, aligned
from polystage.allocation.first_fit import decreasing_within, place_in_order
from polystage.allocation.table import FREE, Table

PLACES = 2
"""Places of a buffer in a loop that hands data from one queue to another."""


@dataclass(eq=False)
class Reserved:
    """A buffer of the program text: one for all executions of the loops around it."""

    size: int
    hint: int
    start: int
    loop: "LoopText | None"
    """The outermost loop around it."""
    depth: int
    """How many loops are around it."""
    is_weight: bool = False
    end: int = 0
    trips: int = 1
    executions: int = 0
    """How often it has been reserved so far."""
    users: set[str] = field(default_factory=set)
    addresses: list[int] = field(default_factory=list)

    @property
    def places(self) -> int:
        """How many places it may take in turn."""
        return min(PLACES, self.trips) if len(self.users) > 1 else 1


@dataclass(eq=False)
class LoopText:
    """A loop of the program text: what is in its body, in order."""

    trips: int
    start: int
    end: int = 0
    inside: "list[Reserved | LoopText]" = field(default_factory=list)
    at: int = 0
    iteration: int = -1
    outside: set[Reserved] = field(default_factory=set)
    """What is used in it and reserved before it."""


class ProgramText:
    """Positions in the program text while it is walked through, loops again and again."""

    def __init__(self) -> None:
        self.position = 0
        self.reserved: list[Reserved] = []
        self.loops: list[LoopText] = []
        self.again = 0
        """How many of them are not in their first iteration."""

    @property
    def _is_new(self) -> bool:
        """Whether what comes next has not been met before."""
        return not self.again

    def reserve(self, size: int, hint: int, is_weight: bool) -> tuple[Reserved, int]:
        """Return a buffer of the text, and how often it has been reserved before."""
        if self._is_new:
            outer = self.loops[0] if self.loops else None
            found = Reserved(size, hint, self.position, outer, len(self.loops), is_weight)
            for loop in self.loops:
                found.trips *= loop.trips
            self.position += 1
            self.reserved.append(found)
            if self.loops:
                self.loops[-1].inside.append(found)
        else:
            met = self.loops[-1].inside[self.loops[-1].at]
            assert isinstance(met, Reserved)
            found = met
        if self.loops:
            self.loops[-1].at += 1
        found.executions += 1
        return found, found.executions - 1

    def use(self, buffer: Reserved, user: str) -> None:
        """Note that an instruction uses a buffer."""
        if not self._is_new:
            return
        self.position += 1
        buffer.end = max(buffer.end, self.position)
        buffer.users.add(user)
        for loop in self.loops[buffer.depth :]:
            loop.outside.add(buffer)

    @contextmanager
    def loop(self, trips: int) -> Generator[LoopText]:
        """Enter a loop; `begin` starts each of its iterations."""
        is_new = self._is_new
        if is_new:
            found = LoopText(trips, self.position)
            if self.loops:
                self.loops[-1].inside.append(found)
        else:
            met = self.loops[-1].inside[self.loops[-1].at]
            assert isinstance(met, LoopText)
            found = met
        if self.loops:
            self.loops[-1].at += 1
        self.loops.append(found)
        found.iteration = -1
        yield found
        self.loops.pop()
        self.again -= found.iteration > 0
        if is_new:
            self.position += 1
            found.end = self.position
            for buffer in found.outside:
                buffer.end = max(buffer.end, self.position)

    def begin(self, loop: LoopText) -> None:
        """Start an iteration of a loop."""
        loop.at = 0
        loop.iteration += 1
        self.again += loop.iteration == 1


def find_addresses(text: ProgramText, capacity: int) -> None:
    """Give every buffer of a text its addresses."""
    found = [r for r in text.reserved if r.end]
    if not found:
        return
    depth = _affordable(found, capacity)
    for sharing in ("none", "between loops", "within an iteration"):
        for limit in (capacity // 2, capacity):
            table = _table(found, depth, sharing, text.position)
            addresses = decreasing_within(table, limit)
            if addresses is not None:
                _deal(found, depth, addresses.tolist())
                return
    _as_hinted(found, depth, capacity, text.position)


def _affordable(found: Sequence[Reserved], capacity: int) -> np.ndarray:
    """Return how many places each buffer has: the largest of several has less where most live."""
    depth = np.array([r.places for r in found], np.int64)
    size = np.array([aligned(r.size) for r in found], np.int64)
    start = np.array([r.start for r in found], np.int64)
    end = np.array([r.end for r in found], np.int64)
    changes = np.zeros(int(end.max()) + 1, np.int64)
    np.add.at(changes, start, size * depth)
    np.add.at(changes, end, -size * depth)
    live = np.cumsum(changes)
    while live.max() > capacity:
        position = live.argmax()
        several = np.flatnonzero((start <= position) & (position < end) & (depth > 1))
        if not several.size:
            break
        largest = several[size[several].argmax()]
        depth[largest] -= 1
        live[start[largest] : end[largest]] -= size[largest]
    return depth


def _table(found: Sequence[Reserved], depth: np.ndarray, sharing: str, end: int) -> Table:
    """Return a row for every place of every buffer."""
    lives = [(0, end + 1)] * len(found)
    if sharing == "within an iteration":
        lives = [(r.start, r.end) for r in found]
    elif sharing == "between loops":
        lives = [(r.loop.start, r.loop.end) if r.loop else (r.start, r.end) for r in found]
    starts, ends = np.repeat(np.array(lives, np.int64), depth, axis=0).T
    size = np.repeat(np.array([aligned(r.size) for r in found], np.int64), depth)
    is_late = np.repeat(np.array([not r.is_weight for r in found], np.int64), depth)
    nothing = np.full(len(size), FREE, np.int64)
    return Table(
        buffers=(),
        members=(),
        row=np.arange(len(size) + 1, dtype=np.int64),
        starts=np.ascontiguousarray(starts),
        ends=np.ascontiguousarray(ends),
        size=size,
        alignment=np.full(len(size), BUFFER_ALIGNMENT_BYTES, np.int64),
        address=nothing,
        rank=is_late if sharing == "none" else np.zeros_like(size),
        hint=nothing,
    )


def _as_hinted(found: Sequence[Reserved], depth: np.ndarray, capacity: int, end: int) -> None:
    """Place one place of each in the order of the hints, then others where there is room."""
    starts = np.cumsum([0, *depth.tolist()])
    table = _table(found, depth, "within an iteration", end)
    first = starts[:-1]
    hints = np.array([r.hint for r in found])
    others = np.setdiff1d(np.arange(len(table)), first)
    order = [first[np.argsort(hints, kind="stable")], others[np.argsort(table.size[others])]]
    addresses = place_in_order(table, np.concatenate(order))
    fits = addresses + table.size <= capacity
    for number, reserved in enumerate(found):
        row = slice(starts[number], starts[number + 1])
        reserved.addresses = addresses[row][fits[row]].tolist() or [reserved.hint]


def _deal(found: Sequence[Reserved], depth: np.ndarray, addresses: Sequence[int]) -> None:
    rest = iter(addresses)
    for reserved, places in zip(found, depth.tolist(), strict=True):
        reserved.addresses = [next(rest) for _ in range(places)]


class Occupants:
    """Who had which bytes last."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.spans: list[tuple[int, int, int]] = []
        """(start, stop, who), by start."""

    def take(self, start: int, stop: int, who: int) -> list[int]:
        """Let somebody have bytes, and return who had any of them."""
        at = max(bisect_right(self.starts, start) - 1, 0)
        first = at
        found: list[int] = []
        kept: list[tuple[int, int, int]] = []
        while at < len(self.spans) and self.spans[at][0] < stop:
            low, high, other = self.spans[at]
            if high > start:
                found.append(other)
                if low < start:
                    kept.append((low, start, other))
                if high > stop:
                    kept.append((stop, high, other))
            else:
                kept.append((low, high, other))
            at += 1
        kept.append((start, stop, who))
        kept.sort()
        self.spans[first:at] = kept
        self.starts[first:at] = [span[0] for span in kept]
        return found
