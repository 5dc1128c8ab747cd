"""Which loop lies across the partitions of the scratchpad: the one that costs least by a simple
estimate."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from math import prod

from polystage.dtypes import byte_width
from polystage.machine.target import Target
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.loop_nest import LoopNest, Operand

_ARRAY_TYPES = ("f32", "bf16", "f16", "i8")


@dataclass(frozen=True)
class Partitioning:
    """Loop `loop` gives `partitions` of its iterations to the partitions, each `outer` (far
    apart) or not (neighbours)."""

    loop: int | None
    partitions: int
    outer: bool


def pieces(
    builder: KernelBuilder, nest: LoopNest, avoid: Set[int] = frozenset()
) -> Iterator[LoopNest]:
    """Yield nests that together are `nest`, each with loop 0 across the partitions.

    1000 iterations on 128 partitions are 125 x 8; 997 are 128 x 7 and then 101. Loops in `avoid`
    are never split.
    """
    choice = choose_partitioning(nest, builder.target, avoid)
    if choice.loop is None:
        yield nest.partitioned(builder, None, 1, True)
        return
    extent = nest.extents[choice.loop]
    main = extent // choice.partitions * choice.partitions
    first = nest if main == extent else nest.restricted(builder, choice.loop, 0, main)
    yield first.partitioned(builder, choice.loop, choice.partitions, choice.outer)
    if main != extent:
        rest = nest.restricted(builder, choice.loop, main, extent - main)
        yield from pieces(builder, rest, avoid)


def partition_count(extent: int, partitions: int) -> int:
    """Return how many partitions a loop takes: all of it, a divisor that nearly fills them, or all
    partitions.

    >>> [partition_count(n, 128) for n in (100, 1000, 997)]
    [100, 125, 128]
    """
    if extent <= partitions:
        return extent
    for count in range(partitions, partitions * 3 // 4, -1):
        if extent % count == 0:
            return count
    return partitions


def choose_partitioning(nest: LoopNest, target: Target, avoid: Set[int]) -> Partitioning:
    """Return the partitioning with the least estimated time; the first of equals."""
    candidates = [Partitioning(None, 1, True)]
    for loop in range(nest.n_parallel):
        if loop in avoid or target.sbuf.partitions == 1 or not _may_partition(nest, loop):
            continue
        count = partition_count(nest.extents[loop], target.sbuf.partitions)
        candidates.append(Partitioning(loop, count, True))
        if nest.extents[loop] > count:
            candidates.append(Partitioning(loop, count, False))
    return min(candidates, key=lambda c: _estimated_ns(nest, c, target))


def _may_partition(nest: LoopNest, loop: int) -> bool:
    return all(o.dim_of(loop) is not None or loop not in o.dims for o in nest.operands) and all(
        loop in o.dims for o in nest.outputs
    )


def _estimated_ns(nest: LoopNest, choice: Partitioning, target: Target) -> float:
    """Estimate the time of transfers and of one pass of the vector engine."""
    passes = prod(nest.extents) / choice.partitions / target.vector.clock_ghz
    return passes + sum(_transfer_ns(o, choice, target) for o in nest.operands)


def _transfer_ns(operand: Operand, choice: Partitioning, target: Target) -> float:
    elements = prod(operand.shape)
    width = byte_width(operand.element_type)
    dim = None if choice.loop is None else operand.dim_of(choice.loop)
    if dim is None:
        elements *= choice.partitions
    run = _run_elements(operand, dim, choice)
    moved = elements * width / min(target.dma.bytes_per_ns, target.dram.bytes_per_ns)
    if run == 1 and dim is not None and can_transpose(operand, dim, choice.partitions, target):
        return moved + _transpose_ns(operand, elements, choice, target)
    descriptors = elements / run * target.dma.descriptor_overhead_ns / target.dma.engines
    return moved + descriptors


def _transpose_ns(operand: Operand, elements: int, choice: Partitioning, target: Target) -> float:
    """Estimate the time in the array, to psum and from there to sbuf, one tile after the other."""
    rows = min(target.tensor.rows, elements // choice.partitions)
    tiles = elements / (rows * choice.partitions)
    array = max(rows, target.tensor.min_issue_cycles) * 4 / target.tensor.clock_ghz
    evict = (rows + target.scalar.startup_cycles) / target.scalar.clock_ghz
    return tiles * (array + evict)


def _run_elements(operand: Operand, dim: int | None, choice: Partitioning) -> int:
    """Return how many elements of one partition are neighbours in DRAM."""
    dims: list[tuple[int, int]] = []
    for i, (size, stride) in enumerate(zip(operand.shape, operand.strides, strict=True)):
        if i != dim:
            dims.append((stride, size))
            continue
        rest = size // choice.partitions
        dims.append((stride, rest) if choice.outer else (stride * choice.partitions, rest))
    run = 1
    for stride, size in sorted(dims):
        if size > 1 and stride == run:
            run *= size
    return run


def can_transpose(operand: Operand, dim: int, partitions: int, target: Target) -> bool:
    """Whether tiles of the operand can go through the array to lie with `dim`, innermost in DRAM,
    on the partitions.

    Only where that is worth it: for a few elements, one descriptor each costs less.
    """
    type_ = str(operand.element_type)
    width = byte_width(operand.element_type)
    others = [i for i, x in enumerate(operand.index) if i != dim and x.single is not None]
    descriptors_ns = prod(operand.shape) * target.dma.descriptor_overhead_ns / target.dma.engines
    return (
        operand.strides[dim] == 1
        and partitions > 1
        and any(operand.shape[i] > 1 for i in others)
        and type_ in _ARRAY_TYPES
        and target.tensor.supports(type_)
        and partitions <= min(target.tensor.rows, target.tensor.columns)
        and partitions * width <= target.psum.bank_bytes
        and descriptors_ns > target.dma.startup_ns / 2
    )
