"""Few channels fill the array with taps beside them on the partitions.

    7 x 7 window of 3 channels           partition (copy, kh, c): 4 x 7 x 3 = 84
    out[m, h, w] += weights[kh, kw, c, m] * x[c, 2 h + kh, 2 w + kw]

Copy s of the rows is shifted by s, so one matmul does 4 of the 7 taps of the last dimension; the
next finds the rest of them 4 elements further on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product as boxes_of
from math import ceil, gcd, prod
from typing import Any

import numpy as np

from polystage.dialects.npu.views import defining_op
from polystage.dtypes import byte_width, cost_dtype
from polystage.machine import cost
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.resident.layout import Range, partitions_of
from polystage.passes.lower.resident.operators import Product
from polystage.synchronisation.queues import class_queue

CHUNKS = 8
"""Into about how many parts the rows of an operand go, so that the first matmuls start early."""

Chunk = Mapping[int, range]
"""Of every dense dimension, the columns that come together."""


@dataclass(frozen=True)
class Packing:
    """How the operand of a product lies: partition (copy of `shifted`, `packed` taps, channel),
    then the columns of `dense` dimensions, then the innermost dimension whole.

    `copies` taps of `shifted` are done by one matmul.
    """

    product: Product
    packed: tuple[int, ...]
    shifted: int
    copies: int
    innermost: int
    dense: tuple[int, ...]

    @property
    def block(self) -> int:
        """The partitions of one copy."""
        return self.product.channels * prod(self.product.extents[d] for d in self.packed)

    @property
    def matmuls(self) -> int:
        """How many matmuls a tile takes."""
        return ceil(self.product.extents[self.shifted] / self.copies)

    @property
    def buffer_shape(self) -> list[int]:
        """The extents of the buffer."""
        reach = self.product.moving.reach(self.product.extents)[self.innermost]
        return [self.block * self.copies, *map(self.columns, self.dense), reach[1] - reach[0] + 1]

    @property
    def bytes(self) -> int:
        """The bytes in each partition."""
        return prod(self.buffer_shape[1:]) * byte_width(self.product.moving.element_type)

    def columns(self, dim: int) -> int:
        """Return how many columns walk a dimension of the operand."""
        loops = [d for d in self.product.moving.index[dim].dims if d in self.product.columns]
        return self.product.extents[loops[0]] if loops else 1

    def edges(self, dim: int) -> tuple[int, int]:
        """Return how many columns at the ends of a dimension some copy has outside of the
        array."""
        window = self.product.moving
        low, high = window.reach(self.product.extents)[dim]
        before, after = max(0, -low), max(0, high - window.shape[dim] + 1)
        if dim == self.innermost:
            return before, after + self.copies - 1
        loops = [d for d in window.index[dim].dims if d in self.product.columns]
        pace = window.index[dim].coefficients[loops[0]] if loops else 1
        return ceil(before / pace), ceil(after / pace)

    def taps_of(self, matmul: int) -> range:
        """Return the taps of `shifted` that a matmul does."""
        first = matmul * self.copies
        return range(first, min(first + self.copies, self.product.extents[self.shifted]))

    def weights(self, data: np.ndarray, matmul: int) -> np.ndarray:
        """Return the weights of a matmul, [partition, row], of those in the order of the
        constant."""
        product = self.product
        loops = (self.shifted, *self.packed, product.channel, product.row)
        order = [product.weights.index(loop) for loop in loops]
        still = [i for i in range(data.ndim) if i not in order]
        taps = self.taps_of(matmul)
        moved = data.transpose(*order, *still)[taps.start : taps.stop]
        return moved.reshape(-1, product.extents[product.row])


def packing_of(product: Product, target: Target) -> Packing | None:
    """Return how an operand in memory is best packed on the partitions, or None where it cannot be.

    More copies take fewer matmuls, but more transfers; both run side by side.
    """
    window = product.moving
    if defining_op(window.array) is not None or not product.taps:
        return None  # it is made on chip
    innermost = len(window.index) - 1
    shifted = [d for d in window.index[innermost].dims if d in product.taps]
    if len(shifted) != 1:
        return None
    packed = tuple(d for d in product.taps if d != shifted[0])
    channel = window.dim_of(product.channel)
    dense = tuple(d for d in range(innermost) if d != channel)
    rows = partitions_of(target)
    block = product.channels * prod(product.extents[d] for d in packed)
    most = min(product.extents[shifted[0]], rows // block)
    candidates = [
        Packing(product, packed, shifted[0], copies, innermost, dense)
        for copies in range(1, most + 1)
    ]
    return min(candidates, key=lambda packing: _time_ns(packing, target), default=None)


def _time_ns(packing: Packing, target: Target) -> float:
    """Return the longer of the times of all transfers and of all matmuls."""
    product = packing.product
    width = byte_width(product.moving.element_type)
    run = product.moving.shape[packing.innermost] * width
    load = cost.dma(target, packing.buffer_shape[0] * packing.bytes, run, run)
    columns = prod(product.extents[d] for d in product.columns)
    dtype = cost_dtype(product.moving.element_type)
    multiply = cost.stream_cycles(target, columns, dtype) / target.tensor.clock_ghz
    tiles = ceil(product.extents[product.row] / partitions_of(target))
    return max(load.busy_ns, tiles * packing.matmuls * multiply)


@dataclass(frozen=True)
class PackedOperand:
    """The operand of a product in its buffer."""

    packing: Packing
    buffer: ir.Value

    def load(self, builder: KernelBuilder, source: ir.Value, cause: str) -> None:
        """Bring the operand in, the constant around it written on chip."""
        for chunk in self._chunks(builder.target):
            self._fill(builder, chunk)
            for copy in range(self.packing.copies):
                self._load_copy(builder, source, copy, chunk, cause)

    def _chunks(self, target: Target) -> Iterator[Chunk]:
        """Yield parts of the last dense dimension, for every column of those before; of so many
        rows that the DMA engines share them evenly, where that takes no more than twice as many."""
        if not self.packing.dense:
            yield {}
            return
        *outer, rows = [range(self.packing.columns(dim)) for dim in self.packing.dense]
        size = ceil(len(rows) / CHUNKS)
        even = target.dma.engines // gcd(target.dma.engines, self.packing.product.channels)
        if even <= 2 * size:
            size = ceil(size / even) * even
        for at in boxes_of(*outer):
            for start in range(0, len(rows), size):
                ranges = [*(range(n, n + 1) for n in at), rows[start : start + size]]
                yield dict(zip(self.packing.dense, ranges, strict=True))

    def view(self, builder: KernelBuilder, matmul: int, columns: Mapping[int, Range]) -> Any:
        """Return what moves through the array: [partition, *columns of more than one]."""
        packing, window = self.packing, self.packing.product.moving
        partitions = packing.block * len(packing.taps_of(matmul))
        starts, sizes, steps = [0], [partitions], [1]
        for dim in (*packing.dense, packing.innermost):
            linear = window.index[dim]
            loops = [d for d in linear.dims if d in columns]
            start, size, _ = columns[loops[0]] if loops else (0, 1, 1)
            pace = linear.coefficients[loops[0]] if loops else 1
            inner = dim == packing.innermost
            starts.append(start * pace + matmul * packing.copies if inner else start)
            sizes.append(size)
            steps.append(pace if inner and size > 1 else 1)
        drop = [i for i, size in enumerate(sizes) if i and size == 1]
        return builder.subview(self.buffer, starts, sizes, steps, drop)

    def _fill(self, builder: KernelBuilder, chunk: Chunk) -> None:
        """Write the constant wherever a copy of a chunk may reach over an edge."""
        packing, fill = self.packing, self.packing.product.moving.fill
        if fill is None:
            return
        whole = [range(n) for n in packing.buffer_shape]
        dims = (*packing.dense, packing.innermost)
        box = [whole[0], *(chunk.get(d, whole[i]) for i, d in enumerate(dims, start=1))]
        for place, dim in enumerate(dims, start=1):
            stop, (before, after) = len(whole[place]), packing.edges(dim)
            for edge in (range(before), range(stop - after, stop)):
                strip = range(max(edge.start, box[place].start), min(edge.stop, box[place].stop))
                if len(strip):
                    part = [*box[:place], strip, *box[place + 1 :]]
                    starts, sizes = [r.start for r in part], [len(r) for r in part]
                    view = builder.subview(self.buffer, starts, sizes)
                    builder.memset(view, fill, engine="gpsimd")

    def _load_copy(
        self, builder: KernelBuilder, source: ir.Value, copy: int, chunk: Chunk, cause: str
    ) -> None:
        """Load a chunk for all packed taps of a copy, ahead of the weights of operators behind,
        which would take half of the bandwidth. Two queues take pieces in turn that have fewer rows
        than there are DMA engines, and would keep only some of them busy."""
        packing, product = self.packing, self.packing.product
        channel = product.moving.dim_of(product.channel)
        assert channel is not None
        extents = (range(product.extents[d]) for d in packing.packed)
        for number, taps in enumerate(boxes_of(*extents)):
            at = dict(zip(packing.packed, taps, strict=True))
            pieces = list(self._pieces(copy, at, chunk))
            if any(size <= 0 for _, _, size, _ in pieces):
                continue
            starts, sizes, steps = [0] * len(product.moving.shape), list(product.moving.shape), []
            steps = [1] * len(sizes)
            order = [channel, *packing.dense, packing.innermost]
            for dim, (first, _, size, pace) in zip(order[1:], pieces, strict=True):
                starts[dim], sizes[dim], steps[dim] = first, size, pace
            view = builder.subview(source, starts, sizes, steps)
            place = (copy * packing.block) + number * product.channels
            target = builder.subview(
                self.buffer,
                [place, *(into for _, into, _, _ in pieces)],
                [product.channels, *(size for _, _, size, _ in pieces)],
            )
            rows = product.channels * prod(size for _, _, size, _ in pieces[:-1])
            in_turn = rows < builder.target.dma.engines
            kind = "load" if in_turn and number % 2 else "weight"
            queue = class_queue(kind, builder.target.dma.queues)
            builder.dma(builder.transpose(view, order), target, cause, queue)

    def _pieces(
        self, copy: int, taps: Mapping[int, int], chunk: Chunk
    ) -> Iterator[tuple[int, int, int, int]]:
        """Yield for every dimension of the buffer: start in memory, start in the buffer, size and
        step in memory."""
        packing, window = self.packing, self.packing.product.moving
        for dim in packing.dense:
            linear = window.index[dim]
            first = linear.constant + sum(linear.coefficients[d] * t for d, t in taps.items())
            loops = [d for d in linear.dims if d in packing.product.columns]
            pace = linear.coefficients[loops[0]] if loops else 1
            inside = [i for i in chunk[dim] if 0 <= first + i * pace < window.shape[dim]]
            if not inside:
                yield 0, 0, 0, 1
            else:
                size = len(inside)
                yield first + inside[0] * pace, inside[0], size, pace if size > 1 else 1
        low, _ = window.reach(packing.product.extents)[packing.innermost]
        first, width = low + copy, self.packing.buffer_shape[-1]
        start = max(0, first)
        stop = min(window.shape[packing.innermost], first + width)
        yield start, start - first, stop - start, 1
