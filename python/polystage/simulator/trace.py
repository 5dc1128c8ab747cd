"""What one core executes: every dynamic instruction, in program order, as arrays.

The decoder makes a trace, the timeline gives every instruction its time, and the numbers are
computed in the order of these times. Nothing here knows MLIR.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

# Kinds of instructions.
COMPUTE, DMA, GATHER, SIGNAL, WAIT = range(5)

# Memories of regions, and the bits of the ports that engines may have to themselves.
SBUF, PSUM, DRAM = range(3)
PORT_BITS = {"sbuf": 1, "psum": 2}

NO_BOX = -1
NO_SEMAPHORE = -1

# Queues of the compute engines; the DMA queues follow as dma0, dma1, ..
COMPUTE_QUEUES = ("tensor", "vector", "scalar", "gpsimd")

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]


def _no_indices() -> Int64:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Rates:
    """What all instructions share: the start-up of a DMA, and the bandwidth of the device's DRAM.

    The DRAM bandwidth is that of all cores together; what one core may take is in the times of its
    transfers.

    Units: ns, bytes per ns.
    """

    dma_startup_ns: float
    dram_bytes_per_ns: float


@dataclass(frozen=True)
class Regions:
    """What accesses touch, one row each.

    `buffer` is a number of its own for every place of every on-chip buffer and for every DRAM
    buffer. `low` and `high` are bytes: on chip absolute addresses within a partition, in DRAM
    offsets in the buffer. Regions of different on-chip buffers meet where bytes and partitions do;
    regions of one buffer must also have boxes that meet, if both have one of the same `key`.
    `box` holds (start, stop) of every dimension, (0, 1) where a buffer has fewer.
    """

    memory: UInt8
    buffer: Int32
    low: Int64
    high: Int64
    partition_low: Int32
    partition_high: Int32
    key: Int32
    box: Int32

    @property
    def count(self) -> int:
        """Number of regions."""
        return len(self.memory)


@dataclass(frozen=True)
class CoreTrace:
    """All dynamic instructions of one core, in program order.

    `busy_ns` and `latency_ns` are, for a compute instruction, its issue interval and the time until
    its result is there; for a transfer, the time for which it needs all DMA engines and the time it
    takes alone, without start-up. A gather's `form_ns` keeps gpsimd before its transfer.
    `dram_bytes` cross the DRAM interface, both sides counted. `ports` are bits of `PORT_BITS`.
    The accesses of instruction i are those from `access_start[i]` to `access_start[i + 1]`, reads
    before writes; `by_array` marks the tensor engine's writes, which keep their own order.
    `value` is whether a matmul accumulates, or the first number of an iota. `call` counts the calls
    of @main. `semaphores` are the initial values. `after` is what an
    instruction waits for by itself, from `after_start[i]` to `after_start[i + 1]`: j until
    instruction j has ended, ~j until it is issued; empty until an order was chosen.
    """

    queues: tuple[str, ...]
    semaphores: Int64
    kind: UInt8
    op: Int32
    queue: UInt8
    busy_ns: Float64
    latency_ns: Float64
    form_ns: Float64
    dram_bytes: Float64
    ports: UInt8
    semaphore: Int32
    value: Int64
    call: Int32
    access_start: Int64
    region: Int32
    writes: Bool
    by_array: Bool
    regions: Regions
    after_start: Int64 = field(default_factory=_no_indices)
    after: Int64 = field(default_factory=_no_indices)

    @property
    def count(self) -> int:
        """Number of instructions."""
        return len(self.kind)
