"""Which loop lies across the partitions of the scratchpad: the one that costs least by a simple
estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from polystage.dtypes import byte_width, cost_dtype
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.lane_engines.loop_nest import LoopNest
from polystage.passes.lower.lane_engines.operand import Operand

MAX_STACK = 8
"""Most pieces of a loop beside each other on the partitions."""

MIN_STACKED_RUN = 16
"""Fewest neighbouring elements that a piece may leave of a run in DRAM."""

_ARRAY_TYPES = ("f32", "bf16", "f16", "f8", "i8")


@dataclass(frozen=True)
class Partitioning:
    """Loop `loop` gives `partitions` of its iterations to the partitions, each `outer` (far
    apart) or not (neighbours)."""

    loop: int | None
    partitions: int
    outer: bool


@dataclass(frozen=True)
class Work:
    """What the body of an operation means for its partitioning."""

    passes: float = 1.0
    """Elements that the vector engine streams per iteration."""

    rows: frozenset[int] = frozenset()
    """Loops over the columns of a looked-up row, which stays whole."""


@dataclass(frozen=True)
class Stacking:
    """`count` equal pieces of `loop` lie side by side on the partitions, which saves time."""

    loop: int = 0
    count: int = 1
    saved_ns: float = 0.0


def pieces(builder: KernelBuilder, nest: LoopNest, work: Work) -> Iterator[LoopNest]:
    """Yield nests that together are `nest`, each with loop 0 across the partitions.

    1000 iterations on 128 partitions are 125 x 8; 997 are 128 x 7 and then 101. 28 channels of
    3136 pixels are 4 stacks of 28 x 784.
    """
    choice = choose_partitioning(nest, builder.target, work)
    if choice.loop is None:
        yield _stacked(nest.partitioned(builder, None, 1, True), work, builder.target)
        return
    extent = nest.extents[choice.loop]
    main = extent // choice.partitions * choice.partitions
    first = nest if main == extent else nest.restricted(builder, choice.loop, 0, main)
    first = first.partitioned(builder, choice.loop, choice.partitions, choice.outer)
    yield _stacked(first, work, builder.target)
    if main != extent:
        rest = nest.restricted(builder, choice.loop, main, extent - main)
        yield from pieces(builder, rest, work)


def _stacked(nest: LoopNest, work: Work, target: Target) -> LoopNest:
    """Return a partitioned nest with its pieces side by side, where nothing goes through the
    array."""
    for operand in nest.operands:
        partition = operand.dim_of(0)
        if partition is not None and can_transpose(operand, partition, nest.extents[0], target):
            return nest
    stacking = best_stacking(nest, 0, nest.extents[0], work, target)
    extents = list(nest.extents)
    extents[stacking.loop] //= stacking.count
    return replace(nest, extents=tuple(extents), stack=(stacking.loop, stacking.count))


def best_stacking(
    nest: LoopNest, across: int | None, partitions: int, work: Work, target: Target
) -> Stacking:
    """Return how pieces of another loop are best put beside loop `across` on the partitions.

    The engines take less time in proportion; every piece costs transfers of its own. Coordinates
    are not stacked, as gpsimd would have to write them from a partition where it cannot start.
    """
    best = Stacking()
    room = min(target.sbuf.partitions // partitions, MAX_STACK)
    if nest.coordinates or room < 2:
        return best
    computing = prod(nest.extents) / partitions * work.passes / target.vector.clock_ghz
    transfer = target.dma.startup_ns / target.dma.queues * len(nest.operands)
    for loop in range(nest.n_parallel):
        if loop == across or loop in work.rows or not all(loop in o.dims for o in nest.outputs):
            continue
        innermost = any(loop in o.dims and o.is_innermost(loop) for o in nest.operands)
        for count in range(2, room + 1):
            piece, odd = divmod(nest.extents[loop], count)
            if odd or (innermost and piece < MIN_STACKED_RUN):
                continue
            saved = computing * (1 - 1 / count) - (count - 1) * transfer
            if saved > best.saved_ns:
                best = Stacking(loop, count, saved)
    return best


def partition_counts(extent: int, partitions: int) -> list[int]:
    """Return how many partitions a loop may take: all its iterations, or the largest divisor that
    fits, or all partitions with a rest.

    >>> [partition_counts(n, 128) for n in (100, 1000, 997)]
    [[100], [125, 128], [128]]
    """
    if extent <= partitions:
        return [extent]
    divisor = next(n for n in range(partitions, 0, -1) if extent % n == 0)
    return [divisor, partitions] if partitions // 4 < divisor < partitions else [partitions]


def choose_partitioning(nest: LoopNest, target: Target, work: Work) -> Partitioning:
    """Return the partitioning with the least estimated time; the first of equals."""
    partitions = target.sbuf.partitions
    candidates = [Partitioning(None, 1, True)]
    loops = range(nest.n_parallel) if nest.across is None else [nest.across]
    for loop in loops:
        if loop in work.rows or partitions == 1 or not _may_partition(nest, loop):
            continue
        extent = nest.extents[loop]
        for count in partition_counts(extent, partitions):
            candidates.append(Partitioning(loop, count, True))
            if extent > count:
                candidates.append(Partitioning(loop, count, False))
    if nest.across is not None and partitions > 1:
        if len(candidates) == 1:
            raise PassError(
                "the loop that is to lie across the partitions steps through several dimensions "
                "of an operand, or with others through one",
                help="name another loop in 'npu.partition_loop', or remove the attribute",
            )
        del candidates[0]
    return min(candidates, key=lambda c: _estimated_ns(nest, c, work, target))


def _may_partition(nest: LoopNest, loop: int) -> bool:
    return all(o.dim_of(loop) is not None or loop not in o.dims for o in nest.operands) and all(
        loop in o.dims for o in nest.outputs
    )


def _estimated_ns(nest: LoopNest, choice: Partitioning, work: Work, target: Target) -> float:
    """Estimate the time of transfers and of the vector engine."""
    computing = prod(nest.extents) / choice.partitions * work.passes / target.vector.clock_ghz
    stacking = best_stacking(nest, choice.loop, choice.partitions, work, target)
    moving = sum(_transfer_ns(o, choice, target) for o in nest.operands)
    extent = 0 if choice.loop is None else nest.extents[choice.loop]
    rest, rest_ns = extent % choice.partitions, 0.0
    if rest:  # takes a round of its own, with its own transfers
        stacked = 1 if nest.coordinates else min(MAX_STACK, target.sbuf.partitions // rest)
        rest_ns = computing * choice.partitions / extent / stacked
        rest_ns += len(nest.operands) * target.dma.startup_ns
    return computing - stacking.saved_ns + moving + rest_ns


def _transfer_ns(operand: Operand, choice: Partitioning, target: Target) -> float:
    elements = operand.elements
    width = byte_width(operand.element_type)
    dim = None if choice.loop is None else operand.dim_of(choice.loop)
    if dim is None:
        elements *= choice.partitions
    run = _run_elements(operand, dim, choice)
    moved = elements * width / min(target.dma.bytes_per_ns, target.dram.bytes_per_ns)
    if run == 1 and dim is not None and can_transpose(operand, dim, choice.partitions, target):
        return moved + _transpose_ns(operand, dim, choice, target)
    descriptors = elements / run * target.dma.descriptor_overhead_ns / target.dma.engines
    return moved + descriptors


def _transpose_ns(operand: Operand, dim: int, choice: Partitioning, target: Target) -> float:
    """Estimate the time in the array, to psum and from there to sbuf, one tile after the other."""
    tensor, scalar = target.tensor, target.scalar
    sizes = [
        operand.shape[i] for i, x in enumerate(operand.index) if i != dim and x.single is not None
    ]
    rows = min(tensor.rows, max(sizes))
    tiles = prod(operand.shape) / (rows * choice.partitions)
    cycles = max(rows, tensor.min_issue_cycles) * tensor.cycles_per_row.f32 + tensor.startup_cycles
    evict = rows + scalar.startup_cycles + scalar.issue_cycles
    return tiles * (cycles / tensor.clock_ghz + evict / scalar.clock_ghz)


def _run_elements(operand: Operand, dim: int | None, choice: Partitioning) -> int:
    """Return how many elements of one partition are neighbours in DRAM."""
    dims: list[tuple[int, int, bool]] = []
    for i, (size, stride) in enumerate(zip(operand.shape, operand.strides, strict=True)):
        ends = not operand.is_whole(i)
        if i != dim:
            dims.append((stride, size, ends))
            continue
        rest = size // choice.partitions
        step = stride if choice.outer else stride * choice.partitions
        dims.append((step, rest, ends))
    run = 1
    for stride, size, ends in sorted(dims):
        if size > 1 and stride == run:
            run *= size
        if ends:  # there is a border on chip, which parts the rows
            break
    return run


def can_transpose(operand: Operand, dim: int, partitions: int, target: Target) -> bool:
    """Whether tiles of the operand can go through the array to lie with `dim`, innermost in DRAM,
    on the partitions.

    Only where that is worth it: for a few elements, one descriptor each costs less.
    """
    type_ = cost_dtype(operand.element_type)
    width = byte_width(operand.element_type)
    others = [i for i, x in enumerate(operand.index) if i != dim and x.single is not None]
    descriptors_ns = prod(operand.shape) * target.dma.descriptor_overhead_ns / target.dma.engines
    return (
        operand.strides[dim] == 1
        and operand.elements > 0
        and partitions > 1
        and any(operand.shape[i] > 1 for i in others)
        and type_ in _ARRAY_TYPES
        and target.tensor.supports(type_)
        and partitions <= min(target.tensor.rows, target.tensor.columns)
        and partitions * width <= target.psum.bank_bytes
        and descriptors_ns > target.dma.startup_ns / 2
    )
