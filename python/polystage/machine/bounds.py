"""Lower bounds of time and energy, from what was done: no run can be better.

Two kinds. What the *problem* asks for bounds every program: its multiply-accumulates at the peak
rate of their types, and the bytes that must cross the DRAM interface at least once. What the
*program* does bounds it further: its matmuls in whole arrays, the operations of its lane engines,
all the bytes that it moves. Every bound assumes that everything else hides behind it, so latency is
at least the largest of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from polystage.machine import cost, energy
from polystage.machine.components import LaneEngine
from polystage.machine.target import Target


class Done(Protocol):
    """What a program, or a layer of it, does: the counts that the simulator's `Cost` has."""

    @property
    def matmuls(self) -> Mapping[tuple[int, int, int, str], int]:
        """Matmuls by (k, m, n, operand type)."""
        ...

    @property
    def operations(self) -> Mapping[str, int]:
        """Operations on single elements, by lane engine."""
        ...

    @property
    def compulsory_bytes(self) -> int:
        """Bytes that must cross the DRAM interface, whatever the program."""
        ...

    @property
    def dram_read_bytes(self) -> int:
        """Bytes read from DRAM."""
        ...

    @property
    def dram_write_bytes(self) -> int:
        """Bytes written to DRAM."""
        ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """Least times in ns, and least energy in pJ."""

    compute_ns: float
    """Multiply-accumulates with the whole array at work, at the rate of their types."""
    compulsory_ns: float
    """Compulsory bytes at the peak of DRAM, or of all DMA engines if less."""
    array_ns: float
    """The matmuls in steps of the array: what a matmul leaves empty, it leaves empty."""
    lanes_ns: float
    """The operations of the busiest lane engine, with all its lanes at work."""
    dram_ns: float
    """All the bytes that cross the DRAM interface at its peak, or that of the DMA engines."""
    dynamic_pj: float
    """Multiply-accumulates and their registers, compulsory bytes."""
    static_pj: float
    """Static power for the least latency of any program; layers that overlap share it."""

    @property
    def problem_ns(self) -> float:
        """The least latency of any program for the same problem."""
        return max(self.compute_ns, self.compulsory_ns)

    @property
    def program_ns(self) -> float:
        """The least latency of this program."""
        return max(self.problem_ns, self.array_ns, self.lanes_ns, self.dram_ns)

    @property
    def energy_pj(self) -> float:
        """The least energy of any program for the same problem."""
        return self.dynamic_pj + self.static_pj


def bounds_of(target: Target, done: Done) -> Bounds:
    """Return the bounds of a program or a layer."""
    macs: dict[str, int] = {}
    for (k, m, n, dtype), count in done.matmuls.items():
        macs[dtype] = macs.get(dtype, 0) + k * m * n * count
    compute = sum(cost.compute_bound_ns(target, count, dtype) for dtype, count in macs.items())
    compulsory = cost.dram_bound_ns(target, done.compulsory_bytes)
    moved = done.dram_read_bytes + done.dram_write_bytes
    lanes = [lanes_bound_ns(target, engine, n) for engine, n in done.operations.items()]
    return Bounds(
        compute_ns=compute,
        compulsory_ns=compulsory,
        array_ns=array_bound_ns(target, done.matmuls),
        lanes_ns=max(lanes, default=0.0),
        dram_ns=cost.dram_bound_ns(target, moved),
        dynamic_pj=sum(
            energy.mac_pj(target, count, dtype) + energy.register_pj(target, count, dtype)
            for dtype, count in macs.items()
        )
        + energy.access_pj(target, "dram", done.compulsory_bytes),
        static_pj=energy.static_pj(target, max(compute, compulsory)),
    )


def array_bound_ns(target: Target, matmuls: Mapping[tuple[int, int, int, str], int]) -> float:
    """Return the time of matmuls by (k, m, n, type), each at its issue interval.

    Loads, drains, strides and start-ups are left out. A weight-stationary array takes n steps
    whatever k and m are, so 1 x 1 x 512 takes as long as 128 x 128 x 512 on neuroncore_v2. One
    that is larger than the array, as beside a flat scratchpad, counts every pass:

    >>> v2 = Target.load("neuroncore_v2")
    >>> round(array_bound_ns(v2, {(1, 1, 512, "bf16"): 28}))
    5120
    """
    held = cost.held(target)
    cycles = sum(
        count
        * cost.array_passes(target, k, m, n)
        * cost.stream_cycles(target, n if held == "stationary" else k, dtype)
        for (k, m, n, dtype), count in matmuls.items()
    )
    return cycles / target.tensor.clock_ghz


def lanes_bound_ns(target: Target, engine: str, operations: int) -> float:
    """Return the time of `operations` on single elements with all lanes of an engine at work."""
    unit: LaneEngine = getattr(target, engine)
    return operations / unit.operations_per_ns
