"""Seven steps from the peak of the tensor engine to what was achieved.

Every step adds one limit of the machine to the one before, and so gives a time that is no shorter;
the ratio of two neighbours is the share that this limit leaves. The product of the seven shares is
the measured utilisation.

Source: Eyexam (Sze, Chen, Yang, Emer, "How to Evaluate Deep Neural Network Processors", IEEE
Solid-State Circuits Magazine 12(3), 2020, table 2), whose steps these are. The formulas are ours:
for an array of R x C processing elements that holds one operand and streams the other, and with
times instead of rates, since a time can be added up over layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from polystage.machine import bounds, cost
from polystage.machine.target import Target


@dataclass(frozen=True)
class Step:
    """One limit: its name in the JSON document, and what to say about it."""

    key: str
    title: str
    explanation: str


STEPS = (
    Step("shape", "layer size and shape", "the layer has fewer multiplications than the array PEs"),
    Step(
        "dataflow",
        "dataflow",
        "the operand that the array holds has fewer elements than the array PEs; the other operand "
        "streams, one element after the other",
    ),
    Step(
        "pes",
        "number of PEs",
        "the held operand is cut into arrays full of elements, and the last one is not full",
    ),
    Step(
        "array",
        "array dimensions",
        "the held operand is cut to the array's rows and to its columns: the edges are not full",
    ),
    Step(
        "storage",
        "storage capacity",
        "tiles as small as psum banks and scratchpad demand: more and shorter matmuls",
    ),
    Step(
        "bandwidth",
        "average bandwidth",
        "DMA, a lane engine or the loads of the array are busy longer than the matmuls last",
    ),
    Step(
        "stalls",
        "varying access, stalls",
        "at times an engine waits although on average there is enough of everything",
    ),
)


@dataclass(frozen=True)
class Contraction:
    """out[b, m, n] = sum over k of stationary[b, k, m] * moving[b, k, n], `count` times."""

    batch: int
    m: int
    n: int
    k: int
    count: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all executions."""
        return self.batch * self.m * self.n * self.k * self.count


@dataclass(frozen=True)
class Losses:
    """The eight times from all PEs at work to the measured one, in ns; none is below another."""

    times_ns: tuple[float, ...]

    @property
    def factors(self) -> tuple[float, ...]:
        """What share of the performance each of the seven steps leaves, each at most 1."""
        times = self.times_ns
        return tuple(a / b if b else 1.0 for a, b in pairwise(times))

    @property
    def utilization(self) -> float:
        """The share of the peak that was achieved: the product of all factors."""
        return self.times_ns[0] / self.times_ns[-1] if self.times_ns[-1] else 0.0


def parallel_steps_cycles(nest: Contraction, target: Target) -> tuple[float, ...]:
    """Return the array cycles of a contraction at peak and after each of the first four steps.

    With P = R * C PEs, weight-stationary (the array holds k x m, n streams):

        peak      b m n k / P
        shape     max(b m n k / P, 1)
        dataflow  b n max(k m / P, 1)
        pes       b n ceil(k m / P)
        array     b n ceil(k / R) ceil(m / C)

    Output-stationary the array holds m x n and k streams: exchange n and k. None is below the one
    before: b n and ceil(x) are at least 1 and x, and an edge tile wastes PEs, never gains them.

    >>> tiny = Target.load("tiny")  # 8 x 8
    >>> parallel_steps_cycles(Contraction(batch=1, m=12, n=10, k=9), tiny)
    (16.875, 16.875, 16.875, 20.0, 40.0)
    """
    rows, columns = target.tensor.rows, target.tensor.columns
    held, streamed = nest.k, nest.n
    if cost.held(target) == "result":
        held, streamed = nest.n, nest.k
    pes, times = rows * columns, nest.batch * streamed
    cycles = (
        nest.macs / nest.count / pes,
        max(nest.macs / nest.count / pes, 1.0),
        times * max(held * nest.m / pes, 1.0),
        times * float(ceil(held * nest.m / pes)),
        times * float(ceil(held / rows) * ceil(nest.m / columns)),
    )
    return tuple(c * nest.count for c in cycles)


def losses(
    target: Target,
    matmuls: Mapping[tuple[int, int, int, str], int],
    nests: Sequence[Contraction],
    busy_ns: Mapping[str, float],
    measured_ns: float,
) -> Losses | None:
    """Return the breakdown of one layer, or None where it multiplies nothing.

    `matmuls` counts the executed instructions by (k, m, n, type); `nests` are the contractions
    they carry out: without them, or if they disagree, every matmul counts as one. `busy_ns` is by
    engine, `measured_ns` the time in which any engine works for the layer.

        storage    every executed matmul at its issue interval: max(n, min_issue) array cycles,
                   output-stationary max(k, min_issue)
        bandwidth  max(storage, busy time of the busiest engine: DMA, vector, scalar, gpsimd, or
                   tensor, with its transposes, strided operands, loads and drains of the array)
        stalls     measured
    """
    macs = sum(k * m * n * count for (k, m, n, _), count in matmuls.items())
    if not macs:
        return None
    if sum(nest.macs for nest in nests) != macs:
        nests = [Contraction(1, m, n, k, count) for (k, m, n, _), count in matmuls.items()]
    cycle_ns = _mean_row_cycles(target, matmuls, macs) / target.tensor.clock_ghz
    steps = [parallel_steps_cycles(nest, target) for nest in nests]
    times = [sum(step) * cycle_ns for step in zip(*steps, strict=True)]
    times.append(bounds.array_bound_ns(target, matmuls))
    return _tightened([*times, max(busy_ns.values(), default=0.0), measured_ns])


def program_losses(
    layers: Iterable[Losses | None], busy_ns: Mapping[str, float], measured_ns: float
) -> Losses | None:
    """Return the breakdown of a program from those of its layers.

    There is one array, so times of the array add up. Other engines work beside it: only their sum
    over the program, `busy_ns`, bounds it.
    """
    found = [layer.times_ns for layer in layers if layer is not None]
    if not found:
        return None
    times = [sum(step) for step in list(zip(*found, strict=True))[:-2]]
    return _tightened([*times, max(busy_ns.values(), default=0.0), measured_ns])


def _tightened(times: Sequence[float]) -> Losses:
    """Return times in which a limit that does not bind changes nothing.

    The first and the last are facts; what lies between is kept between them, which only matters for
    the last digit of sums of floats.
    """
    kept = [times[0]]
    for time in times[1:-1]:
        kept.append(max(kept[-1], min(time, times[-1])))
    return Losses((*kept, times[-1]))


def _mean_row_cycles(
    target: Target, matmuls: Mapping[tuple[int, int, int, str], int], macs: int
) -> float:
    cycles = sum(
        k * m * n * count * getattr(target.tensor.cycles_per_row, dtype)
        for (k, m, n, dtype), count in matmuls.items()
    )
    return cycles / macs
