"""Traces written by hand or at random, for the tests of time, dependences and races."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from polystage.compiled import BUILT, CHOICE
from polystage.simulator.trace import (
    COMPUTE,
    COMPUTE_QUEUES,
    DMA,
    DRAM,
    GATHER,
    NO_BOX,
    NO_SEMAPHORE,
    SBUF,
    SIGNAL,
    WAIT,
    CoreTrace,
    Regions,
)

patient = settings(deadline=None)
"""For a machine that does other things too."""


def each_core():
    """Return a fixture that runs every test with Python, then with the compiled core."""

    @pytest.fixture(scope="module", autouse=True, params=["python", "compiled"])
    def core(request):
        if request.param == "compiled" and not BUILT:
            pytest.skip("the compiled core was not built")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(CHOICE, request.param)
            yield

    return core


QUEUES = (*COMPUTE_QUEUES, "dma0", "dma1")
RANK = 2


def regions_of(rows):
    """Make a table of (memory, buffer, bytes, partitions, key, box) rows."""
    rows = list(rows)
    boxes = [[x for bounds in row[5] for x in bounds] for row in rows]
    bounds = np.array([[*row[2], *row[3]] for row in rows], np.int64).reshape(-1, 4)
    return Regions(
        memory=np.array([row[0] for row in rows], np.uint8),
        buffer=np.array([row[1] for row in rows], np.int32),
        low=bounds[:, 0],
        high=bounds[:, 1],
        partition_low=bounds[:, 2].astype(np.int32),
        partition_high=bounds[:, 3].astype(np.int32),
        key=np.array([row[4] for row in rows], np.int32),
        box=np.array(boxes, np.int32).reshape(-1, 2 * RANK),
    )


class Builder:
    """Writes a trace, an instruction at a time; `regions` are rows for `regions_of`."""

    def __init__(self, regions=(), semaphores=()):
        self.regions = regions_of(regions)
        self.semaphores = semaphores
        self.rows = []

    def add(self, kind, queue, *, reads=(), writes=(), array_writes=(), after=(), **columns):
        """Append an instruction and return its number."""
        self.rows.append((kind, QUEUES.index(queue), reads, writes, array_writes, after, columns))
        return len(self.rows) - 1

    def compute(self, queue, busy, latency=None, **columns):
        latency = busy if latency is None else latency
        return self.add(COMPUTE, queue, busy_ns=busy, latency_ns=latency, **columns)

    def dma(self, queue, busy, alone=None, **columns):
        alone = busy if alone is None else alone
        return self.add(DMA, queue, busy_ns=busy, latency_ns=alone, **columns)

    def gather(self, form, busy, alone=None, **columns):
        alone = busy if alone is None else alone
        return self.add(GATHER, "gpsimd", form_ns=form, busy_ns=busy, latency_ns=alone, **columns)

    def signal(self, queue, semaphore):
        return self.add(SIGNAL, queue, semaphore=semaphore)

    def wait(self, queue, semaphore):
        return self.add(WAIT, queue, semaphore=semaphore)

    def trace(self):
        """Return the trace."""

        def column(name, default, dtype):
            return np.array([row[6].get(name, default) for row in self.rows], dtype)

        accesses = [
            [(r, False, False) for r in reads]
            + [(r, True, False) for r in writes]
            + [(r, True, True) for r in array_writes]
            for _, _, reads, writes, array_writes, _, _ in self.rows
        ]
        flat = np.array([a for row in accesses for a in row], np.int64).reshape(-1, 3)
        return CoreTrace(
            queues=QUEUES,
            semaphores=np.array(self.semaphores, np.int64),
            kind=np.array([row[0] for row in self.rows], np.uint8),
            op=column("op", 0, np.int32),
            queue=np.array([row[1] for row in self.rows], np.uint8),
            busy_ns=column("busy_ns", 0.0, np.float64),
            latency_ns=column("latency_ns", 0.0, np.float64),
            form_ns=column("form_ns", 0.0, np.float64),
            dram_bytes=column("dram_bytes", 0.0, np.float64),
            ports=column("ports", 0, np.uint8),
            semaphore=column("semaphore", NO_SEMAPHORE, np.int32),
            value=column("value", 0, np.int64),
            call=column("call", 0, np.int32),
            access_start=np.cumsum([0, *map(len, accesses)], dtype=np.int64),
            region=flat[:, 0].astype(np.int32),
            writes=flat[:, 1].astype(np.bool_),
            by_array=flat[:, 2].astype(np.bool_),
            regions=self.regions,
            after_start=np.cumsum([0, *(len(row[5]) for row in self.rows)], dtype=np.int64),
            after=np.array([e for row in self.rows for e in row[5]], np.int64),
        )


def with_after(trace, waits):
    """Return a trace whose instruction i waits for the entries `waits[i]`."""
    return replace(
        trace,
        after_start=np.cumsum([0, *map(len, waits)], dtype=np.int64),
        after=np.array([e for entries in waits for e in entries], np.int64),
    )


def _region_rows(rng):
    """Return rows of a table: most on chip, overlapping, with and without boxes; some in DRAM."""
    rows = []
    for _ in range(rng.randint(1, 10)):
        buffer = rng.randint(0, 3)
        low, first = rng.randint(0, 12), rng.randint(0, 3)
        starts = [rng.randint(0, 2) for _ in range(RANK)]
        rows.append(
            (
                DRAM if buffer == 3 else SBUF,
                buffer,
                (low, low + rng.randint(1, 6)),
                (first, first + rng.randint(1, 2)),
                rng.choice([NO_BOX, 0, 0, 1]),
                [(start, start + rng.randint(1, 2)) for start in starts],
            )
        )
    return rows


def _time(rng):
    return rng.randint(0, 30) / 3  # so that sums round


def _add_instruction(rng, builder, queue, regions):
    way = "array_writes" if queue == "tensor" and rng.random() < 0.5 else "writes"
    columns = {w: rng.choices(range(regions), k=rng.randint(0, 2)) for w in ("reads", way)}
    busy, more = _time(rng), _time(rng)
    if queue.startswith("dma"):
        builder.dma(queue, busy, busy + more, dram_bytes=rng.randint(0, 40), **columns)
        return
    columns["ports"] = rng.randint(0, 3)
    if queue == "gpsimd" and rng.random() < 0.5:
        columns["dram_bytes"] = rng.randint(0, 40)
        builder.gather(_time(rng), busy, busy + more, **columns)
    else:
        builder.compute(queue, busy, busy + more, **columns)


def random_trace(size, semaphores, seed):
    """Return a trace in which one queue signals and one waits on every semaphore."""
    rng = Random(seed)
    rows = _region_rows(rng)
    sides = [rng.sample(QUEUES, 2) for _ in range(semaphores)]
    builder = Builder(rows, [rng.randint(0, 2) for _ in sides])
    for _ in range(size):
        if sides and rng.random() < 0.4:
            semaphore = rng.randrange(semaphores)
            side = rng.random() < 0.5
            add = builder.wait if side else builder.signal
            add(sides[semaphore][side], semaphore)
        else:
            _add_instruction(rng, builder, rng.choice(QUEUES), len(rows))
    return builder.trace()


def traces(semaphores=5, size=50):
    """Random traces with up to so many semaphores and instructions."""
    return st.builds(
        random_trace,
        size=st.integers(0, size),
        semaphores=st.integers(0, semaphores),
        seed=st.integers(0, 2**32 - 1),
    )
