"""Transfers between DRAM and the scratchpad: boxes of arrays, cut where a window wraps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polystage.linear import Linear
from polystage.passes.lower.flat.chunk import Location, window
from polystage.passes.lower.flat.forms import Indices
from polystage.passes.lower.flat.indices import Index
from polystage.passes.lower.flat.pieces import Piece, address, refine, resolve
from polystage.passes.lower.flat.writer import FlatWriter


@dataclass(frozen=True)
class Box:
    """Elements of an array: starts over the variables of the open loops, and extents."""

    starts: tuple[Linear, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of_ranges(cls, ranges: Sequence[Sequence[int]]) -> Box:
        """Return the box of (start, stop) per axis."""
        starts = tuple(Linear(int(start)) for start, _ in ranges)
        return cls(starts, tuple(int(stop) - int(start) for start, stop in ranges))

    @property
    def is_empty(self) -> bool:
        """Whether it has no elements."""
        return any(size <= 0 for size in self.sizes)


def move(writer: FlatWriter, box: Box, source: Location, destination: Location, cause: str) -> None:
    """Copy a box of an array from where it is to where it goes."""
    piece = Piece.of_box(box.starts, box.sizes, writer.ranges)
    indices = tuple(Index(Linear.variable(d)) for d in range(len(box.sizes)))
    move_piece(writer, piece, indices, source, destination, cause)


def move_piece(
    writer: FlatWriter,
    piece: Piece,
    indices: Indices,
    source: Location,
    destination: Location,
    cause: str,
) -> None:
    """Copy the elements at `indices` over a piece, and no others."""

    def read(part: Piece) -> tuple[Linear, Linear]:
        return address(indices, source.axes, part), address(indices, destination.axes, part)

    for part, (before, after) in refine(piece, read):
        variables = part.variables
        writer.dma(
            window(source, before, part, variables),
            window(destination, after, part, variables),
            cause,
        )


def hull(pieces: Sequence[Piece], indices: Indices) -> Box | None:
    """Return the smallest box with all elements at `indices` over some pieces, which are cut where
    needed; None without pieces."""
    lows: list[Linear] = []
    highs: list[Linear] = []
    for piece in pieces:
        for part, forms in refine(piece, lambda p: [resolve(index, p) for index in indices]):
            ends = [_ends(form, part) for form in forms]
            if not lows:
                lows, highs = [low for low, _ in ends], [high for _, high in ends]
            lows = [_least(a, b) for a, (b, _) in zip(lows, ends, strict=True)]
            highs = [_least(a * -1, b * -1) * -1 for a, (_, b) in zip(highs, ends, strict=True)]
    if not pieces:
        return None
    sizes = tuple((high - low).constant + 1 for low, high in zip(lows, highs, strict=True))
    return Box(tuple(lows), sizes)


def _ends(form: Linear, piece: Piece) -> tuple[Linear, Linear]:
    """Return the least and the greatest value over a piece's own variables."""
    outer = Linear(form.constant, tuple((v, c) for v, c in form.terms if v < piece.loops))
    reaches = [c * piece.ranges[v][1] for v, c in form.terms if v >= piece.loops]
    return outer + sum(min(r, 0) for r in reaches), outer + sum(max(r, 0) for r in reaches)


def _least(a: Linear, b: Linear) -> Linear:
    assert a.terms == b.terms, "loops run over tiles that need no cut"
    return a if a.constant <= b.constant else b
