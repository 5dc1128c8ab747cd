"""Splits contracted dimensions so that a part of them fits beside the channel on the partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polystage.passes.lower.generic_op import Access, GenericOp, Linear
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.mosaic import Array
from polystage.passes.lower.tensor_engine.contraction import Contraction


def split_taps(
    builder: KernelBuilder, contraction: Contraction, values: Sequence[Array]
) -> tuple[GenericOp, list[Array]]:
    """Return the operation with a contracted dimension split where that fills the array better.

    Twelve heads of 64 channels become 6 x 2 heads: two lie on the 128 partitions at once.

        out[t, n] += a[h, t, c] * b[h, c, n]  ->  out[t, n] += a[o, i, t, c] * b[o, i, c, n]
    """
    generic, values = contraction.generic, list(values)
    rows, size = builder.target.tensor.rows, contraction.channels
    for tap in contraction.taps:
        extent = generic.extents[tap]
        if size * extent <= rows:
            size *= extent  # lies on the partitions whole
            continue
        if not all(_is_plain(a, tap) for a in (contraction.stationary, contraction.moving)):
            continue
        part = max((n for n in range(1, rows // size + 1) if extent % n == 0), default=1)
        if part > 1:
            return _split(builder, generic, values, tap, part), values
    return generic, values


def _is_plain(access: Access, dim: int) -> bool:
    return all(x.single == dim for x in access.index if dim in x.dims)


def _split(
    builder: KernelBuilder, generic: GenericOp, values: list[Array], dim: int, part: int
) -> GenericOp:
    """Return the operation with `dim` as the inner part and a new dimension behind it as the outer;
    expand the operands in `values`."""
    n = len(generic.extents) + 1

    def moved(linear: Linear) -> Linear:
        c = linear.coefficients
        return Linear(linear.constant, (*c[: dim + 1], 0, *c[dim + 1 :]))

    def unit(d: int) -> Linear:
        return Linear(0, tuple(int(i == d) for i in range(n)))

    def rewrite(access: Access) -> Access:
        if dim not in access.dims:
            return replace(access, index=tuple(map(moved, access.index)))
        index: list[Linear] = []
        shapes: list[list[int]] = []
        for linear, size in zip(access.index, access.shape, strict=True):
            is_split = linear.single == dim
            index += [unit(dim + 1), unit(dim)] if is_split else [moved(linear)]
            shapes.append([size // part, part] if is_split else [size])
        values[access.argument] = builder.expand(values[access.argument], shapes)
        return replace(access, array=values[access.argument], index=tuple(index))

    e = generic.extents
    return replace(
        generic.map_accesses(rewrite),
        extents=(*e[:dim], part, e[dim] // part, *e[dim + 1 :]),
        reductions=frozenset([*(d + (d > dim) for d in generic.reductions), dim + 1]),
    )
