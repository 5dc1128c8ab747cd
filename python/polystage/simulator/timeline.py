"""Time: in-order queues, semaphores, ports that exclude each other, DMA engines and DRAM.

A compute engine takes an instruction when the one before is issued, `busy_ns` after it began; the
result is there `latency_ns` after the begin. A DMA queue triggers a transfer as soon as it may,
while those before still move; data moves `dma_startup_ns` later, one transfer of a queue at a time.
All queues of a core share its DMA engines, all cores the DRAM of the device: transfers that begin
to move earlier take what they can use, later ones what is left. gpsimd forms the descriptors of a
gather, which then moves like a transfer and keeps no queue.

A semaphore goes up when everything before its signal has ended, and a wait holds its queue until
the semaphore is positive. `after` of the trace holds an instruction until single other ones have
ended, and with them all of the same kind before them in their queue.

Cost: near-linear in the instructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from polystage.compiled import _core, uses_core
from polystage.simulator.events import CoreTimes, run_events
from polystage.simulator.trace import (
    DMA,
    GATHER,
    NO_SEMAPHORE,
    SIGNAL,
    WAIT,
    CoreTrace,
    Float64,
    Int64,
    Rates,
    UInt8,
)

NO_QUEUE: int = -1


@dataclass(frozen=True)
class PortWaits:
    """Every time an instruction found a port taken: by whom, and how long until it was free.

    `port` is a bit of `trace.PORT_BITS`, `holder` the queue that used it.
    """

    instruction: Int64
    port: UInt8
    holder: UInt8
    wait_ns: Float64


@dataclass(frozen=True)
class CoreTimeline:
    """When every instruction of one core ran; nan where it never did.

    `start_ns`: a compute instruction or gather begins, a transfer is triggered, a signal or wait is
    reached. `move_ns`: the data of a transfer or gather begins to move. `end_ns`: the result is
    there, the semaphore goes up, the wait has passed.
    """

    start_ns: Float64
    move_ns: Float64
    end_ns: Float64
    port_waits: PortWaits

    @property
    def port_wait_ns(self) -> Float64:
        """How long every instruction waited for ports."""
        total = np.zeros(len(self.start_ns))
        np.add.at(total, self.port_waits.instruction, self.port_waits.wait_ns)
        return total


@dataclass(frozen=True)
class Blocked:
    """A queue whose next instruction can never run.

    `semaphore` is what it waits for, and `awaited` the queue of the same core that should signal it
    or whose instruction should end (`NO_QUEUE` where nothing is left that signals).
    """

    core: int
    queue: int
    instruction: int
    semaphore: int
    awaited: int


@dataclass(frozen=True)
class Timeline:
    """When every instruction of all cores ran, and what never could."""

    cores: tuple[CoreTimeline, ...]
    blocked: tuple[Blocked, ...]

    @property
    def end_ns(self) -> float:
        """When the last instruction of all has ended."""
        ends = (float(np.nanmax(c.end_ns)) for c in self.cores if np.isfinite(c.end_ns).any())
        return max(ends, default=0.0)


def deadlock_cycle(blocked: Sequence[Blocked]) -> tuple[Blocked, ...]:
    """Return queues of which each waits for the next, and the last for the first.

    Where there is no such cycle, the chain ends with a queue that waits for a signal of which no
    more is to come.
    """
    heads = {(b.core, b.queue): b for b in blocked}
    chain: list[Blocked] = []
    at = blocked[0] if blocked else None
    while at is not None and at not in chain:
        chain.append(at)
        at = heads.get((at.core, at.awaited))
    return tuple(chain[chain.index(at) :] if at is not None else chain)


def run_timeline(cores: Sequence[CoreTrace], rates: Rates) -> Timeline:
    """Return when every instruction runs.

    Units: ns.
    """
    cores = [_with_after(trace) for trace in cores]
    is_dma = [[q.startswith("dma") for q in trace.queues] for trace in cores]
    run = _run_compiled if uses_core() else run_events
    timelines: list[CoreTimeline] = []
    blocked: list[Blocked] = []
    for trace, times in zip(
        cores, run(cores, is_dma, rates, _dram_limits(cores, rates)), strict=True
    ):
        start, move, end, who, port, holder, wait_ns, ran = times
        blocked += _blocked(len(timelines), trace, end, ran.tolist())
        timelines.append(CoreTimeline(start, move, end, PortWaits(who, port, holder, wait_ns)))
    return Timeline(tuple(timelines), tuple(blocked))


def _with_after(trace: CoreTrace) -> CoreTrace:
    if len(trace.after_start):
        return trace
    return replace(trace, after_start=np.zeros(trace.count + 1, np.int64))


def _dram_limits(cores: Sequence[CoreTrace], rates: Rates) -> bool:
    """Say whether the cores together could ask for more than DRAM gives."""
    demand = 0.0
    for trace in cores:
        moves = (trace.busy_ns > 0.0) & ((trace.kind == DMA) | (trace.kind == GATHER))
        demand += float((trace.dram_bytes[moves] / trace.busy_ns[moves]).max(initial=0.0))
    return demand > rates.dram_bytes_per_ns


def _run_compiled(
    cores: Sequence[CoreTrace], is_dma: Sequence[Sequence[bool]], rates: Rates, dram_limits: bool
) -> list[CoreTimes]:
    columns = [
        _core.TraceColumns(
            np.ascontiguousarray(trace.kind, np.uint8),
            np.ascontiguousarray(trace.queue, np.uint8),
            np.ascontiguousarray(trace.busy_ns, np.float64),
            np.ascontiguousarray(trace.latency_ns, np.float64),
            np.ascontiguousarray(trace.form_ns, np.float64),
            np.ascontiguousarray(trace.dram_bytes, np.float64),
            np.ascontiguousarray(trace.ports, np.uint8),
            np.ascontiguousarray(trace.semaphore, np.int32),
            np.ascontiguousarray(trace.semaphores, np.int64),
            np.ascontiguousarray(trace.after_start, np.int64),
            np.ascontiguousarray(trace.after, np.int64),
            moves,
        )
        for trace, moves in zip(cores, is_dma, strict=True)
    ]
    return _core.run_timeline(columns, rates.dma_startup_ns, rates.dram_bytes_per_ns, dram_limits)


def _blocked(core: int, trace: CoreTrace, end_ns: Float64, ran: Sequence[int]) -> Iterator[Blocked]:
    """Yield the queues that stand still, with what their next instructions wait for."""
    programs = [np.flatnonzero(trace.queue == q) for q in range(len(trace.queues))]
    rest = [program[n:] for program, n in zip(programs, ran, strict=True)]
    for queue, left in enumerate(rest):
        if not len(left):
            continue
        i, semaphore, awaited = int(left[0]), NO_SEMAPHORE, NO_QUEUE
        if trace.kind[i] == WAIT:
            semaphore = int(trace.semaphore[i])
            for other, theirs in enumerate(rest):
                signals = (trace.kind[theirs] == SIGNAL) & (trace.semaphore[theirs] == semaphore)
                awaited = other if signals.any() else awaited
        else:
            entries = trace.after[trace.after_start[i] : trace.after_start[i + 1]]
            waited = np.where(entries < 0, ~entries, entries)
            never = np.isnan(end_ns[waited])
            awaited = int(trace.queue[waited[never]][0])
        yield Blocked(core, queue, i, semaphore, awaited)
