"""A call of a kernel as tasks of the list scheduler."""

from __future__ import annotations

import numpy as np

from polystage.planner.task_blocks import Task
from polystage.simulator import Lives, Traced, orders_of


def tasks_of(program: Traced, call: range, lives: Lives | None = None) -> list[Task]:
    """Return the instructions of a call as the scheduler sees them; with `lives`, what is in psum
    may lie in any bank."""
    trace, span = program.trace, slice(call.start, call.stop)
    op = trace.op[span]
    stationary = trace.region[trace.access_start[span]]
    held = np.where(program.is_matmul()[span], stationary, -1)
    moves = np.array([name.startswith("dma") for name in trace.queues])[trace.queue[span]]
    columns = (
        trace.queue[span],
        program.times(op, "changed", "busy_ns"),
        program.times(op, "changed", "latency_ns"),
        trace.ports[span],
        held,
        program.times(op, "held", "busy_ns"),
        np.where(moves, program.rates.dma_startup_ns, 0.0),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    befores = orders_of(trace, call, None if lives is None else lives.of_access)
    of_task = [()] * len(call) if lives is None else lives.of_instructions(trace, call)
    return [
        Task(queue, busy, latency, before.after, before.waits, *rest, lives=parts)
        for before, parts, (queue, busy, latency, *rest) in zip(befores, of_task, rows, strict=True)
    ]


def accumulations_of(program: Traced, call: range) -> list[list[int]]:
    """Return the runs of matmuls that must not be interrupted: from where an accumulation begins,
    perhaps together with others, to where all of them have ended."""
    trace, is_matmul = program.trace, program.is_matmul()
    spans: list[list[int]] = []
    matmuls = [i for i in call if is_matmul[i]]
    span_of: dict[int, list[int]] = {}
    for place, i in enumerate(matmuls):
        psum = int(trace.region[trace.access_start[i + 1] - 1])
        if not trace.value[i] or psum not in span_of:
            span_of[psum] = [place, place]
            spans.append(span_of[psum])
        span_of[psum][1] = place
    found: list[list[int]] = []
    end = -1
    for first, stop in sorted(spans):
        if first > end:
            found.append([])
        new = range(max(first, end + 1), stop + 1)
        found[-1] += [matmuls[place] - call.start for place in new]
        end = max(end, stop)
    return [run for run in found if len(run) > 1]
