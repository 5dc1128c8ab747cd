"""A core's trace: the calls of @main one after the other, their DRAM operands resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from polystage.errors import SimulationError
from polystage.simulator.accounts import Accounts
from polystage.simulator.decode import Program
from polystage.simulator.expand import KernelTrace
from polystage.simulator.memory import ALWAYS, DramBuffer
from polystage.simulator.trace import (
    DRAM,
    NO_BOX,
    Bool,
    CoreTrace,
    Float64,
    Int32,
    Int64,
    Regions,
)


@dataclass(frozen=True)
class Operand:
    """A DRAM buffer as a call sees it: the number of the buffer, where the operand starts in it
    (elements) and how many bytes it has."""

    buffer: int
    base: int
    bytes: int


@dataclass(frozen=True)
class CoreProgram:
    """What a core executes, with what the numbers need besides.

    `view` and `life` are per access of the trace: a row of the views, and the life of the buffer.
    View i is window `view_window[i]` at element `view_offset[i]` of buffer `view_buffer[i]`.
    `call_layer` and `call_inference` are per call.
    """

    trace: CoreTrace
    view: Int32
    life: Int32
    view_window: Int32
    view_buffer: Int32
    view_offset: Int64
    view_full: Bool
    call_layer: Int32
    call_inference: Int32
    layers: tuple[str, ...]
    inferences: int

    def layer_of(self, instruction: int) -> str:
        """Return the name of the layer of an instruction."""
        return self.layers[self.call_layer[self.trace.call[instruction]]]


@dataclass
class _Segment:
    kernel: KernelTrace
    view: Int32
    region: Int32
    lives: Int64
    call: int


@dataclass
class Assembly:
    """Collects the calls of one inference, in the order of the program."""

    program: Program
    accounts: Accounts = field(default_factory=Accounts)
    segments: list[_Segment] = field(default_factory=list)
    life: dict[int, int] = field(default_factory=dict)
    freed: set[int] = field(default_factory=set)
    lives: int = 0

    def __post_init__(self) -> None:
        self._tables = _Tables(self.program)

    def begin(self, buffer: int) -> None:
        """Start a new life of a DRAM buffer."""
        self.freed.discard(buffer)
        self.life[buffer] = self.lives
        self.lives += 1

    def keep(self, buffer: int) -> None:
        """Give a DRAM buffer one life for all inferences."""
        self.life.setdefault(buffer, ALWAYS - 1 - buffer)

    def call(
        self, kernel: KernelTrace, layer: str, operands: Sequence[Operand], peak_bytes: int
    ) -> None:
        """Append a call of a kernel."""
        for slot, operand in enumerate(operands):
            if operand.buffer in self.freed:
                self._refuse_freed(kernel, slot, layer, operand.buffer)
        buffers = [cast(DramBuffer, self.program.buffers[o.buffer]) for o in operands]
        self.accounts.charge(layer, kernel.decoded, operands, buffers, peak_bytes)
        self._append(kernel, operands)

    def order(self, kernel: KernelTrace) -> None:
        """Append a signal or wait between calls; it belongs to the call before."""
        self.accounts.add(kernel.decoded.counts)
        self._append(kernel, ())

    def _append(self, kernel: KernelTrace, operands: Sequence[Operand]) -> None:
        view, region = self._tables.rows(kernel, operands)
        chip = self.lives + np.arange(kernel.decoded.lives, dtype=np.int64)
        dram = [self.life.get(o.buffer, ALWAYS) for o in reversed(operands)]
        lives = np.concatenate([chip, np.array(dram, np.int64)])  # -1 - slot counts from the end
        self.lives += kernel.decoded.lives
        call = max(0, len(self.accounts.calls) - 1)
        self.segments.append(_Segment(kernel, view, region, lives, call))

    def _refuse_freed(self, kernel: KernelTrace, slot: int, layer: str, buffer: int) -> None:
        """Raise for the first access of a kernel to a buffer that was deallocated."""
        for instruction in kernel.decoded.instructions:
            for position, window in enumerate(instruction.windows):
                if window.memory != DRAM or cast(Any, window.root).slot != slot:
                    continue
                verb = "reads" if position < len(instruction.reads) else "writes"
                freed = cast(DramBuffer, self.program.buffers[buffer])
                raise SimulationError(
                    f"{instruction.place.of_layer(layer)} {verb} {freed.kind} '{freed.name}' in "
                    "DRAM after its deallocation",
                    op=instruction.place,
                )

    def finish(self, semaphores: Sequence[int], inferences: int) -> CoreProgram:
        """Return the trace of some inferences one after the other."""
        once = _joined(self.segments)
        program = self.program
        calls = max(1, len(self.accounts.calls))
        layers = self.accounts.layer_of_calls()
        n, m = len(once.op), len(once.view)

        def repeated(values: Any) -> Any:
            return np.tile(values, inferences)

        def counted(values: Any, step: int) -> Any:
            shift = np.repeat(np.arange(inferences) * step, len(values))
            return (repeated(values) + shift).astype(values.dtype)

        op, changed = repeated(once.op), repeated(once.changed)
        kept = counted(once.life, self.lives)
        columns = _columns(program, op, changed)
        starts = np.append(counted(once.access_start[:-1], m), m * inferences)
        trace = CoreTrace(
            queues=program.queues.names,
            semaphores=np.array(semaphores, np.int64),
            op=op,
            value=repeated(once.value),
            call=counted(once.call, calls),
            access_start=starts,
            region=repeated(once.region),
            writes=repeated(once.writes),
            by_array=repeated(once.by_array),
            regions=self._tables.regions(),
            **columns,
        )
        assert trace.count == n * inferences
        return CoreProgram(
            trace,
            repeated(once.view),
            np.where(repeated(once.life) < 0, repeated(once.life), kept),
            *self._tables.views(),
            repeated(np.array(layers or [0], np.int32)),
            np.repeat(np.arange(inferences, dtype=np.int32), calls),
            tuple(self.accounts.layers) or ("main",),
            inferences,
        )


@dataclass
class _Joined:
    op: Int32
    value: Int64
    changed: Bool
    call: Int32
    access_start: Int64
    view: Int32
    region: Int32
    life: Int32
    writes: Bool
    by_array: Bool


def _joined(segments: Sequence[_Segment]) -> _Joined:
    """Return the arrays of all segments, one after the other."""

    def all_of(dtype: type, parts: list[Any]) -> Any:
        return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)

    kernels = [s.kernel for s in segments]
    counts = [np.diff(k.access_start) for k in kernels]
    calls = [np.full(len(s.kernel.op), s.call, np.int32) for s in segments]
    lives = [s.lives[s.kernel.life] if len(s.lives) else s.kernel.life for s in segments]
    return _Joined(
        all_of(np.int32, [k.op for k in kernels]),
        all_of(np.int64, [k.value for k in kernels]),
        all_of(np.bool_, [k.changed for k in kernels]),
        all_of(np.int32, calls),
        np.concatenate([[0], np.cumsum(all_of(np.int64, counts))]),
        all_of(np.int32, [s.view[s.kernel.view] for s in segments]),
        all_of(np.int32, [s.region[s.kernel.view] for s in segments]),
        all_of(np.int32, lives),
        all_of(np.bool_, [k.writes for k in kernels]),
        all_of(np.bool_, [k.by_array for k in kernels]),
    )


def _columns(program: Program, op: Int32, changed: Bool) -> dict[str, Any]:
    """Return the fields of a trace that instructions have once and for all."""
    ops = program.instructions

    def column(values: list[Any], dtype: type) -> Any:
        return np.array(values, dtype)[op] if ops else np.zeros(0, dtype)

    def cost(name: str) -> Float64:
        first = column([getattr(i.times.changed, name) for i in ops], np.float64)
        second = column([getattr(i.times.held, name) for i in ops], np.float64)
        return np.where(changed, first, second)

    return {
        "kind": column([i.kind for i in ops], np.uint8),
        "queue": column([i.queue for i in ops], np.uint8),
        "busy_ns": cost("busy_ns"),
        "latency_ns": cost("latency_ns"),
        "form_ns": column([i.times.form_ns for i in ops], np.float64),
        "dram_bytes": column([i.times.dram_bytes for i in ops], np.float64),
        "ports": column([i.ports for i in ops], np.uint8),
        "semaphore": column([i.semaphore for i in ops], np.int32),
    }


class _Tables:
    """Regions and views of the whole program: equal regions have one number."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._rank = max((len(w.layout.dims) for w in program.windows), default=0)
        self._known: dict[tuple[int, ...], int] = {}
        self._views: list[tuple[Int32, Int32, Int64, Bool]] = []
        self._view_count = 0
        self._chip: dict[int, tuple[Int32, Int32]] = {}
        self._calls: dict[tuple[object, ...], tuple[Int32, Int32]] = {}
        self._keys: dict[tuple[int, ...], int] = {}

    def rows(self, kernel: KernelTrace, operands: Sequence[Operand]) -> tuple[Int32, Int32]:
        """Return number of view and of region of every row of a kernel's views."""
        binding = (id(kernel), *((o.buffer, o.base) for o in operands))
        found = self._calls.get(binding)
        if found is None:
            found = self._calls[binding] = self._make(kernel, operands)
        return found

    def _make(self, kernel: KernelTrace, operands: Sequence[Operand]) -> tuple[Int32, Int32]:
        views, count = kernel.views, len(kernel.views.window)
        view, region = self._chip.get(id(kernel), (None, None))
        if view is None or region is None:
            view, region = np.zeros(count, np.int32), np.zeros(count, np.int32)
            self._fill(kernel, np.flatnonzero(~views.in_dram), (), view, region)
            self._chip[id(kernel)] = view, region
        if len(kernel.dram_views):
            view, region = view.copy(), region.copy()
            self._fill(kernel, kernel.dram_views, operands, view, region)
        return view, region

    def _fill(
        self,
        kernel: KernelTrace,
        rows: Int64,
        operands: Sequence[Operand],
        view: Int32,
        region: Int32,
    ) -> None:
        """Number the views in some rows, and what they touch."""
        views = kernel.views
        buffer, offset = views.buffer[rows], views.offset[rows]
        low, high = views.low[rows], views.high[rows]
        key = np.zeros(len(rows), np.int32)
        if operands:
            slot = buffer
            base = np.array([o.base for o in operands], np.int64)[slot]
            shift = base * views.itemsize[rows]
            buffer = np.array([o.buffer for o in operands], np.int32)[slot]
            offset, low, high = offset + base, low + shift, high + shift
            key = self._layouts(kernel, rows, operands)
        view[rows] = self._view_count + np.arange(len(rows))
        self._view_count += len(rows)
        self._views.append((views.window[rows], buffer, offset, views.full[rows]))
        key = np.where(views.has_box[rows], key, NO_BOX)
        box = np.tile(np.array([0, 1], np.int32), (len(rows), self._rank))
        box[:, : views.box.shape[1]] = np.where(views.has_box[rows, None], views.box[rows], 0)
        columns = [views.memory[rows], buffer, low, high]
        columns += [views.partition_low[rows], views.partition_high[rows], key]
        region[rows] = self._interned(np.column_stack([*columns, box]).astype(np.int64))

    def _layouts(self, kernel: KernelTrace, rows: Int64, operands: Sequence[Operand]) -> Int32:
        """Return a number per row: boxes compare where base and strides of the operand agree."""
        windows = self.program.windows
        found: dict[int, int] = {}
        for window in np.unique(kernel.views.window[rows]).tolist():
            root = cast(Any, windows[window].root)
            layout = (operands[root.slot].base, *root.strides)
            found[window] = self._keys.setdefault(layout, len(self._keys))
        return np.array([found[w] for w in kernel.views.window[rows].tolist()], np.int32)

    def _interned(self, rows: Int64) -> list[int]:
        known = self._known
        return [known.setdefault(tuple(row), len(known)) for row in rows.tolist()]

    def regions(self) -> Regions:
        """Return the table of regions."""
        columns = 7 + 2 * self._rank
        table = np.array(list(self._known), np.int64).reshape(len(self._known), columns)
        narrow = table.astype(np.int32)
        return Regions(
            table[:, 0].astype(np.uint8),
            narrow[:, 1],
            table[:, 2],
            table[:, 3],
            narrow[:, 4],
            narrow[:, 5],
            narrow[:, 6],
            np.ascontiguousarray(narrow[:, 7:]),
        )

    def views(self) -> tuple[Int32, Int32, Int64, Bool]:
        """Return window, buffer, offset and whether it is the whole buffer, of every view."""
        dtypes = (np.int32, np.int32, np.int64, np.bool_)
        return tuple(  # type: ignore[return-value]
            np.concatenate([np.zeros(0, d), *(v[i] for v in self._views)]).astype(d)
            for i, d in enumerate(dtypes)
        )
