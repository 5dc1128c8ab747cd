"""The course of a run, made small enough to be stored, drawn and compared.

Times of the JSON document are whole nanoseconds; a column that only grows is stored as differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from polystage.simulator.schedule import Residence, Schedule
from polystage.simulator.trace import DMA, SIGNAL, WAIT

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MAX_INTERVALS = 30_000
"""Intervals of a report; of more, neighbours are drawn as one."""

MAX_RESIDENCES = 20_000
"""Residences of a report; of more, the shortest are left out of the drawing."""

BINS = 600
"""Points of the curve of DRAM bandwidth."""


def own_times_ns(schedule: Schedule, startup_ns: float) -> Floats:
    """Return per layer how long anything at all was under way for it, over all cores.

    This is the length of the union of its instructions' intervals, so that overlap within a layer
    counts once, and overlap of layers does not matter. A transfer is under way from its trigger, at
    the latest `startup_ns` before its data moves.
    """
    times = np.zeros(len(schedule.layers))
    works = _works(schedule)
    begin = schedule.start_ns - np.where(schedule.kind == DMA, startup_ns, 0.0)
    for core in np.unique(schedule.core[works]):
        here = works & (schedule.core == core)
        order = np.lexsort((begin[here], schedule.layer[here]))
        layer = schedule.layer[here][order]
        start, end = begin[here][order], schedule.end_ns[here][order]
        for number in np.unique(layer):
            mine = layer == number
            times[number] += _union(start[mine], end[mine])
    return times


def _works(schedule: Schedule) -> Flags:
    """Return which instructions do something, rather than order others."""
    return (schedule.kind != SIGNAL) & (schedule.kind != WAIT) & np.isfinite(schedule.end_ns)


def _union(start: Floats, end: Floats) -> float:
    """Return the length of the union of intervals that are sorted by start."""
    reached = np.maximum.accumulate(end)
    begin = np.maximum(start, np.concatenate(([start[0]], reached[:-1])))
    return float(np.maximum(end - begin, 0.0).sum())


def timeline_section(
    schedule: Schedule, layers: Sequence[str], limit: int = MAX_INTERVALS
) -> dict[str, Any]:
    """Return intervals in which a queue was busy, as columns.

    `start_ns` are differences, the first from 0. `layer` is a position in `layers`, `op` one in
    `ops`, `track` is core * number of queues + queue. Where there are more than `limit`, neighbours
    of one queue and layer become one with a gap of at most `merged_gap_ns` between them, and
    `instructions` counts what they stand for.
    """
    rows = np.flatnonzero(_works(schedule) & (schedule.busy_ns > 0))
    rows = rows[np.lexsort((schedule.start_ns[rows], schedule.queue[rows], schedule.core[rows]))]
    track = schedule.core[rows].astype(np.int64) * len(schedule.queues) + schedule.queue[rows]
    start = schedule.start_ns[rows]
    stop = start + schedule.busy_ns[rows]
    first, gap = _merged(track, schedule.layer[rows], start, stop, limit)
    last = np.append(first[1:], len(rows))[: len(first)] - 1
    order = np.argsort(start[first], kind="stable")
    first, last = first[order], last[order]
    ops, op_of = _distinct_ops(schedule)
    begin, end = _whole(start[first]), _whole(stop[last])
    return {
        "queues": list(schedule.queues),
        "cores": int(schedule.core.max()) + 1 if schedule.count else 1,
        "ops": [list(op) for op in ops],
        "end_ns": float(np.nanmax(schedule.end_ns)) if schedule.count else 0.0,
        "merged_gap_ns": gap,
        "start_ns": np.diff(begin, prepend=0).tolist(),
        "busy_ns": np.maximum(end - begin, 0).tolist(),
        "track": track[first].tolist(),
        "layer": _positions(schedule.layers, layers)[schedule.layer[rows][first]].tolist(),
        "op": op_of[schedule.op[rows][first]].tolist(),
        "instructions": (last - first + 1).tolist(),
        "inference": schedule.inference[rows][first].tolist(),
    }


def _positions(names: Sequence[str], among: Sequence[str]) -> Ints:
    """Return where every name stands in another sequence, -1 where it does not."""
    position = {name: i for i, name in enumerate(among)}
    return np.array([position.get(name, -1) for name in names], np.int64)


def _distinct_ops(schedule: Schedule) -> tuple[list[tuple[str, str]], Ints]:
    """Return what is said of operations, name and kernel, and where every operation is in it."""
    texts = [(op.name, op.kernel) for op in schedule.ops]
    distinct = list(dict.fromkeys(texts))
    position = {text: i for i, text in enumerate(distinct)}
    return distinct, np.array([position[text] for text in texts], np.int64)


def _merged(
    track: Ints, layer: npt.NDArray[Any], start: Floats, stop: Floats, limit: int
) -> tuple[Ints, float]:
    """Return the first of every run of neighbours, and the gap that they may have."""
    if not len(start):
        return np.zeros(0, np.int64), 0.0
    differs = (np.diff(track) != 0) | (np.diff(layer) != 0)
    gaps = start[1:] - stop[:-1]
    allowed = 0.0
    breaks = np.ones(len(gaps), np.bool_)
    while breaks.sum() >= limit and not np.array_equal(breaks, differs):
        allowed = max(1.0, 2 * allowed)
        breaks = differs | (gaps > allowed)
    return np.flatnonzero(np.concatenate(([True], breaks))).astype(np.int64), allowed


def _whole(times: Floats) -> Ints:
    return np.rint(times).astype(np.int64)


def dram_section(schedule: Schedule, end_ns: float, bins: int = BINS) -> dict[str, Any]:
    """Return the DRAM bandwidth over time, in bytes per ns: the means of equal parts of the run."""
    moves = _works(schedule) & (schedule.dram_bytes > 0)
    start, end = schedule.start_ns[moves], schedule.end_ns[moves]
    edges = np.linspace(0.0, end_ns, bins + 1)
    cumulative = np.zeros(bins + 1)
    for amount, a, b in zip(schedule.dram_bytes[moves], start, end, strict=True):
        low, high = np.searchsorted(edges, (a, b))
        share = (edges[low:high] - a) / max(b - a, 1e-9)
        cumulative[low:high] += amount * share
        cumulative[high:] += amount
    width = end_ns / bins
    rates = np.diff(cumulative) / width if width else np.zeros(bins)
    return {"bin_ns": width, "bytes_per_ns": [round(float(r), 2) for r in rates]}


def residence_section(
    residences: Sequence[Residence], layers: Sequence[str], limit: int = MAX_RESIDENCES
) -> dict[str, Any]:
    """Return who occupied which bytes of sbuf and psum when, as columns.

    `layer` is a position in `layers`, -1 for none, `name` one in `names`.
    """
    kept = sorted(residences, key=lambda r: r.start_ns - r.end_ns)[:limit]
    kept.sort(key=lambda r: (r.start_ns, r.core, r.memory, r.address))
    names = list(dict.fromkeys(r.name for r in kept))
    name_index = {name: i for i, name in enumerate(names)}
    layer_index = {name: i for i, name in enumerate(layers)}
    start = _whole(np.array([r.start_ns for r in kept], np.float64))
    end = _whole(np.array([r.end_ns for r in kept], np.float64))
    return {
        "left_out": len(residences) - len(kept),
        "names": names,
        "start_ns": np.diff(start, prepend=0).tolist(),
        "length_ns": (end - start).tolist(),
        "memory": [_memory(r) for r in kept],
        "name": [name_index[r.name] for r in kept],
        "layer": [layer_index.get(r.layer, -1) for r in kept],
        "address": [r.address for r in kept],
        "bytes": [r.bytes_per_partition for r in kept],
        "partitions": [r.partitions for r in kept],
        "core": [r.core for r in kept],
    }


def _memory(residence: Residence) -> int:
    return 0 if residence.memory == "sbuf" else 1


def occupancy(residences: Iterable[Residence], memory: str, core: int) -> tuple[Floats, Floats]:
    """Return times and the bytes that buffers of a memory occupy from each on, all partitions."""
    mine = [r for r in residences if r.memory == memory and r.core == core]
    size = np.array([r.bytes_per_partition * r.partitions for r in mine], np.float64)
    start = np.array([r.start_ns for r in mine], np.float64)
    end = np.array([r.end_ns for r in mine], np.float64)
    times, position = np.unique(np.concatenate((start, end)), return_inverse=True)
    changes = np.zeros(len(times))
    np.add.at(changes, position, np.concatenate((size, -size)))
    return times, np.cumsum(changes)
