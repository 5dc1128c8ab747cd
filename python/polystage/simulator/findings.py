"""What a timeline says about a core: schedule, residences, port conflicts, flow, times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from polystage.errors import location_text
from polystage.simulator.accounts import BUSY
from polystage.simulator.assemble import CoreProgram
from polystage.simulator.decode import Program
from polystage.simulator.memory import ChipBuffer
from polystage.simulator.schedule import Flow, OpInfo, PortConflict, Residence, Schedule
from polystage.simulator.timeline import CoreTimeline
from polystage.simulator.trace import (
    COMPUTE,
    DMA,
    DRAM,
    GATHER,
    PORT_BITS,
    SIGNAL,
    Float64,
    Int32,
)


def schedule_of(
    program: Program, core: CoreProgram, timeline: CoreTimeline, number: int
) -> Schedule:
    """Return what a core did, for people."""
    trace = core.trace
    moves = trace.kind == DMA
    busy = np.where(trace.kind == GATHER, trace.form_ns, trace.busy_ns)
    return Schedule(
        start_ns=np.where(moves, timeline.move_ns, timeline.start_ns),
        busy_ns=np.where(moves, timeline.end_ns - timeline.move_ns, busy),
        end_ns=timeline.end_ns,
        port_wait_ns=timeline.port_wait_ns,
        dram_bytes=trace.dram_bytes,
        kind=trace.kind,
        queue=trace.queue,
        semaphore=trace.semaphore,
        op=trace.op,
        layer=core.layer,
        inference=core.call_inference[trace.call],
        core=np.full(trace.count, number, np.int32),
        queues=trace.queues,
        ops=tuple(
            OpInfo(i.place.name, i.place.kernel, location_text(i.place.location))
            for i in program.instructions
        ),
        layers=core.layers,
    )


def joined(schedules: Sequence[Schedule]) -> Schedule:
    """Return one schedule of all cores, with common tables of queues, operations and layers."""
    if len(schedules) == 1:
        return schedules[0]
    queues = tuple(dict.fromkeys(q for s in schedules for q in s.queues))
    layers = tuple(dict.fromkeys(n for s in schedules for n in s.layers))
    ops = tuple(dict.fromkeys(o for s in schedules for o in s.ops))

    def numbered(field: str, table: str, common: Sequence[object], dtype: type) -> np.ndarray:
        number = {entry: i for i, entry in enumerate(common)}
        parts = [
            np.array([number[e] for e in getattr(s, table)], dtype)[getattr(s, field)]
            for s in schedules
        ]
        return np.concatenate(parts)

    plain = ("start_ns", "busy_ns", "end_ns", "port_wait_ns", "dram_bytes")
    plain += ("kind", "semaphore", "inference", "core")
    columns = {name: np.concatenate([getattr(s, name) for s in schedules]) for name in plain}
    return Schedule(
        **columns,
        queue=numbered("queue", "queues", queues, np.uint8),
        op=numbered("op", "ops", ops, np.int32),
        layer=numbered("layer", "layers", layers, np.int32),
        queues=queues,
        ops=ops,
        layers=layers,
    )


def latency_by_layer(core: CoreProgram, timeline: CoreTimeline) -> Float64:
    """Return how much later the last instruction so far ends with every instruction, summed by
    layer.

    Instructions count in the order of the program.
    """
    last = np.maximum.accumulate(np.concatenate([[0.0], timeline.end_ns]))
    latency: Float64 = np.diff(last)
    return np.bincount(core.layer, latency, minlength=len(core.layers)).astype(np.float64)


def busy_by_layer(core: CoreProgram) -> Float64:
    """Return, per layer, how long the engines of `accounts.BUSY` are busy."""
    trace, n = core.trace, len(BUSY)
    layer = core.layer.astype(np.int64) * n
    total = np.zeros(len(core.layers) * n)
    dma = n - 1
    for kind, engine, busy in (
        (COMPUTE, trace.queue, trace.busy_ns),
        (GATHER, trace.queue, trace.form_ns),
        (GATHER, dma, trace.busy_ns),
        (DMA, dma, trace.busy_ns),
    ):
        chosen = trace.kind == kind
        where = (layer + engine)[chosen]
        total += np.bincount(where, busy[chosen], minlength=len(total))
    return total.reshape(-1, n)


def residences_of(
    program: Program, core: CoreProgram, timeline: CoreTimeline, number: int
) -> tuple[Residence, ...]:
    """Return every stay of a buffer on chip, by start, with the layer that touches it first."""
    trace = core.trace
    instruction = np.repeat(np.arange(trace.count), np.diff(trace.access_start))
    chip = np.flatnonzero(trace.regions.memory[trace.region] != DRAM)
    lives, life = np.unique(core.life[chip], return_inverse=True)
    start, end = np.full(len(lives), np.inf), np.zeros(len(lives))
    np.minimum.at(start, life, timeline.start_ns[instruction[chip]])
    np.maximum.at(end, life, timeline.end_ns[instruction[chip]])
    first = np.zeros(len(lives), np.int64)
    first[life[::-1]] = chip[::-1]
    buffers = trace.regions.buffer[trace.region[first]]
    found = [
        _residence(
            cast(ChipBuffer, program.buffers[buffers[k]]),
            float(start[k]),
            float(end[k]),
            number,
            core.layer_of(int(instruction[first[k]])),
        )
        for k in np.argsort(start, kind="stable").tolist()
    ]
    return tuple(found)


def _residence(
    buffer: ChipBuffer, start_ns: float, end_ns: float, core: int, layer: str
) -> Residence:
    return Residence(
        buffer.memory.name,
        buffer.name,
        layer,
        buffer.address,
        buffer.row_bytes,
        buffer.shape[0],
        start_ns,
        end_ns,
        core,
    )


def port_conflicts_of(
    program: Program, core: CoreProgram, timeline: CoreTimeline
) -> tuple[PortConflict, ...]:
    """Return who waited for whose use of a port, longest first."""
    waits, trace = timeline.port_waits, core.trace
    memories = {bit: name for name, bit in PORT_BITS.items()}
    found: dict[tuple[str, str, str, str], tuple[int, float]] = {}
    columns = (waits.instruction, waits.port, waits.holder, waits.wait_ns)
    for i, port, holder, wait_ns in zip(*(c.tolist() for c in columns), strict=True):
        name = program.instructions[trace.op[i]].place.name
        key = memories[port], trace.queues[trace.queue[i]], name, trace.queues[holder]
        count, total = found.get(key, (0, 0.0))
        found[key] = count + 1, total + wait_ns
    conflicts = [PortConflict(*key, *value) for key, value in found.items()]
    return tuple(sorted(conflicts, key=lambda c: -c.stall_ns))


def spans_of(core: CoreProgram, timeline: CoreTimeline) -> tuple[Float64, Float64]:
    """Return when every inference begins and ends."""
    works = core.trace.kind < SIGNAL
    inference: Int32 = core.call_inference[core.trace.call][works]
    begin, end = np.full(core.inferences, np.inf), np.zeros(core.inferences)
    np.minimum.at(begin, inference, timeline.start_ns[works])
    np.maximum.at(end, inference, timeline.end_ns[works])
    return np.where(np.isinf(begin), 0.0, begin), end


def flow_of(begin_ns: Float64, end_ns: Float64) -> Flow:
    """Return the figures of inferences that begin and end at some times.

    How many are in flight is integrated over time by itself, so that Little's law is a check.
    """
    count, total = len(begin_ns), float(end_ns.max(initial=0.0))
    times = np.concatenate([begin_ns, end_ns])
    steps = np.concatenate([np.ones(count), -np.ones(count)])
    order = np.argsort(times, kind="stable")
    in_flight = np.cumsum(steps[order])[:-1]
    integral = float((in_flight * np.diff(times[order])).sum())
    return Flow(
        inferences=count,
        total_ns=total,
        throughput_per_s=count * 1e9 / total if total else 0.0,
        mean_latency_ns=float((end_ns - begin_ns).mean()) if count else 0.0,
        mean_in_flight=integral / total if total else 0.0,
    )
