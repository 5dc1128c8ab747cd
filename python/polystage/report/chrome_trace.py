"""A run in Chrome's trace format, which Perfetto and chrome://tracing open.

A process per core with a thread per queue, in which waits for semaphores stand too, a thread with
the layers, and curves of DRAM bandwidth and of occupied sbuf. Arrows go from the last instruction
before a signal to the first after the wait that it let pass.

Source: "Trace Event Format", the public document of the Chromium project.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from polystage.report.activity import dram_section, occupancy
from polystage.simulator import DeviceResult, Result
from polystage.simulator.schedule import Schedule
from polystage.simulator.trace import COMPUTE_QUEUES, SIGNAL, WAIT

Event = dict[str, Any]

LAYERS_THREAD = 0
"""Thread of the layers; the queues follow in their order."""


def chrome_trace(result: Result | DeviceResult, semaphores: Sequence[int] = ()) -> str:
    """Return the trace as JSON; its times are microseconds.

    `semaphores` are the initial values of the program's; without them there are no arrows.
    """
    cores = result.cores if isinstance(result, DeviceResult) else (result,)
    schedule = result.timeline
    events: list[Event] = []
    for core in range(len(cores)):
        rows: list[int] = np.flatnonzero(schedule.core == core).tolist()
        events += _names(schedule, core, cores[core].target.name)
        events += _layers(schedule, rows, core)
        events += _instructions(schedule, rows, core)
        events += _waits(schedule, rows, core)
        events += _arrows(schedule, rows, core, semaphores)
        events += _occupancy(cores[core], core)
    events += _bandwidth(schedule, result.flow.total_ns)
    trace = {"displayTimeUnit": "ns", "traceEvents": events}
    return json.dumps(trace, separators=(",", ":"), allow_nan=False) + "\n"


def _names(schedule: Schedule, core: int, target: str) -> Iterator[Event]:
    yield _meta("process_name", core, 0, name=f"core {core} ({target})")
    for thread, name in enumerate(("layers", *schedule.queues)):
        yield _meta("thread_name", core, thread, name=name)
        yield _meta("thread_sort_index", core, thread, sort_index=thread)


def _meta(event: str, core: int, thread: int, **arguments: Any) -> Event:
    return {"ph": "M", "name": event, "pid": core, "tid": thread, "args": arguments}


def _instructions(schedule: Schedule, rows: Sequence[int], core: int) -> Iterator[Event]:
    for i in rows:
        if not _is_work(schedule, i):
            continue
        op = schedule.ops[schedule.op[i]]
        yield {
            "ph": "X",
            "name": op.name,
            "cat": "instruction",
            "pid": core,
            "tid": int(schedule.queue[i]) + 1,
            **_span(schedule.start_ns[i], schedule.start_ns[i] + schedule.busy_ns[i]),
            "args": {
                "layer": schedule.layers[schedule.layer[i]],
                "kernel": op.kernel,
                "inference": int(schedule.inference[i]),
                "result after us": _us(schedule.end_ns[i] - schedule.start_ns[i]),
                "waited for a port us": _us(schedule.port_wait_ns[i]),
            },
        }


def _waits(schedule: Schedule, rows: Sequence[int], core: int) -> Iterator[Event]:
    """Yield how long compute engines stand still for a semaphore.

    A DMA queue is left out: while it waits, its transfers before the wait still move data.
    """
    for i in rows:
        length = schedule.end_ns[i] - schedule.start_ns[i]
        if schedule.kind[i] == WAIT and schedule.queue[i] < len(COMPUTE_QUEUES) and length > 0:
            yield {
                "ph": "X",
                "name": "wait",
                "cat": "wait",
                "cname": "grey",
                "pid": core,
                "tid": int(schedule.queue[i]) + 1,
                **_span(schedule.start_ns[i], schedule.end_ns[i]),
                "args": {
                    "layer": schedule.layers[schedule.layer[i]],
                    "semaphore": int(schedule.semaphore[i]),
                },
            }


def _layers(schedule: Schedule, rows: Sequence[int], core: int) -> Iterator[Event]:
    """Yield what every layer adds to the time of those before it: parts that never overlap."""
    ends: dict[tuple[int, int], float] = {}
    for i in rows:
        if _is_work(schedule, i):
            key = int(schedule.inference[i]), int(schedule.layer[i])
            ends[key] = max(ends.get(key, 0.0), float(schedule.end_ns[i]))
    reached = 0.0
    for (inference, layer), end in ends.items():  # in program order
        if end > reached:
            yield {
                "ph": "X",
                "name": schedule.layers[layer],
                "cat": "layer",
                "pid": core,
                "tid": LAYERS_THREAD,
                **_span(reached, end),
                "args": {"inference": inference},
            }
            reached = end


def _arrows(
    schedule: Schedule, rows: Sequence[int], core: int, semaphores: Sequence[int]
) -> Iterator[Event]:
    """Yield a pair of events per signal and the wait that it lets pass.

    The k-th signal of a semaphore that starts at v lets its wait number k + v pass.
    """
    sources, targets = _partners(schedule, rows)
    number = 0
    for semaphore, initial in enumerate(semaphores):
        waiting = targets[semaphore][initial:]
        for source, target in zip(sources[semaphore], waiting, strict=False):
            if source >= 0 and target >= 0:
                yield _arrow("s", schedule, source, core, number)
                yield {**_arrow("f", schedule, target, core, number), "bp": "e"}
                number += 1


def _partners(
    schedule: Schedule, rows: Sequence[int]
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Return, by semaphore, the instruction before every signal and the one after every wait."""
    sources: dict[int, list[int]] = defaultdict(list)
    targets: dict[int, list[int]] = defaultdict(list)
    before: dict[int, int] = {}
    passed: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for i in rows:
        queue, semaphore = int(schedule.queue[i]), int(schedule.semaphore[i])
        if schedule.kind[i] == SIGNAL:
            sources[semaphore].append(before.get(queue, -1))
        elif schedule.kind[i] == WAIT:
            passed[queue].append((semaphore, len(targets[semaphore])))
            targets[semaphore].append(-1)
        elif _is_work(schedule, i):
            before[queue] = i
            for waited, place in passed.pop(queue, ()):
                targets[waited][place] = i
    return sources, targets


