"""A kernel's dynamic instructions, all at once: where each stands, what it touches, how it differs.

Loops have constant trip counts, so every operation's executions stand at positions that are linear
in the loop variables, and what they touch follows from index values that are arrays already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polystage.machine.cost import Held
from polystage.simulator.access import ChipWindow, DramWindow, OperandWindow
from polystage.simulator.decode import Decoded, Program
from polystage.simulator.index import IndexSpace
from polystage.simulator.instructions import Instruction
from polystage.simulator.trace import COMPUTE, COMPUTE_QUEUES, DRAM, Bool, Int32, Int64

TENSOR = COMPUTE_QUEUES.index("tensor")


@dataclass(frozen=True)
class Views:
    """Windows at element offsets, one row each.

    `window` numbers the windows of the program. `buffer` is a number of the program for an on-chip
    buffer, and a slot of the call for one in DRAM, whose bytes and boxes start where the call's
    buffer does. `full` says that a window is the whole buffer.
    """

    window: Int32
    buffer: Int32
    offset: Int64
    in_dram: Bool
    low: Int64
    high: Int64
    memory: Int32
    partition_low: Int32
    partition_high: Int32
    has_box: Bool
    box: Int32
    full: Bool
    itemsize: Int32


@dataclass(frozen=True)
class KernelTrace:
    """One call of a kernel, in program order.

    `op` numbers the instructions of the program, `changed` says that a matmul does not find what it
    needs in the array. The accesses of instruction i start at `access_start[i]`, reads before
    writes: a row of `views`, and the life of the buffer: of those of a call on chip, or
    -1 - slot in DRAM.
    """

    decoded: Decoded
    op: Int32
    value: Int64
    changed: Bool
    access_start: Int64
    view: Int32
    life: Int32
    writes: Bool
    by_array: Bool
    views: Views

    @cached_property
    def dram_views(self) -> Int64:
        """The rows of `views` that lie in DRAM."""
        return np.flatnonzero(self.views.in_dram)


def expand(program: Program, decoded: Decoded, held: Held) -> KernelTrace:
    """Return the dynamic instructions of one call."""
    uses = _Uses(program, decoded.space)
    op, value, access_start = _instructions(decoded)
    use, offset, life, place = uses.scatter(decoded.instructions, access_start)
    view, views = uses.views(use, offset, place)
    writes, by_array = uses.flags(use)
    changed = _changed(program, decoded, held, op, value, access_start, view, views, writes)
    return KernelTrace(
        decoded, op, value, changed, access_start, view, life, writes, by_array, views
    )


def _instructions(decoded: Decoded) -> tuple[Int32, Int64, Int64]:
    """Return number and value of every instruction, and where its accesses start."""
    op = np.zeros(decoded.length, np.int32)
    value = np.zeros(decoded.length, np.int64)
    count = np.zeros(decoded.length + 1, np.int64)
    for instruction in decoded.instructions:
        positions = instruction.positions()
        op[positions] = instruction.index
        count[positions + 1] = len(instruction.windows)
        if instruction.value.terms or instruction.value.constant:
            value[positions] = decoded.space.values(instruction.value, positions.ndim)
    return op, value, np.cumsum(count)


class _Uses:
    """The operands of a kernel's instructions: windows, each read or written."""

    def __init__(self, program: Program, space: IndexSpace) -> None:
        self.program = program
        self.space = space
        self.window: list[int] = []
        self.written: list[bool] = []
        self.by_array: list[bool] = []
        self.windows: list[OperandWindow] = []
        self._known: dict[object, int] = {}
        self._numbers: dict[OperandWindow, int] = {}

    def _add(self, instruction: Instruction, position: int) -> int:
        """Return the number of a new use; windows that are the same share a number."""
        written = position >= len(instruction.reads)
        tensor = instruction.kind == COMPUTE and instruction.queue == TENSOR
        self.window.append(self._number(instruction.windows[position]))
        self.written.append(written)
        self.by_array.append(written and tensor)
        return len(self.window) - 1

    def _number(self, window: OperandWindow) -> int:
        number = self._numbers.get(window)
        if number is None:
            number = self._numbers[window] = self._known.setdefault(window.key, len(self.windows))
            if number == len(self.windows):
                self.windows.append(window)
        return number

    def scatter(
        self, instructions: Sequence[Instruction], access_start: Int64
    ) -> tuple[Int32, Int64, Int32, Int32]:
        """Return use, element offset, life and place of every access."""
        total = int(access_start[-1])
        use, life, place = (np.zeros(total, np.int32) for _ in range(3))
        offset = np.zeros(total, np.int64)
        for instruction in instructions:
            first = access_start[instruction.positions()]
            for position, window in enumerate(instruction.windows):
                at = first + position
                use[at] = self._add(instruction, position)
                offset[at] = self.space.values(window.offset, at.ndim)
                if isinstance(window, DramWindow):
                    life[at] = -1 - window.root.slot
                    continue
                execution = self.space.values(window.root.execution, at.ndim)
                life[at] = window.root.first_life + execution
                if len(window.root.places) > 1:
                    place[at] = execution % len(window.root.places)
        return use, offset, life, place

    def flags(self, use: Int32) -> tuple[Bool, Bool]:
        """Return which accesses write, and which of them the tensor engine makes."""
        return np.array(self.written, np.bool_)[use], np.array(self.by_array, np.bool_)[use]

    def views(self, use: Int32, offset: Int64, place: Int32) -> tuple[Int32, Views]:
        """Return the row of every access, and the rows: different windows, places and offsets."""
        window = np.array(self.window, np.int64)[use]
        least = int(offset.min(initial=0))
        span = int(offset.max(initial=0)) - least + 1
        places = int(place.max(initial=0)) + 1
        key = (window * places + place) * span + (offset - least)
        rows, inverse = np.unique(key, return_inverse=True)
        window_place, row_offset = np.divmod(rows, span)
        row_window, row_place = np.divmod(window_place, places)
        views = self._rows(row_window, row_place, row_offset + least)
        return inverse.astype(np.int32), views

    def _rows(self, window: Int64, place: Int64, offset: Int64) -> Views:
        """Return what windows touch; rows are in order of windows."""
        n = len(window)
        rank = max((len(w.layout.dims) for w in self.windows), default=0)
        box = np.tile(np.array([0, 1], np.int32), (n, rank)).reshape(n, 2 * rank)
        low, high = np.zeros(n, np.int64), np.zeros(n, np.int64)
        buffer = np.zeros(n, np.int32)
        has_box, full = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        bounds = np.searchsorted(window, np.arange(len(self.windows) + 1))
        for number, w in enumerate(self.windows):
            rows = slice(int(bounds[number]), int(bounds[number + 1]))
            if isinstance(w, ChipWindow):
                addresses = np.array([p.address for p in w.root.places], np.int64)[place[rows]]
                touched = w.touched(offset[rows], addresses)
                buffer[rows] = w.root.first_buffer + place[rows]
            else:
                touched = w.touched(offset[rows])
                buffer[rows] = w.root.slot
            low[rows], high[rows] = touched.low, touched.high
            has_box[rows], full[rows] = touched.has_box, touched.full
            box[rows, : touched.box.shape[1]] = touched.box
        first_window = len(self.program.windows)
        self.program.windows.extend(self.windows)

        def of_window(values: Sequence[int]) -> Int32:
            return np.array(values, np.int32)[window] if n else np.zeros(0, np.int32)

        memory = of_window([w.memory for w in self.windows])
        return Views(
            (window + first_window).astype(np.int32),
            buffer,
            offset,
            memory == DRAM,
            low,
            high,
            memory,
            of_window([w.partition for w in self.windows]),
            of_window([w.partition + w.partitions for w in self.windows]),
            has_box,
            box,
            full,
            of_window([w.dtype.itemsize for w in self.windows]),
        )


