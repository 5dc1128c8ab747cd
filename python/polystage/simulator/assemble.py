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
from polystage.simulator.tables import Operand, Tables
from polystage.simulator.trace import (
    DRAM,
    Bool,
    CoreTrace,
    Float64,
    Int32,
    Int64,
)


@dataclass(frozen=True)
class CoreProgram:
    """What a core executes, with what the numbers need besides.

    `view` and `life` are per access of the trace: a row of the views, and the life of the buffer.
    View i is window `view_window[i]` at element `view_offset[i]` of buffer `view_buffer[i]`.
    `layer` is that of every instruction, `call_inference` is per call.
    """

    trace: CoreTrace
    view: Int32
    life: Int32
    view_window: Int32
    view_buffer: Int32
    view_offset: Int64
    view_full: Bool
    layer: Int32
    call_inference: Int32
    layers: tuple[str, ...]
    inferences: int

    def layer_of(self, instruction: int) -> str:
        """Return the name of the layer of an instruction."""
        return self.layers[self.layer[instruction]]


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
        self._tables = Tables(self.program)

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
        self.accounts.add(kernel.decoded.work.values())
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
                place = instruction.place.of_layer(instruction.layer or layer)
                raise SimulationError(
                    f"{place} {verb} {freed.kind} '{freed.name}' in DRAM after its deallocation",
                    op=instruction.place,
                )

    def finish(self, semaphores: Sequence[int], inferences: int) -> CoreProgram:
        """Return the trace of some inferences one after the other."""
        once = _joined(self.segments)
        program = self.program
        calls = max(1, len(self.accounts.calls))
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
            repeated(self._layers(once)),
            np.repeat(np.arange(inferences, dtype=np.int32), calls),
            tuple(self.accounts.layers) or ("main",),
            inferences,
        )

    def _layers(self, once: _Joined) -> Int32:
        """Return the layer of every instruction: the one that it names, or that of its call."""
        numbers = {name: i for i, name in enumerate(self.accounts.layers)}
        of_call = np.array(self.accounts.layer_of_calls() or [0], np.int32)[once.call]
        if not any(i.layer for i in self.program.instructions):
            return of_call
        named = np.array([numbers.get(i.layer, -1) for i in self.program.instructions], np.int32)
        own = named[once.op]
        return np.where(own < 0, of_call, own)


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
