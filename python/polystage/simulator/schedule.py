"""What happened when, for people: instructions, who occupied which bytes, who waited for a port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polystage.simulator.trace import Float64, Int32, UInt8


@dataclass(frozen=True)
class OpInfo:
    """An operation of the program: every execution of it is an instruction."""

    name: str
    kernel: str
    location: str


@dataclass(frozen=True)
class Schedule:
    """Every executed instruction, one entry per array, core by core in program order.

    An instruction occupies its queue from `start_ns` for `busy_ns`; its result is there at
    `end_ns`. For a transfer the two are when its data moves, start-up excluded, so that what a
    queue does never overlaps. `kind` is one of `trace.COMPUTE`, `DMA`, `GATHER`, `SIGNAL`, `WAIT`.
    `port_wait_ns` of it went by before the start because a port was taken, `dram_bytes` cross the
    DRAM interface, `semaphore` is -1 but for signals and waits. `queue`, `op` and `layer` are
    positions in `queues`, `ops` and `layers`; `inference` and `core` count from 0.
    """

    start_ns: Float64
    busy_ns: Float64
    end_ns: Float64
    port_wait_ns: Float64
    dram_bytes: Float64
    kind: UInt8
    queue: UInt8
    semaphore: Int32
    op: Int32
    layer: Int32
    inference: Int32
    core: Int32
    queues: tuple[str, ...]
    ops: tuple[OpInfo, ...]
    layers: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of instructions."""
        return len(self.start_ns)


@dataclass(frozen=True)
class Residence:
    """A buffer's stay in an on-chip memory: from the start of its first access to the end of its
    last.

    `address` and `bytes_per_partition` hold in each of its `partitions`, from partition 0.
    """

    memory: str
    name: str
    layer: str
    address: int
    bytes_per_partition: int
    partitions: int
    start_ns: float
    end_ns: float
    core: int = 0


@dataclass(frozen=True)
class PortConflict:
    """How often and how long an operation waited for another queue's use of a memory's port.

    `op` is the name of the operation that waited in `queue`, `other` the queue that used the port.
    """

    memory: str
    queue: str
    op: str
    other: str
    count: int
    stall_ns: float


@dataclass(frozen=True)
class Race:
    """Two conflicting accesses that nothing orders: who, and where they meet.

    `first` and `layer` stand before `second` and `other_layer` in the program; `location` is that
    of the second, as `file:line:col`.
    """

    first: str
    second: str
    where: str
    layer: str = ""
    other_layer: str = ""
    location: str = ""

    def __str__(self) -> str:
        return f"{self.second} and {self.first} touch {self.where}, and nothing orders them"


@dataclass(frozen=True)
class Flow:
    """Inferences that pass through the device.

    An inference is in flight from the start of its first instruction to the end of its last.
    `mean_in_flight` is the integral of how many are over the time, divided by it; Little's law says
    that it is `throughput_per_s * mean_latency_ns / 1e9`.
    """

    inferences: int
    total_ns: float
    throughput_per_s: float
    mean_latency_ns: float
    mean_in_flight: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name; latencies in microseconds."""
        return {
            "inferences": self.inferences,
            "total_us": self.total_ns / 1000.0,
            "throughput_per_s": self.throughput_per_s,
            "mean_latency_us": self.mean_latency_ns / 1000.0,
            "mean_in_flight": self.mean_in_flight,
        }
