"""The discrete events of a device: queues that go on, ports that are asked for, data that moves.

What shares nothing is timed at once; what uses a port, the DMA engines or DRAM goes through a queue
of events, by time and then by place in the program. core/timeline.cpp is the compiled twin.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import isnan, nan

import numpy as np

from polystage.simulator.bandwidth import Profile, fill, fill_both
from polystage.simulator.trace import (
    COMPUTE,
    GATHER,
    PORT_BITS,
    SIGNAL,
    WAIT,
    CoreTrace,
    Float64,
    Int64,
    Rates,
    UInt8,
)

CoreTimes = tuple[Float64, Float64, Float64, Int64, UInt8, UInt8, Float64, Int64]
"""Start, move and end of every instruction; port waits (instruction, port, holder, ns); how many
instructions of every queue have run."""


def run_events(
    cores: Sequence[CoreTrace], is_dma: Sequence[Sequence[bool]], rates: Rates, dram_limits: bool
) -> list[CoreTimes]:
    """Return the times of every core; without `dram_limits` there is DRAM bandwidth for all."""
    device = _Device(cores, is_dma, rates, dram_limits)
    device.run()
    return [core.times() for core in device.cores]


class _Queue:
    """An in-order queue: what is next, since when it may run, what has not ended.

    `pending` holds transfers whose end is not known and the signals behind them.
    """

    __slots__ = (
        "at",
        "computed_ns",
        "core",
        "is_dma",
        "moved_ns",
        "number",
        "pending",
        "program",
        "ready_ns",
    )

    def __init__(self, core: _Core, number: int, program: list[int], is_dma: bool) -> None:
        self.core = core
        self.number = number
        self.program = program
        self.is_dma = is_dma
        self.at = 0
        self.ready_ns = 0.0
        self.computed_ns = 0.0
        self.moved_ns = 0.0
        self.pending: deque[int] = deque()


class _Core:
    """One core's trace as lists, and its state."""

    def __init__(self, number: int, trace: CoreTrace, is_dma: Sequence[bool]) -> None:
        n = trace.count
        self.number = number
        self.kind = trace.kind.tolist()
        self.queue = trace.queue.tolist()
        self.busy = trace.busy_ns.tolist()
        self.latency = trace.latency_ns.tolist()
        self.form = trace.form_ns.tolist()
        self.dram = trace.dram_bytes.tolist()
        self.ports = trace.ports.tolist()
        self.semaphore = trace.semaphore.tolist()
        self.after_start = trace.after_start.tolist()
        self.after = trace.after.tolist()
        self.start = [nan] * n
        self.move = [nan] * n
        self.end = [nan] * n
        self.done = [nan] * n
        """End of an instruction and of all of its kind before it in its queue."""
        self.tokens: list[list[float]] = [[0.0] * int(k) for k in trace.semaphores]
        self.taken = [0] * len(self.tokens)
        self.token_waiters: dict[int, _Queue] = {}
        self.end_waiters: dict[int, list[_Queue]] = {}
        """By entry of `after`: queues whose next instruction waits for it."""
        self.pool = Profile(1.0)
        self.port_until = dict.fromkeys(PORT_BITS.values(), 0.0)
        self.port_holder = dict.fromkeys(PORT_BITS.values(), 0)
        self.port_waits: list[tuple[int, int, int, float]] = []
        self.queues = [
            _Queue(self, q, np.flatnonzero(trace.queue == q).tolist(), moves)
            for q, moves in enumerate(is_dma)
        ]

    def times(self) -> CoreTimes:
        """Return the times as arrays."""
        instruction, port, holder, wait_ns = list(zip(*self.port_waits, strict=True)) or [()] * 4
        return (
            np.array(self.start, np.float64),
            np.array(self.move, np.float64),
            np.array(self.end, np.float64),
            np.array(instruction, np.int64),
            np.array(port, np.uint8),
            np.array(holder, np.uint8),
            np.array(wait_ns, np.float64),
            np.array([queue.at for queue in self.queues], np.int64),
        )


Event = tuple[float, int, int, bool]
"""Time, instruction, core, and whether its data moves (else it asks for its ports)."""


