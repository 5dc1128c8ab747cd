"""Views and transfers of mosaics, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, Protocol

from polystage.dialects.npu.views import access_pattern, shape_of, strides_of
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.mosaic import (
    Array,
    Box,
    Mosaic,
    Piece,
    Range,
    borders,
    hits,
    rows,
)
from polystage.passes.lower.offset import Offset


class Builder(Protocol):
    """What this file needs of `KernelBuilder`, which imports it.

    To import that for its type alone does not do: pyright finds it in the staged package, by
    another path than the file itself, and takes the two for different classes.
    """

    @property
    def target(self) -> Target: ...  # noqa: D102

    def bounds(self, offset: Offset) -> Range: ...  # noqa: D102

    def subview(  # noqa: D102
        self,
        value: Array,
        offsets: Sequence[Offset | int],
        sizes: Sequence[int],
        steps: Sequence[int] | None = None,
        drop: Sequence[int] = (),
    ) -> Any: ...

    def transpose(self, value: Array, permutation: Sequence[int]) -> Any: ...  # noqa: D102

    def expand(self, value: Array, shapes: Sequence[Sequence[int]]) -> Any: ...  # noqa: D102

    def collapse(self, value: Array, groups: Sequence[int]) -> Any: ...  # noqa: D102

    def dma(self, source: Array, destination: ir.Value, cause: str) -> None: ...  # noqa: D102

    def memset(  # noqa: D102
        self, destination: ir.Value, value: float | int, engine: str = "vector"
    ) -> None: ...


def window(
    builder: Builder,
    mosaic: Mosaic,
    starts: Sequence[Offset],
    sizes: Sequence[int],
    steps: Sequence[int],
    drop: Sequence[int],
) -> Mosaic:
    """Return a window of a mosaic, pieces cut to what lies in it.

    Where a start depends on loops, all their iterations must cut the pieces alike: that is what
    the tiles of `KernelBuilder.tiles` are chosen for.
    """
    kept = [d for d in range(len(sizes)) if d not in drop]
    pieces: list[Piece] = []
    for piece in mosaic.pieces:
        parts = [
            _hits_of_all(builder, piece.range(d), starts[d], sizes[d], steps[d])
            for d in range(len(sizes))
        ]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            continue
        value = builder.subview(
            piece.value,
            [
                start + (low * step - offset)
                for start, step, offset, (low, _) in zip(
                    starts, steps, piece.offsets, found, strict=True
                )
            ],
            [high - low for low, high in found],
            steps,
            drop,
        )
        pieces.append(Piece(tuple(found[d][0] for d in kept), value, piece.cause))
    return replace(mosaic, shape=tuple(sizes[d] for d in kept), pieces=tuple(pieces))


def _hits_of_all(
    builder: Builder, target: Range, start: Offset, size: int, step: int
) -> Range | None:
    """Return which elements of a window lie in `target`, in every iteration of the loops."""
    first, last = builder.bounds(start)
    found = hits(target, first, size, step)
    assert found == hits(target, last, size, step), "a tile loop runs over the border of a piece"
    return found


def transposed(builder: Builder, mosaic: Mosaic, permutation: Sequence[int]) -> Mosaic:
    """Return a mosaic whose dimension i is dimension `permutation[i]`."""
    return replace(
        mosaic,
        shape=tuple(mosaic.shape[d] for d in permutation),
        pieces=tuple(
            Piece(
                tuple(p.offsets[d] for d in permutation),
                builder.transpose(p.value, permutation),
                p.cause,
            )
            for p in mosaic.pieces
        ),
    )


def expanded(builder: Builder, mosaic: Mosaic, shapes: Sequence[Sequence[int]]) -> Mosaic:
    """Return a mosaic with dimension i split into `shapes[i]`.

    A piece that starts or ends within a row becomes several.
    """
    pieces: list[Piece] = []
    for piece in mosaic.pieces:
        choices = [
            list(rows(offset, size, shape))
            for offset, size, shape in zip(piece.offsets, piece.shape, shapes, strict=True)
        ]
        for chosen in product(*choices):
            sizes = [[b - a for a, b in box] for box, _ in chosen]
            starts = [f - o for (_, f), o in zip(chosen, piece.offsets, strict=True)]
            part = builder.subview(piece.value, starts, [prod(n) for n in sizes])
            offsets = tuple(a for box, _ in chosen for a, _ in box)
            pieces.append(Piece(offsets, builder.expand(part, sizes), piece.cause))
    shape = tuple(n for sizes in shapes for n in sizes)
    return replace(mosaic, shape=shape, pieces=tuple(pieces))


def collapsed(builder: Builder, mosaic: Mosaic, groups: Sequence[int]) -> Mosaic:
    """Return a mosaic with runs of `groups[i]` dimensions merged; all pieces run through them as
    through one (`Mosaic.merges`)."""
    members: list[range] = []
    for count in groups:
        first = members[-1].stop if members else 0
        members.append(range(first, first + count))

    def merged(offsets: Sequence[int], run: range) -> int:
        total = 0
        for d in run:
            total = total * mosaic.shape[d] + offsets[d]
        return total

    return replace(
        mosaic,
        shape=tuple(prod(mosaic.shape[d] for d in run) for run in members),
        pieces=tuple(
            Piece(
                tuple(merged(p.offsets, run) for run in members),
                builder.collapse(p.value, groups),
                p.cause,
            )
            for p in mosaic.pieces
        ),
    )


def load(builder: Builder, mosaic: Mosaic, destination: ir.Value) -> None:
    """Bring the pieces to their places in a buffer; `fill_borders` has to come first."""
    sizes = shape_of(destination)
    for piece in mosaic.pieces:
        # a transfer repeats an extent of 1, as broadcasts need it
        dims = zip(sizes, piece.shape, mosaic.shape, strict=True)
        extents = [size if whole == 1 else own for size, own, whole in dims]
        place = builder.subview(destination, piece.offsets, extents)
        builder.dma(piece.value, place, piece.cause)


def fill_borders(builder: Builder, mosaics: Sequence[Mosaic], buffer: ir.Value) -> None:
    """Write the fill where no piece comes to lie in a buffer.

    Each of `mosaics` goes to other partitions of the buffer, whose dimension 0 they are. Engines
    start at few partitions only, so a border is written on all of them, also where a piece follows.
    """
    fill = next((m.fill for m in mosaics if m.fill is not None), None)
    if fill is None:
        return
    sizes = shape_of(buffer)
    boxes = _border_boxes(builder, mosaics, sizes)
    limit = builder.target.access_pattern.max_free_dims
    strides = strides_of(buffer.type)[1:]
    if any(len(access_pattern([b - a for a, b in x[1:]], strides)) > limit for x in boxes):
        boxes = [_whole(sizes)]
    for box in boxes:
        extents = [b - a for a, b in box]
        builder.memset(builder.subview(buffer, [a for a, _ in box], extents), fill, "gpsimd")


def _whole(sizes: Sequence[int]) -> Box:
    return [(0, n) for n in sizes]


def _border_boxes(builder: Builder, mosaics: Sequence[Mosaic], sizes: Sequence[int]) -> list[Box]:
    """Return the borders of all mosaics, those on the same side as one box on all partitions."""
    found: dict[tuple[int, bool], Box] = {}
    for mosaic in mosaics:
        parts = [[p.range(d) for d in range(len(sizes))] for p in mosaic.pieces]
        around = borders(mosaic.shape, parts) if parts else None
        if around is None:
            return [_whole(sizes)]
        for side, box in around.items():
            partitions = (0, sizes[0])
            if side[0] == 0:
                partitions = box[0]
                legal = builder.target.sbuf.legal_starts(partitions[1] - partitions[0])
                if len(mosaics) > 1 or partitions[0] not in legal:
                    return [_whole(sizes)]
            new = [partitions, *box[1:]]
            old = found.get(side, new)
            found[side] = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(old, new, strict=True)]
    return list(found.values())
