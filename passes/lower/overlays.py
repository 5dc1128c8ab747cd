"""Overlays as the lowering takes them: mosaics of the arrays behind them."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.dialects.npu import overlay
from polystage.mlir import ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.mosaic import Box, Piece, difference, mosaic_of


def bind_arguments(
    builder: KernelBuilder, operands: Sequence[ir.Value], causes: Sequence[str]
) -> list[str]:
    """Let `builder.arguments[i]` be what operand i reads, and return why its bytes move.

    The kernel has one argument for each memref and for each source of an overlay; those become one
    mosaic. `causes` belong to the arguments. Operands that are no memrefs get None.
    """
    given = list(zip(builder.arguments, causes, strict=True))
    builder.arguments = []
    found: list[str] = []
    for value in operands:
        if not isinstance(value.type, ir.MemRefType):
            builder.arguments.append(None)
            found.append("")
            continue
        layers, fill = overlay.pieces(value)
        mine, given = given[: len(layers)], given[len(layers) :]
        found.append(mine[0][1])
        if not overlay.is_overlay(value):
            builder.arguments.append(mine[0][0])
            continue
        pieces: list[Piece] = []
        for (offsets, _), (argument, cause) in zip(layers, mine, strict=True):
            pieces += _visible(builder, Piece(offsets, argument, cause), pieces)
        builder.arguments.append(mosaic_of(value, pieces, fill))
    return found


def _visible(builder: KernelBuilder, piece: Piece, above: Sequence[Piece]) -> list[Piece]:
    """Return what the pieces above leave of a piece."""
    dims = range(len(piece.offsets))
    boxes: list[Box] = [[piece.range(d) for d in dims]]
    for other in above:
        hole = [other.range(d) for d in dims]
        boxes = [part for box in boxes for part in difference(box, hole)]
    return [
        Piece(
            tuple(a for a, _ in box),
            builder.subview(
                piece.value,
                [a - o for (a, _), o in zip(box, piece.offsets, strict=True)],
                [b - a for a, b in box],
            ),
            piece.cause,
        )
        for box in boxes
    ]
