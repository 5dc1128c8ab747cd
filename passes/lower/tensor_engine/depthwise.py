"""Depthwise convolutions on the array: the weights of a tap on the diagonal of a matrix.

    out[c, h, w] += weight[c, i, j] * x[c, h + i, w + j]
        ->  out[c, h, w] += sum_k diagonal[k, i, j, c] * x[k, h + i, w + j]
            where diagonal[k, i, j, c] = weight[k, i, j] if k == c else 0

One matmul then computes a tap of as many channels as the array has rows. The products with zeros
are exact, but an infinite or undefined element of one channel makes its neighbours undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polystage.mlir import ir
from polystage.passes.lower.generic_op import Access, Linear
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.mosaic import Array
from polystage.passes.lower.offset import Offset, Tile
from polystage.passes.lower.tensor_engine.contraction import Contraction
from polystage.passes.lower.tensor_engine.identity import write_identity
from polystage.passes.lower.tensor_engine.operand_window import Box


def spread_channels(
    builder: KernelBuilder, contraction: Contraction, values: Sequence[Array]
) -> tuple[Contraction, list[Array]]:
    """Return a depthwise contraction as a dense one on blocks of channels, and its expanded
    operands: dimension c becomes blocks of c, and there are two new ones, c and k within a block.
    """
    (channel,) = contraction.batch
    generic, values = contraction.generic, list(values)
    n, extent = len(generic.extents), generic.extents[channel]
    block = contraction.channel_block(builder.target)

    def unit(d: int) -> Linear:
        return Linear(0, tuple(int(i == d) for i in range(n + 2)))

    def rewrite(access: Access) -> Access:
        inner = n + 1 if access.argument in reads else n
        index: list[Linear] = []
        shapes: list[list[int]] = []
        for linear, size in zip(access.index, access.shape, strict=True):
            if linear.single == channel:
                index += [unit(channel), unit(inner)]
                shapes.append([extent // block, block])
            else:
                index.append(Linear(linear.constant, (*linear.coefficients, 0, 0)))
                shapes.append([size])
        values[access.argument] = builder.expand(values[access.argument], shapes)
        return replace(access, array=values[access.argument], index=tuple(index))

    reads = {access.argument for access in generic.inputs}
    extents = list(generic.extents)
    extents[channel] = extent // block
    generic = replace(
        generic.map_accesses(rewrite),
        extents=(*extents, block, block),
        reductions=generic.reductions | {n + 1},
    )
    by_argument = {a.argument: a for a in (*generic.inputs, *generic.outputs)}
    return replace(
        contraction,
        generic=generic,
        stationary=by_argument[contraction.stationary.argument],
        moving=by_argument[contraction.moving.argument],
        output=by_argument[contraction.output.argument],
        rows=(n,),
        channel=n + 1,
        is_diagonal=True,
    ), values


@dataclass(frozen=True)
class Diagonal:
    """A block of diagonal matrices in sbuf: [k, *taps, c]."""

    buffer: ir.Value
    taps: tuple[int, ...]

    def view(
        self, builder: KernelBuilder, channel: Offset, box: Box, rows: Sequence[int]
    ) -> ir.Value:
        """Return the matrix [k, c] of the tap in `box`, cut to its rows."""
        (row,) = rows
        shape = ir.MemRefType(self.buffer.type).shape
        starts = [Offset(), *(box[tap].start for tap in self.taps), box[row].start]
        sizes = [shape[0], *([1] * len(self.taps)), box[row].size]
        return builder.subview(self.buffer, starts, sizes, drop=range(1, len(shape) - 1))


class DiagonalLoader:
    """Loads the weights of a block of channels, and spreads them over diagonals."""

    def __init__(
        self,
        builder: KernelBuilder,
        contraction: Contraction,
        values: Sequence[Array],
        causes: Sequence[str],
    ) -> None:
        self.builder = builder
        self.contraction = contraction
        self.access = contraction.stationary
        self.value = values[self.access.argument]
        self.cause = causes[self.access.argument]
        self.type = self.access.element_type
        self.taps = contraction.taps
        extents = contraction.generic.extents
        self.block = extents[contraction.channel]
        self.identity = write_identity(builder, self.block, self.type)
        self.sizes = [extents[d] for d in self.taps]

    def load(self, box: Box) -> Diagonal:
        """Return the diagonals of the channels in `box`."""
        builder, rank = self.builder, len(self.taps) + 2
        weights = builder.alloc([self.block, *self.sizes], self.type)
        builder.dma(self._window(box), weights, self.cause)
        diagonal = builder.alloc([self.block, *self.sizes, self.block], self.type)
        with builder.module.context:
            dims = [ir.AffineExpr.get_dim(i) for i in range(rank)]
            maps = [
                ir.AffineMap.get(rank, 0, [dims[0], dims[-1]]),
                ir.AffineMap.get(rank, 0, dims[:-1]),
                ir.AffineMap.get_identity(rank),
            ]
        sizes = [self.block, *self.sizes, self.block]
        name = builder.scalar_function(
            "spread",
            "func.func private @spread(%one: f32, %x: f32, %out: f32) -> f32 {\n"
            "%y = arith.mulf %one, %x : f32\nreturn %y : f32\n}",
        )
        builder.compute("elementwise", [self.identity, weights], [diagonal], name, sizes, maps)
        return Diagonal(diagonal, self.taps)

    def _window(self, box: Box) -> ir.Value:
        """Return the weights in DRAM as [k, *taps]."""
        tiles = {self.contraction.channel: Tile(Offset(), self.block)}
        tiles |= {d: Tile(Offset(), n) for d, n in zip(self.taps, self.sizes, strict=True)}
        order = [self.contraction.channel, *self.taps]
        place = {x.dims[0]: i for i, x in enumerate(self.access.index) if x.dims}
        tiles = {**box, **tiles}
        starts = [
            tiles[x.dims[0]].start if x.dims else Offset(x.constant) for x in self.access.index
        ]
        sizes = [tiles[x.dims[0]].size if x.dims else 1 for x in self.access.index]
        kept = sorted(place[d] for d in order)
        drop = [i for i in range(len(sizes)) if i not in kept]
        view = self.builder.subview(self.value, starts, sizes, drop=drop)
        return self.builder.transpose(view, [kept.index(place[d]) for d in order])
