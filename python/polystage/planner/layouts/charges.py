"""What the machine charges for an access whose array lies otherwise than the access wants it.

The charge is the time beyond that of the same transfer with the wanted dimension outermost, by the
cheapest way that the lowering has:

    strided   the transfer as it is, in runs shorter than they could be: more descriptors
    turned    rows are transferred, and turned by the tensor engine and out of psum
    copied    a copy of the whole array in DRAM that lies as wanted, paid once for all its readers

Source: rules and figures of `machine.cost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from polystage.dtypes import cost_dtype
from polystage.machine import cost
from polystage.machine.target import Target
from polystage.planner.layouts.strides import Walk
from polystage.polyhedral.model import Array

Way = Literal["aligned", "strided", "turned", "copied"]

Kernel = Literal["lanes", "array load", "array store"]
"""What the access belongs to. Engines that work in lanes may give neighbouring elements to one
partition, and take the cheaper way. The tensor engine's operands lie one row per partition and are
turned wherever they can be; its results are stored as they come out."""

NEGLIGIBLE = 0.02
"""Share of a transfer's time below which runs count as long enough."""


@dataclass(frozen=True)
class Charge:
    """Additional time of an access, and the bytes that are moved for nothing but the layout."""

    way: Way
    ns: float = 0.0
    onchip_bytes: int = 0
    offchip_bytes: int = 0


ALIGNED = Charge("aligned")


def access_charge(
    target: Target,
    array: Array,
    touched: int,
    extent: int,
    walk: Walk,
    kernel: Kernel,
    trips: int = 1,
) -> Charge:
    """Return the charge of moving `touched` elements between DRAM and the scratchpad, `extent`
    iterations of a loop across the partitions, in `trips` transfers that follow each other."""
    size = array.element_bytes
    run = walk.run_elements
    if kernel == "lanes":
        run = _shared_run(target, extent, walk)
    ideal = cost.dma(target, touched * size, touched * size, walk.elements * size)
    plain = cost.dma(target, touched * size, touched * size, run * size)
    strided_ns = plain.busy_ns - ideal.busy_ns
    if strided_ns <= NEGLIGIBLE * ideal.busy_ns:
        return ALIGNED
    if not _can_turn(target, array, walk, kernel):
        return Charge("strided", strided_ns)
    turned_ns = turning_ns(target, array, touched, extent)
    if kernel == "array load":
        turned_ns += trips * _arrival_ns(target)
    if kernel == "array load" or turned_ns < strided_ns:
        return Charge("turned", turned_ns, onchip_bytes=touched * size)
    return Charge("strided", strided_ns)


def _shared_run(target: Target, extent: int, walk: Walk) -> int:
    """Return the run of engines that work in lanes: many iterations leave neighbours of the loop to
    each partition, few are cut up so that all partitions have a part."""
    partitions = target.sbuf.partitions
    if walk.partition_stride == 1:
        return max(walk.run_elements, ceil(extent / partitions))
    return max(1, walk.run_elements * min(extent, partitions) // partitions)


def _can_turn(target: Target, array: Array, walk: Walk, kernel: Kernel) -> bool:
    if walk.partition_stride != 1 or walk.wide_dims == 0 or kernel == "array store":
        return False
    if kernel == "array load" and walk.wide_dims != 1:
        return False
    return target.tensor.supports(cost_dtype(array.dtype))


def turning_ns(target: Target, array: Array, touched: int, extent: int) -> float:
    """Return the time of the array and of the engine that empties psum, tile by tile."""
    columns = min(extent, target.tensor.rows, target.tensor.columns)
    rows = max(1, min(target.tensor.rows, touched // extent))
    tiles = touched / (rows * columns)
    turn = cost.transpose(target, rows, columns, cost_dtype(array.dtype))
    leave = cost.activate(target, rows, partitions=columns, uses_psum=True)
    return tiles * (turn.busy_ns + leave.latency_ns)


def _arrival_ns(target: Target) -> float:
    """Return how long the tensor engine waits for an operand that it has to turn first, beyond the
    transfer itself."""
    array, scalar = target.tensor, target.scalar
    drain = (array.rows + array.columns + array.startup_cycles) / array.clock_ghz
    return (
        target.dma.startup_ns
        + drain
        + (scalar.startup_cycles + scalar.issue_cycles) / scalar.clock_ghz
    )


def copy_charge(target: Target, array: Array, runs: Sequence[int], *, turns: bool) -> Charge:
    """Return the charge of an explicit copy in DRAM; `runs` are its elements in a row on both
    sides.

    A copy that turns goes through the scratchpad and the array; any other goes from DRAM to DRAM.
    """
    size = array.size_bytes
    run = min(runs) * array.element_bytes
    direct = cost.dma(target, size, run, run, dram_sides=2).latency_ns
    moved = 2 * size
    if not turns:
        return Charge("copied", direct, offchip_bytes=moved)
    across = array.shape[-1]
    through = 2 * cost.dma(target, size, size, size // max(1, across)).latency_ns
    through += turning_ns(target, array, array.elements, across)
    if direct <= through:
        return Charge("copied", direct, offchip_bytes=moved)
    return Charge("copied", through, onchip_bytes=size, offchip_bytes=moved)
