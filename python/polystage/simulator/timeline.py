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

Cost: near-linear in the instructions; what shares nothing is timed at once, only what uses a port,
the DMA engines or DRAM goes through a queue of events, by time and then by place in the program.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf, isnan, nan

import numpy as np

from polystage.simulator.compiled import _core, uses_core
from polystage.simulator.trace import (
    COMPUTE,
    DMA,
    GATHER,
    NO_SEMAPHORE,
    PORT_BITS,
    SIGNAL,
    WAIT,
    CoreTrace,
    Float64,
    Int64,
    Rates,
    UInt8,
)

NO_QUEUE: int = -1
ROUNDING = 1e-9
"""A capacity of which less than this part is left is full."""


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
    limits = _dram_limits(cores, rates)
    run = _run_compiled if uses_core() else _run_python
    ran = run(cores, rates, limits)
    blocked = (
        b
        for c, (trace, r) in enumerate(zip(cores, ran, strict=True))
        for b in _blocked(c, trace, r)
    )
    return Timeline(tuple(r.times for r in ran), tuple(blocked))


@dataclass(frozen=True)
class _Ran:
    """The times of one core, and how many instructions of every queue have run."""

    times: CoreTimeline
    counts: list[int]


def _dram_limits(cores: Sequence[CoreTrace], rates: Rates) -> bool:
    """Say whether the cores together could ask for more than DRAM gives."""
    demand = 0.0
    for trace in cores:
        moves = (trace.busy_ns > 0.0) & ((trace.kind == DMA) | (trace.kind == GATHER))
        demand += float((trace.dram_bytes[moves] / trace.busy_ns[moves]).max(initial=0.0))
    return demand > rates.dram_bytes_per_ns


def _is_dma(queue: str) -> bool:
    return queue.startswith("dma")


def _after_start(trace: CoreTrace) -> Int64:
    return trace.after_start if len(trace.after_start) else np.zeros(trace.count + 1, np.int64)


def _run_python(cores: Sequence[CoreTrace], rates: Rates, dram_limits: bool) -> list[_Ran]:
    device = _Device(cores, rates, dram_limits)
    device.run()
    return [_Ran(c.timeline(), [q.at for q in c.queues]) for c in device.cores]


def _run_compiled(cores: Sequence[CoreTrace], rates: Rates, dram_limits: bool) -> list[_Ran]:
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
            np.ascontiguousarray(_after_start(trace), np.int64),
            np.ascontiguousarray(trace.after, np.int64),
            [_is_dma(q) for q in trace.queues],
        )
        for trace in cores
    ]
    ran = _core.run_timeline(columns, rates.dma_startup_ns, rates.dram_bytes_per_ns, dram_limits)
    return [
        _Ran(CoreTimeline(start, move, end, PortWaits(who, port, holder, ns)), counts.tolist())
        for start, move, end, who, port, holder, ns, counts in ran
    ]


def _blocked(core: int, trace: CoreTrace, ran: _Ran) -> Iterator[Blocked]:
    """Yield the queues that stand still, with what their next instructions wait for."""
    programs = [np.flatnonzero(trace.queue == q) for q in range(len(trace.queues))]
    rest = [program[n:] for program, n in zip(programs, ran.counts, strict=True)]
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
            never = np.isnan(ran.times.end_ns[waited])
            awaited = int(trace.queue[waited[never]][0])
        yield Blocked(core, queue, i, semaphore, awaited)


class _Profile:
    """How much of a capacity is taken from now on: `levels[i]` from `times[i]` to the next time.

    The last level is 0 and holds forever.
    """

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.full = capacity * (1.0 - ROUNDING)
        self.times = [0.0]
        self.levels = [0.0]

    def begin(self, now: float) -> None:
        """Forget what lies before `now` and make it the first boundary."""
        times, levels = self.times, self.levels
        i = 0
        while i + 1 < len(times) and times[i + 1] <= now:
            i += 1
        del times[:i], levels[:i]
        if times[0] < now:
            times[0] = now

    def take(self, i: int, until: float, amount: float) -> None:
        """Raise the level from boundary i to `until`, which is not beyond the next boundary."""
        times, levels = self.times, self.levels
        if i + 1 == len(times) or until < times[i + 1]:
            times.insert(i + 1, until)
            levels.insert(i + 1, levels[i])
        level = levels[i] + amount
        levels[i] = self.capacity if level > self.full else level


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

    def __init__(self, number: int, trace: CoreTrace) -> None:
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
        self.after_start = _after_start(trace).tolist()
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
        self.pool = _Profile(1.0)
        self.port_until = dict.fromkeys(PORT_BITS.values(), 0.0)
        self.port_holder = dict.fromkeys(PORT_BITS.values(), 0)
        self.port_waits: list[tuple[int, int, int, float]] = []
        self.queues = [
            _Queue(self, q, np.flatnonzero(trace.queue == q).tolist(), _is_dma(name))
            for q, name in enumerate(trace.queues)
        ]

    def timeline(self) -> CoreTimeline:
        """Return the times as arrays."""
        columns = list(zip(*self.port_waits, strict=True)) or [(), (), (), ()]
        return CoreTimeline(
            np.array(self.start, np.float64),
            np.array(self.move, np.float64),
            np.array(self.end, np.float64),
            PortWaits(
                np.array(columns[0], np.int64),
                np.array(columns[1], np.uint8),
                np.array(columns[2], np.uint8),
                np.array(columns[3], np.float64),
            ),
        )


Event = tuple[float, int, int, bool]
"""Time, instruction, core, and whether its data moves (else it asks for its ports)."""


@dataclass
class _Device:
    """All cores, and what they share."""

    traces: Sequence[CoreTrace]
    rates: Rates
    dram_limits: bool
    events: list[Event] = field(default_factory=list[Event])

    def __post_init__(self) -> None:
        self.cores = [_Core(c, trace) for c, trace in enumerate(self.traces)]
        self.dram = _Profile(self.rates.dram_bytes_per_ns) if self.dram_limits else None
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
            return _fill(pool, work, fastest)
        self.dram.begin(now)
        return _fill_both(pool, self.dram, work, fastest, density)

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


def _fill(pool: _Profile, work: float, fastest: float) -> float:
    """Take up to `fastest` of what is free from the first boundary on until the work is done."""
    i = 0
    while True:
        time = pool.times[i]
        rate = min(fastest, 1.0 - pool.levels[i])
        next_time = pool.times[i + 1] if i + 1 < len(pool.times) else inf
        if rate > 0.0:
            end = time + work / rate
            if end <= next_time:
                pool.take(i, end, rate)
                return end
            work = max(0.0, work - rate * (next_time - time))
            pool.take(i, next_time, rate)
        i += 1


def _fill_both(
    pool: _Profile, dram: _Profile, work: float, fastest: float, density: float
) -> float:
    """Fill the DMA engines no faster than DRAM, of which work takes `density` bytes per ns."""
    i = k = 0
    time = pool.times[0]
    while True:
        free = (dram.capacity - dram.levels[k]) / density
        rate = min(fastest, 1.0 - pool.levels[i], free)
        next_pool = pool.times[i + 1] if i + 1 < len(pool.times) else inf
        next_dram = dram.times[k + 1] if k + 1 < len(dram.times) else inf
        until = min(next_pool, next_dram)
        if rate > 0.0:
            end = time + work / rate
            last = end <= until
            until = end if last else until
            work = max(0.0, work - rate * (until - time))
            pool.take(i, until, rate)
            dram.take(k, until, rate * density)
            if last:
                return end
            next_pool = next_dram = until
        i += next_pool <= until
        k += next_dram <= until
        time = until
