"""Numbers: every instruction is carried out on the real memory images, in the order of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from polystage.errors import SimulationError
from polystage.simulator.access import ChipWindow, DramWindow
from polystage.simulator.assemble import CoreProgram
from polystage.simulator.decode import Program
from polystage.simulator.instructions import Instruction, LookupFailure
from polystage.simulator.memory import ALWAYS, Array, ChipBuffer, DramBuffer
from polystage.simulator.timeline import CoreTimeline
from polystage.simulator.trace import DMA, SIGNAL

Progress = Callable[[int, int, str], None]


class _Operand:
    """A window on a buffer, as instructions read and write it."""

    __slots__ = ("array", "buffer", "elements", "full", "region", "shares_bytes", "written")

    def __init__(
        self,
        window: ChipWindow | DramWindow,
        buffer: ChipBuffer | DramBuffer,
        offset: int,
        full: bool,
        region: int,
    ) -> None:
        if isinstance(window, ChipWindow):
            self.array = window.numpy(cast(ChipBuffer, buffer), offset)
            self.shares_bytes = cast(ChipBuffer, buffer).shares_bytes
        else:
            self.array = window.numpy(cast(DramBuffer, buffer), offset)
            self.shares_bytes = False
        self.buffer = buffer
        self.elements = window.elements(offset)
        self.full = full
        self.region = region
        self.written = buffer.written


class Numbers:
    """Carries out a core's instructions."""

    def __init__(self, program: Program, core: CoreProgram, progress: Progress | None) -> None:
        self.program = program
        self.core = core
        self.progress = progress
        trace = core.trace
        self.instructions = [program.instructions[i] for i in trace.op.tolist()]
        self.start = trace.access_start.tolist()
        self.value = trace.value.tolist()
        self.view = core.view.tolist()
        self.life = core.life.tolist()
        self.region = trace.region.tolist()
        self.call = trace.call.tolist()
        self.operands: list[_Operand | None] = [None] * len(core.view_window)
        self.overlapped = False
        self.calls_begun = np.zeros(len(core.call_inference), np.bool_)

    def run_in_order(self, timeline: CoreTimeline) -> None:
        """Carry out one instruction after the other: conflicting ones never overlap in time."""
        for i in _by_time(timeline.start_ns[self._works()], self._works()):
            self._note_call(i)
            reads, writes = self._operands(i)
            instruction = self.instructions[i]
            self._check_reads(i, reads)
            self._check_sum(i, instruction, writes)
            self._compute(i, instruction, reads, writes)
            self._note_written(i, instruction, writes)

    def run_overlapped(self, timeline: CoreTimeline) -> None:
        """Carry out instructions that may race: they read when they start, a transfer when its data
        begins to move, and what they write is there when they end.

        psum is added to where a matmul ends, because that is what the array does. What a race left
        from another life of a buffer is read as it is.
        """
        self.overlapped = True
        works = self._works()
        moves = self.core.trace.kind[works] == DMA
        starts = np.where(moves, timeline.move_ns[works], timeline.start_ns[works])
        ends = np.where(timeline.end_ns[works] > starts, timeline.end_ns[works], np.inf)
        times = np.concatenate([ends, starts])
        begins = np.repeat([False, True], len(works))
        results: dict[int, list[Array]] = {}
        instant = set(works[np.isinf(ends)].tolist())
        for event in np.lexsort((np.tile(works, 2), begins, times)).tolist():
            i = int(works[event % len(works)])
            if begins[event]:
                results[i] = self._begin(i)
                if i not in instant:
                    continue
            if i in results:
                self._finish(i, results.pop(i))

    def _begin(self, i: int) -> list[Array]:
        self._note_call(i)
        reads, writes = self._operands(i)
        instruction = self.instructions[i]
        self._check_reads(i, reads)
        assert instruction.numerics is not None
        arrays = [o.array for o, _ in reads], [o.array for o, _ in writes]
        try:
            return instruction.numerics.begin(*arrays, self.value[i])
        except LookupFailure as failure:
            raise self._failure(i, str(failure)) from None

    def _finish(self, i: int, results: list[Array]) -> None:
        _, writes = self._operands(i)
        instruction = self.instructions[i]
        self._check_sum(i, instruction, writes)
        assert instruction.numerics is not None
        instruction.numerics.finish(results, [o.array for o, _ in writes], self.value[i])
        self._note_written(i, instruction, writes)

    def _works(self) -> np.ndarray:
        return np.flatnonzero(self.core.trace.kind < SIGNAL)

    def _note_call(self, i: int) -> None:
        call = self.call[i]
        if self.progress is None or self.calls_begun[call]:
            return
        layer = self.core.layer_of(i)
        self.progress(int(self.calls_begun.sum()), len(self.calls_begun), layer)
        self.calls_begun[call] = True

    def _operands(self, i: int) -> tuple[list[tuple[_Operand, int]], list[tuple[_Operand, int]]]:
        """Return what an instruction reads and writes, each with the life of the buffer."""
        first, last = self.start[i], self.start[i + 1]
        found = [(self._operand(a), self.life[a]) for a in range(first, last)]
        reads = len(self.instructions[i].reads)
        return found[:reads], found[reads:]

    def _operand(self, access: int) -> _Operand:
        row = self.view[access]
        operand = self.operands[row]
        if operand is None:
            core = self.core
            operand = self.operands[row] = _Operand(
                self.program.windows[core.view_window[row]],
                self.program.buffers[core.view_buffer[row]],
                int(core.view_offset[row]),
                bool(core.view_full[row]),
                self.region[access],
            )
        return operand

    def _check_reads(self, i: int, reads: Sequence[tuple[_Operand, int]]) -> None:
        """Refuse to read what was not written in the present life of its buffer."""
        for operand, life in reads:
            if operand.written.whole != life and life != ALWAYS:
                self._check_written(i, operand, life)

    def _check_sum(
        self, i: int, instruction: Instruction, writes: Sequence[tuple[_Operand, int]]
    ) -> None:
        """Refuse to add to what was not written."""
        if instruction.is_matmul and self.value[i]:
            self._check_reads(i, writes)

    def _check_written(self, i: int, operand: _Operand, life: int) -> None:
        written = operand.written
        if written.has(operand.elements, life):
            return
        if self.overlapped and written.has_any(operand.elements):
            return
        where = self.describe(operand.region)
        if operand.written.taken_by:
            raise self._failure(
                i,
                f"reads {where}, but {operand.written.taken_by} has written over it",
                "give buffers that live at the same time different addresses; "
                "npu-allocate-scratchpad does",
            )
        raise self._failure(
            i,
            f"reads {where}, of which not everything has been written",
            "write the whole window first: load it, or set it with npu.memset",
        )

    def _compute(
        self,
        i: int,
        instruction: Instruction,
        reads: Sequence[tuple[_Operand, int]],
        writes: Sequence[tuple[_Operand, int]],
    ) -> None:
        assert instruction.numerics is not None
        arrays = [o.array for o, _ in reads], [o.array for o, _ in writes]
        try:
            instruction.numerics.run(*arrays, self.value[i])
        except LookupFailure as failure:
            raise self._failure(i, str(failure)) from None

    def _note_written(
        self, i: int, instruction: Instruction, writes: Sequence[tuple[_Operand, int]]
    ) -> None:
        """Remember what was written, and what it was written over."""
        for operand, life in writes:
            if operand.written.whole != life and life != ALWAYS:
                operand.written.note(operand.elements, life, operand.full)
            if operand.shares_bytes:
                self._take(i, instruction, operand)

    def _take(self, i: int, instruction: Instruction, operand: _Operand) -> None:
        """Let other buffers lose the bytes that an operand wrote."""
        buffer = cast(ChipBuffer, operand.buffer)
        holders = buffer.memory.holders
        rivals = [h for h in holders if h is not buffer and h.overlaps(buffer)]
        holders[buffer] = None
        if not rivals:
            return
        regions, r = self.core.trace.regions, operand.region
        low, high = int(regions.low[r]), int(regions.high[r])
        partitions = (int(regions.partition_low[r]), int(regions.partition_high[r]))
        place = instruction.place.of_layer(self.core.layer_of(i))
        for rival in rivals:
            if rival.lose(low, high, partitions, f"{place} for {buffer.place}"):
                del holders[rival]

    def _failure(self, i: int, what: str, help: str = "") -> SimulationError:
        place = self.instructions[i].place
        return SimulationError(
            f"{place.of_layer(self.core.layer_of(i))} {what}", help=help, op=place
        )

    def describe(self, region: int) -> str:
        """Say what a region is, with its address."""
        return describe(self.program, self.core, region)


def describe(program: Program, core: CoreProgram, region: int) -> str:
    """Say what a region is, with its address."""
    regions = core.trace.regions
    buffer = program.buffers[regions.buffer[region]]
    extent = f"bytes [{regions.low[region]}, {regions.high[region]})"
    if isinstance(buffer, DramBuffer):
        return f"{extent} of {buffer.kind} '{buffer.name}' in DRAM"
    rows = f"partitions [{regions.partition_low[region]}, {regions.partition_high[region]})"
    return f"{extent} of {rows} in {buffer.memory.name} ({buffer.place})"


def _by_time(start_ns: np.ndarray, instructions: np.ndarray) -> list[int]:
    """Return instructions in the order of time, and of the program where they start together."""
    return instructions[np.argsort(start_ns, kind="stable")].tolist()