def _changed(
    program: Program,
    decoded: Decoded,
    held: Held,
    op: Int32,
    value: Int64,
    access_start: Int64,
    view: Int32,
    views: Views,
    writes: Bool,
) -> Bool:
    """Return which instructions do not find in the array what a matmul needs there.

    The first matmul of a call never does. A stationary operand is there where the tensor
    instruction before had the same and nothing has written its buffer since; a result where that
    one's took the same bytes of psum and this one accumulates.
    """
    changed = np.ones(len(op), np.bool_)
    ops = decoded.instructions
    first = ops[0].index if ops else 0
    tensor = np.array([i.kind == COMPUTE and i.queue == TENSOR for i in ops], np.bool_)
    matmul = np.array([i.is_matmul for i in ops], np.bool_)
    if not matmul.any():
        return changed
    at = np.flatnonzero(tensor[op - first])
    is_matmul = matmul[op[at] - first]
    both = is_matmul[1:] & is_matmul[:-1]
    if held == "result":
        row = view[access_start[at] + np.where(is_matmul, 2, 0)]
        changed[at[1:]] = ~(both & _same_place(views, row) & (value[at[1:]] != 0))
        return changed
    row = view[access_start[at]]
    buffer = views.buffer[row]
    now = _writes_before(at[1:], buffer[1:], access_start, view, views, writes)
    before = _writes_before(at[:-1], buffer[1:], access_start, view, views, writes)
    changed[at[1:]] = ~(both & (row[1:] == row[:-1]) & (now == before))
    return changed


def _same_place(views: Views, row: Int32) -> Bool:
    """Return which rows, from the second on, take the same bytes as the one before."""
    columns = (views.buffer, views.low, views.high, views.partition_low, views.partition_high)
    return np.logical_and.reduce([c[row[1:]] == c[row[:-1]] for c in columns])


def _writes_before(
    at: Int64, buffer: Int32, access_start: Int64, view: Int32, views: Views, writes: Bool
) -> Int64:
    """Return how many accesses before instructions write some on-chip buffers."""
    n = len(access_start)
    on_chip = writes & ~views.in_dram[view]
    instruction = np.repeat(np.arange(n - 1), np.diff(access_start))[on_chip]
    keys = np.sort(views.buffer[view[on_chip]].astype(np.int64) * n + instruction)
    return np.searchsorted(keys, buffer.astype(np.int64) * n + at)