@dataclass
class _Device:
    """All cores, and what they share."""

    traces: Sequence[CoreTrace]
    is_dma: Sequence[Sequence[bool]]
    rates: Rates
    dram_limits: bool
    events: list[Event] = field(default_factory=list[Event])

    def __post_init__(self) -> None:
        pairs = zip(self.traces, self.is_dma, strict=True)
        self.cores = [_Core(c, trace, is_dma) for c, (trace, is_dma) in enumerate(pairs)]
        self.dram = Profile(self.rates.dram_bytes_per_ns) if self.dram_limits else None
        self.runnable = [queue for core in self.cores for queue in core.queues]

    def run(self) -> None:
        """Run all queues to their end, or until none can go on."""
        self._advance_runnable()
        while self.events:
            now, i, c, moves = heappop(self.events)
            core = self.cores[c]
            if moves:
                self._move(core, i, now)
            else:
                self._ask_ports(core, i, now)
            self._advance_runnable()

    def _advance_runnable(self) -> None:
        while self.runnable:
            self._advance(self.runnable.pop())

    def _advance(self, queue: _Queue) -> None:
        """Take instructions of a queue until one must wait for something not yet known."""
        core, program = queue.core, queue.program
        while queue.at < len(program):
            i = program[queue.at]
            kind = core.kind[i]
            if kind == SIGNAL:
                self._signal(queue, i)
            elif kind == WAIT:
                if not _pass_wait(queue, i):
                    return
            else:
                start = _after(queue, i)
                if isnan(start):
                    return
                if core.ports[i]:
                    heappush(self.events, (start, i, core.number, False))
                    return
                self._issue(queue, i, start)
            queue.at += 1

    def _issue(self, queue: _Queue, i: int, start: float) -> None:
        """Begin an instruction that nothing holds any more."""
        core = queue.core
        core.start[i] = start
        kind = core.kind[i]
        if kind == COMPUTE:
            queue.ready_ns = start + core.busy[i]
            core.end[i] = end = start + core.latency[i]
            queue.computed_ns = core.done[i] = max(queue.computed_ns, end)
            self._wake(core, ~i)
            self._wake(core, i)
            return
        queue.ready_ns = start + core.form[i] if kind == GATHER else start
        queue.pending.append(i)
        if kind == GATHER or len(queue.pending) == 1:
            self._schedule_move(queue, i)
        self._wake(core, ~i)

    def _schedule_move(self, queue: _Queue, i: int) -> None:
        core = queue.core
        begin = core.start[i] + self.rates.dma_startup_ns
        if core.kind[i] == GATHER:
            begin = core.start[i] + core.form[i] + self.rates.dma_startup_ns
        elif begin < queue.moved_ns:
            begin = queue.moved_ns
        heappush(self.events, (begin, i, core.number, True))

    def _ask_ports(self, core: _Core, i: int, now: float) -> None:
        """Issue an instruction if its ports are free, else ask again when they are."""
        until, latest = now, 0
        for port, end in core.port_until.items():
            if core.ports[i] & port and end > until:
                until, latest = end, port
        if latest:
            core.port_waits.append((i, latest, core.port_holder[latest], until - now))
            heappush(self.events, (until, i, core.number, False))
            return
        queue = core.queues[core.queue[i]]
        self._issue(queue, i, now)
        for port in core.port_until:
            if core.ports[i] & port:
                core.port_until[port] = queue.ready_ns
                core.port_holder[port] = queue.number
        queue.at += 1
        self.runnable.append(queue)

    def _move(self, core: _Core, i: int, now: float) -> None:
        """Move the data of a transfer, then see what waited for its end."""
        queue = core.queues[core.queue[i]]
        core.move[i] = now
        core.end[i] = end = self._reserve(core, i, now)
        pending = queue.pending
        pending.popleft()
        queue.moved_ns = core.done[i] = max(queue.moved_ns, end)
        self._wake(core, i)
        while pending and core.kind[pending[0]] == SIGNAL:
            signal = pending.popleft()
            self._fire(core, signal, max(core.end[signal], queue.moved_ns))
        if pending and queue.is_dma:
            self._schedule_move(queue, pending[0])

    def _reserve(self, core: _Core, i: int, now: float) -> float:
        """Take what a transfer can use of the DMA engines and of DRAM; return when it ends."""
        work, alone = core.busy[i], core.latency[i]
        if work <= 0.0:
            return now
        fastest = min(1.0, work / alone) if alone > 0.0 else 1.0
        density = core.dram[i] / work
        pool = core.pool
        pool.begin(now)
        if self.dram is None or density <= 0.0:
            return fill(pool, work, fastest)
        self.dram.begin(now)
        return fill_both(pool, self.dram, work, fastest, density)

    def _signal(self, queue: _Queue, i: int) -> None:
        """Reach a signal: it fires now if all ends before it are known, else with the last."""
        core = queue.core
        core.start[i] = queue.ready_ns
        known = max(queue.ready_ns, queue.computed_ns)
        if queue.pending:
            core.end[i] = known
            queue.pending.append(i)
        else:
            self._fire(core, i, max(known, queue.moved_ns))

    def _fire(self, core: _Core, i: int, when: float) -> None:
        core.end[i] = when
        semaphore = core.semaphore[i]
        core.tokens[semaphore].append(when)
        waiter = core.token_waiters.pop(semaphore, None)
        if waiter is not None:
            self.runnable.append(waiter)

    def _wake(self, core: _Core, entry: int) -> None:
        waiters = core.end_waiters.pop(entry, None)
        if waiters is not None:
            self.runnable.extend(waiters)


def _pass_wait(queue: _Queue, i: int) -> bool:
    """Take a token and go on, or be woken with the next one."""
    core = queue.core
    if isnan(core.start[i]):
        core.start[i] = queue.ready_ns
    semaphore = core.semaphore[i]
    tokens, taken = core.tokens[semaphore], core.taken[semaphore]
    if taken == len(tokens):
        core.token_waiters[semaphore] = queue
        return False
    core.taken[semaphore] = taken + 1
    core.end[i] = queue.ready_ns = max(queue.ready_ns, tokens[taken])
    return True


def _after(queue: _Queue, i: int) -> float:
    """Return when everything that an instruction waits for by itself has ended, or nan."""
    core, start = queue.core, queue.ready_ns
    for entry in core.after[core.after_start[i] : core.after_start[i + 1]]:
        time = core.done[entry] if entry >= 0 else core.start[~entry] + core.busy[~entry]
        if isnan(time):
            core.end_waiters.setdefault(entry, []).append(queue)
            return nan
        if time > start:
            start = time
    return start