def _arrow(phase: str, schedule: Schedule, i: int, core: int, number: int) -> Event:
    return {
        "ph": phase,
        "id": f"{core}.{number}",
        "name": "semaphore",
        "cat": "semaphore",
        "pid": core,
        "tid": int(schedule.queue[i]) + 1,
        "ts": _us(schedule.start_ns[i]),
    }


def _bandwidth(schedule: Schedule, end_ns: float) -> Iterator[Event]:
    curve = dram_section(schedule, end_ns)
    for i, rate in enumerate(curve["bytes_per_ns"]):
        yield _counter("DRAM GB/s", 0, i * curve["bin_ns"], rate)
    yield _counter("DRAM GB/s", 0, end_ns, 0)


def _occupancy(result: Result, core: int) -> Iterator[Event]:
    for memory in ("sbuf", "psum"):
        times, sizes = occupancy(result.residences, memory, core)
        for time, size in zip(times, sizes, strict=True):
            yield _counter(f"{memory} bytes", core, time, int(size))


def _counter(name: str, core: int, time_ns: float, value: float) -> Event:
    return {"ph": "C", "name": name, "pid": core, "ts": _us(time_ns), "args": {"value": value}}


def _is_work(schedule: Schedule, i: int) -> bool:
    return schedule.kind[i] not in (SIGNAL, WAIT) and bool(np.isfinite(schedule.end_ns[i]))


def _span(start_ns: float, end_ns: float) -> Event:
    """Return start and duration; both ends are rounded, so that neighbours touch."""
    start = _us(start_ns)
    return {"ts": start, "dur": round(_us(end_ns) - start, 6)}


def _us(ns: float) -> float:
    return round(float(ns) / 1000.0, 6)
