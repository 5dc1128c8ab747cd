"""Instructions in the order of a program, each with what it waits for.

Every engine and every DMA queue takes its own in order. Between queues, what reads waits for what
wrote, and what writes for both, where they touch the same bytes: semaphores order no less, and
little more. Lane engines wait for their own results too.
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

from polystage.machine import Target
from polystage.planner.fusion.latency.addresses import (
    LoopText,
    Occupants,
    ProgramText,
    Reserved,
    find_addresses,
)
from polystage.simulator.timeline import run_timeline
from polystage.simulator.trace import COMPUTE, CoreTrace, Rates, Regions

Box = Sequence[Sequence[int]]
"""(start, stop) per axis of an array."""

REMEMBERED = 32
"""Accesses of a buffer in each queue that are looked at: those before have long ended."""

ENGINES = ("tensor", "vector", "scalar", "gpsimd")
LANES = range(1, len(ENGINES))
"""By number, the engines that wait for their own results."""

_Accesses = dict[int, deque[tuple[int, Box | None]]]


@dataclass(eq=False)
class Cell:
    """Bytes that instructions touch: an execution of a buffer, or an array in DRAM.

    Boxes of elements meet where they do modulo `extents`.
    """

    extents: tuple[int | None, ...] = ()
    reserved: Reserved | None = None
    execution: int = 0
    reads: _Accesses = field(default_factory=dict)
    writes: _Accesses = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    """By queue the first instruction that touches it."""
    last: dict[int, int] = field(default_factory=dict)
    """By queue the last one."""

    def meets(self, a: Box | None, b: Box | None) -> bool:
        """Tell whether two boxes of elements have bytes in common."""
        if a is None or b is None:
            return True
        for (start, stop), (low, high), extent in zip(a, b, self.extents, strict=True):
            if extent is None:
                if stop <= low or high <= start:
                    return False
            elif (low - start) % extent >= stop - start and (start - low) % extent >= high - low:
                return False
        return True

    def latest(self, writes: bool, queue: int, box: Box | None) -> Iterable[int]:
        """Yield, for every other queue, its latest access that meets a box, and of a lane engine
        the latest write of its own."""
        for other, found in (self.writes if writes else self.reads).items():
            if other != queue or (writes and queue in LANES):
                for index, touched in reversed(found):
                    if self.meets(touched, box):
                        yield index
                        break

    def note(self, writes: bool, queue: int, index: int, box: Box | None) -> None:
        """Note an access."""
        if writes and box is None:  # what follows waits for this, which has waited for the rest
            self.reads.clear()
            self.writes.clear()
        accesses = self.writes if writes else self.reads
        if queue not in accesses or box is None:
            accesses[queue] = deque(maxlen=REMEMBERED)
        accesses[queue].append((index, box))
        self.first.setdefault(queue, index)
        self.last[queue] = index


Touch = tuple[Cell, Box | None]


@dataclass(eq=False)
class LoopRun:
    """One execution of a loop: by queue its first and its last instruction."""

    trips: int
    first: dict[int, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)


def _is_same(pair: tuple[LoopRun, LoopRun]) -> bool:
    return pair[0] is pair[1]


class Instructions:
    """A program's instructions in order."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.queues = (*ENGINES, *(f"dma{i}" for i in range(target.dma.queues)))
        self.number = {name: i for i, name in enumerate(self.queues)}
        self.text = ProgramText()
        self.cells: list[Cell] = []
        """What is on chip, in the order in which it comes there."""
        self.kind: list[int] = []
        self.queue: list[int] = []
        self.busy: list[float] = []
        self.latency: list[float] = []
        self.form: list[float] = []
        self.dram: list[float] = []
        self.after: list[list[int]] = []
        self.known = [[-1] * len(self.queues) for _ in self.queues]
        """By queue, how far it has waited for every other."""
        self.runs: list[LoopRun] = []
        """The loops that are under way."""
        self.runs_of: list[tuple[LoopRun, ...]] = []
        """The loops around every instruction, outermost first."""

    @property
    def count(self) -> int:
        """How many instructions there are."""
        return len(self.kind)

    @contextmanager
    def loop(self, trips: int) -> Generator[LoopText]:
        """Enter a loop of the program; `text.begin` starts each of its iterations."""
        with self.text.loop(trips) as text:
            self.runs.append(LoopRun(trips))
            yield text
            self.runs.pop()

    def reserve(
        self, size: int, hint: int, extents: tuple[int | None, ...] = (), is_weight: bool = False
    ) -> Cell:
        """Return a buffer on chip, which lives from its first use to its last."""
        reserved, execution = self.text.reserve(size, hint, is_weight)
        self.cells.append(Cell(extents, reserved, execution))
        return self.cells[-1]

    def add(
        self,
        queue: str,
        busy_ns: float,
        latency_ns: float,
        reads: Iterable[Touch],
        writes: Iterable[Touch],
        kind: int = COMPUTE,
        dram_bytes: float = 0.0,
        form_ns: float = 0.0,
    ) -> None:
        """Add an instruction behind all others."""
        own, index = self.number[queue], self.count
        touches = [(False, *touch) for touch in reads] + [(True, *touch) for touch in writes]
        known, waits = self.known[own], list[int]()
        for is_write, cell, box in touches:
            for earlier in (True, False) if is_write else (True,):
                for found in cell.latest(earlier, own, box):
                    if found > known[self.queue[found]]:
                        known[self.queue[found]] = found
                        waits.append(found)
        for is_write, cell, box in touches:
            cell.note(is_write, own, index, box)
            if cell.reserved is not None:
                self.text.use(cell.reserved, queue)
        for run in self.runs:
            run.first.setdefault(own, index)
            run.last[own] = index
        self.runs_of.append(tuple(self.runs))
        self.after.append(waits)
        self.kind.append(kind)
        self.queue.append(own)
        self.busy.append(busy_ns)
        self.latency.append(latency_ns)
        self.form.append(form_ns)
        self.dram.append(dram_bytes)

    def _wait_for_bytes(self) -> None:
        """Let the first uses of every buffer wait for the last ones of what had its bytes."""
        find_addresses(self.text, self.target.sbuf.bytes)
        occupants = Occupants()
        for number, cell in enumerate(self.cells):
            reserved = cell.reserved
            if reserved is None or not reserved.addresses:
                continue
            address = reserved.addresses[cell.execution % len(reserved.addresses)]
            for other in occupants.take(address, address + reserved.size, number):
                for queue, index in self.cells[other].last.items():
                    for own, first in cell.first.items():
                        if own != queue and index < first:
                            self.after[first].append(index)

    def _wait_for_loops(self) -> None:
        """Let a queue wait before a loop for all that it needs in it from before, and for loops as
        wholes; loops of as many trips go together trip by trip."""
        after: list[list[int]] = [[] for _ in self.after]
        for index, waits in enumerate(self.after):
            around = self.runs_of[index]
            for awaited in waits:
                theirs = self.runs_of[awaited]
                if around == theirs or self.queue[awaited] == self.queue[index]:
                    after[index].append(awaited)
                    continue
                depth = sum(1 for _ in takewhile(_is_same, zip(around, theirs, strict=False)))
                mine = around[depth] if depth < len(around) else None
                other = theirs[depth] if depth < len(theirs) else None
                if mine and other and mine.trips == other.trips:
                    after[index].append(awaited)
                    continue
                first = mine.first[self.queue[index]] if mine else index
                last = other.last[self.queue[awaited]] if other else awaited
                after[first].append(last)
        self.after = after

    def ends_ns(self) -> np.ndarray:
        """Return when the result of every instruction is there."""
        self._wait_for_bytes()
        self._wait_for_loops()
        n = self.count
        counts = np.fromiter((len(waits) for waits in self.after), np.int64, n)
        trace = CoreTrace(
            queues=self.queues,
            semaphores=_none(np.int64),
            kind=np.array(self.kind, np.uint8),
            op=np.zeros(n, np.int32),
            queue=np.array(self.queue, np.uint8),
            busy_ns=np.array(self.busy, np.float64),
            latency_ns=np.array(self.latency, np.float64),
            form_ns=np.array(self.form, np.float64),
            dram_bytes=np.array(self.dram, np.float64),
            ports=np.zeros(n, np.uint8),
            semaphore=np.full(n, -1, np.int32),
            value=np.zeros(n, np.int64),
            call=np.zeros(n, np.int32),
            access_start=np.zeros(n + 1, np.int64),
            region=_none(np.int32),
            writes=_none(np.bool_),
            by_array=_none(np.bool_),
            regions=Regions(
                _none(np.uint8),
                _none(np.int32),
                _none(np.int64),
                _none(np.int64),
                *(_none(np.int32) for _ in range(4)),
            ),
            after_start=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
            after=np.array([i for waits in self.after for i in waits], np.int64),
        )
        rates = Rates(self.target.dma.startup_ns, self.target.device.dram_bytes_per_ns)
        return run_timeline([trace], rates).cores[0].end_ns


def _none(dtype: type) -> np.ndarray:
    return np.zeros(0, dtype)
