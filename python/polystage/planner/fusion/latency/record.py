"""What a program does in order: instructions with their times, and what costs energy."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np

from polystage.allocation import aligned
from polystage.machine import Target, cost, energy
from polystage.planner.fusion.attention.operator import Attention
from polystage.planner.fusion.latency.attention import AttentionWork
from polystage.planner.fusion.latency.instructions import Box, Cell, Instructions, Touch
from polystage.planner.fusion.latency.pieces import Layout
from polystage.planner.fusion.latency.work import ChunkWork, contiguous_bytes
from polystage.planner.fusion.placement import Placement
from polystage.planner.fusion.program import Program
from polystage.simulator.trace import DMA


class Held(NamedTuple):
    """Where an operand is."""

    cell: Cell
    layout: Layout


Strides = tuple[Sequence[int], Sequence[int]]
"""In DRAM and on chip, in elements."""


@dataclass
class Counts:
    """What costs energy."""

    macs: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    operations: float = 0
    gathered: float = 0
    sbuf_bytes: float = 0
    dram_bytes: float = 0

    def copy(self) -> "Counts":
        """Return what there is now."""
        return replace(self, macs=defaultdict(float, self.macs))

    def add(self, before: "Counts", after: "Counts", times: float) -> None:
        """Add what came between two moments, so many times."""
        for dtype, count in after.macs.items():
            self.macs[dtype] += (count - before.macs[dtype]) * times
        for name in ("operations", "gathered", "sbuf_bytes", "dram_bytes"):
            more = (getattr(after, name) - getattr(before, name)) * times
            setattr(self, name, getattr(self, name) + more)


@dataclass(frozen=True)
class _Skipped:
    """So many `trips` of a loop that were left out, of which each takes what the instructions from
    `start` to `stop` took for `walked`."""

    start: int
    stop: int
    walked: int
    trips: int


class Record:
    """Takes down what a walk through a plan comes by."""

    def __init__(self, program: Program, target: Target, placement: Placement) -> None:
        self.program = program
        self.target = target
        self.instructions = Instructions(target)
        self.counts = Counts()
        self.works: dict[int, ChunkWork] = {}
        self.in_dram = {
            name: Cell((None,) * len(array.shape)) for name, array in program.arrays.items()
        }
        self.resident: dict[str, Held] = {}
        self.hints = placement.resident
        self.skipped: list[_Skipped] = []

    def work(self, number: int) -> ChunkWork:
        """Return what an operator's chunks cost."""
        if number not in self.works:
            operator = self.program.operators[number]
            kind = AttentionWork if isinstance(operator, Attention) else ChunkWork
            self.works[number] = kind(self.program, operator, self.target)
        return self.works[number]

    def reserve(self, name: str, shape: Sequence[int], address: int, is_window: bool) -> Held:
        """Reserve a buffer for a part of an array: the window that slides over it, or a box."""
        array = self.program.arrays[name]
        layout = Layout.circular(shape, array.shape) if is_window else Layout.box(shape)
        size = aligned(prod(shape) * array.element_bytes)
        is_weight = str(array.role) == "weight"
        cell = self.instructions.reserve(size, address, layout.extents, is_weight)
        return Held(cell, layout)

    def skip(self, start: int, stop: int, walked: int, trips: int, before: Counts) -> None:
        """Leave out so many `trips` of a loop, of which each takes what those from instruction
        `start` to `stop` took for `walked`; `before` was counted at `start`."""
        self.skipped.append(_Skipped(start, stop, walked, trips))
        self.counts.add(before, self.counts.copy(), trips / walked)

    def done_ns(self, counts: Iterable[int]) -> list[float]:
        """Return when the first so many instructions are done, with what was left out."""
        ends = np.maximum.accumulate(self.instructions.ends_ns())
        places = [skip.stop + 1 for skip in self.skipped]
        later = [0.0]  # by how much the first loops of which parts were left out move what follows

        def done(count: int) -> float:
            before = later[bisect_right(places, count, hi=len(later) - 1)]
            return before + (float(ends[count - 1]) if count else 0.0)

        for skip in self.skipped:
            each = (done(skip.stop) - done(skip.start)) / skip.walked
            later.append(later[-1] + each * skip.trips)
        return [done(count) for count in counts]

    def energy_pj(self, total_ns: float) -> float:
        """Return the energy of all that was taken down, done in `total_ns`."""
        counts, target = self.counts, self.target
        return (
            sum(
                energy.mac_pj(target, n, dtype) + energy.register_pj(target, n, dtype)
                for dtype, n in counts.macs.items()
            )
            + energy.op_pj(target, "vector", counts.operations)
            + energy.op_pj(target, "gpsimd", counts.gathered)
            + energy.access_pj(target, "sbuf", counts.sbuf_bytes)
            + energy.access_pj(target, "dram", counts.dram_bytes)
            + energy.static_pj(target, total_ns)
        )

    # --- transfers --------------------------------------------------------------------------------

    def load(self, name: str, box: Box, held: Held, is_whole: bool) -> None:
        """Bring a box of an array; `is_whole` says that it is all that the buffer holds."""
        role = str(self.program.arrays[name].role)
        queue = self._dma_queue("weight" if role == "weight" else "load")
        for piece in _unwrapped(box, held.layout):
            time, size = self._transfer(name, piece, held.layout)
            source, to = (self.in_dram[name], piece), (held.cell, None if is_whole else piece)
            self._move(queue, time, size, source, to)

    def store(self, name: str, box: Box, held: Held) -> None:
        """Take a box of an array away."""
        queue = self._dma_queue("store")
        for piece in _unwrapped(box, held.layout):
            time, size = self._transfer(name, piece, held.layout)
            self._move(queue, time, size, (held.cell, piece), (self.in_dram[name], piece))

    def store_elements(
        self, name: str, box: Box, held: Held, sizes: Sequence[int], strides: Strides
    ) -> None:
        """Take away the elements of a box that iterations of some `sizes` reach in their order, by
        `strides` in DRAM and on chip."""
        time, size = self._time(name, sizes, strides)
        touches = (held.cell, box), (self.in_dram[name], box)
        self._move(self._dma_queue("store"), time, size, *touches)

    def _move(self, queue: str, time: cost.Cost, size: int, source: Touch, to: Touch) -> None:
        alone = time.latency_ns - self.target.dma.startup_ns
        self.counts.sbuf_bytes += size
        self.counts.dram_bytes += size
        self.instructions.add(queue, time.busy_ns, alone, [source], [to], DMA, dram_bytes=size)

    def _transfer(self, name: str, box: Box, layout: Layout) -> tuple[cost.Cost, int]:
        there = Layout.box(self.program.arrays[name].shape).strides
        return self._time(name, [stop - start for start, stop in box], (there, layout.strides))

    def _time(self, name: str, sizes: Sequence[int], strides: Strides) -> tuple[cost.Cost, int]:
        element = self.program.arrays[name].element_bytes
        total = prod(sizes) * element
        runs = [contiguous_bytes(sizes, each, element) for each in strides]
        return cost.dma(self.target, total, *runs), total

    def _dma_queue(self, kind: str) -> str:
        classes = ("load", "weight", "store", "copy")
        return f"dma{classes.index(kind) * self.target.dma.queues // len(classes)}"


def _unwrapped(box: Box, layout: Layout) -> Iterator[list[tuple[int, int]]]:
    """Yield the parts of a box that lie in one round of a circular window."""
    parts: list[list[tuple[int, int]]] = [[]]
    for (start, stop), extent in zip(box, layout.extents, strict=True):
        ranges = [(start, stop)]
        if extent is not None and start // extent != (stop - 1) // extent:
            edges = range((start // extent + 1) * extent, stop, extent)
            ends = [start, *edges, stop]
            ranges = list(pairwise(ends))
        parts = [[*part, piece] for part in parts for piece in ranges]
    yield from parts
