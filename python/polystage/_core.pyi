"""Compiled twins of the longest loops of simulator and allocator: core/ at the project's top."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Float64 = npt.NDArray[np.float64]
_Int64 = npt.NDArray[np.int64]
_Int32 = npt.NDArray[np.int32]
_UInt8 = npt.NDArray[np.uint8]

class Regions:
    def __init__(
        self,
        memory: _UInt8,
        buffer: _Int32,
        low: _Int64,
        high: _Int64,
        partition_low: _Int32,
        partition_high: _Int32,
        key: _Int32,
        box: _Int32,
        place: _Int32,
        /,
    ) -> None: ...

class TraceColumns:
    def __init__(
        self,
        kind: _UInt8,
        queue: _UInt8,
        busy_ns: _Float64,
        latency_ns: _Float64,
        form_ns: _Float64,
        dram_bytes: _Float64,
        ports: _UInt8,
        semaphore: _Int32,
        semaphores: _Int64,
        after_start: _Int64,
        after: _Int64,
        is_dma: Sequence[bool],
        /,
    ) -> None: ...

def dependences(
    regions: Regions,
    party: _Int32,
    certain: _Int64,
    start: _Int64,
    region: _Int32,
    way: _UInt8,
    engine: _Int32,
    moves: _UInt8,
    gathers: int,
    across: bool,
    /,
) -> tuple[_Int64, _Int64]: ...
def stuck(
    queue: _UInt8,
    kind: _UInt8,
    semaphore: _Int32,
    semaphores: _Int64,
    queues: int,
    ignored: int,
    /,
) -> _Int64: ...
def find_races(
    regions: Regions,
    queue: _UInt8,
    kind: _UInt8,
    semaphore: _Int32,
    semaphores: _Int64,
    start: _Int64,
    region: _Int32,
    way: _UInt8,
    queues: int,
    limit: int,
    ignored: int,
    /,
) -> tuple[_Int64, _Int64, _Int64, _Int64]: ...
def run_timeline(
    cores: Sequence[TraceColumns],
    dma_startup_ns: float,
    dram_bytes_per_ns: float,
    dram_limits: bool,
    /,
) -> list[tuple[_Float64, _Float64, _Float64, _Int64, _UInt8, _UInt8, _Float64, _Int64]]: ...
def place_in_order(
    row: _Int64,
    starts: _Int64,
    ends: _Int64,
    size: _Int64,
    alignment: _Int64,
    address: _Int64,
    order: _Int64,
    best: bool,
    /,
) -> _Int64: ...
def search_addresses(
    start: _Int64,
    sections: _Int32,
    size: _Int64,
    alignment: _Int64,
    fixed: _Int64,
    kind: _Int32,
    keys: _Float64,
    section_count: int,
    capacity: int,
    effort: int,
    /,
) -> tuple[int, _Int64, int]: ...
