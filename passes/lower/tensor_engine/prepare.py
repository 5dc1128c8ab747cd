"""Brings a contraction into the shape that the array wants."""

from __future__ import annotations

from collections.abc import Callable

from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.mosaic import Array
from polystage.passes.lower.tensor_engine.collapse import collapse_dims
from polystage.passes.lower.tensor_engine.contraction import Contraction
from polystage.passes.lower.tensor_engine.depthwise import spread_channels
from polystage.passes.lower.tensor_engine.split import split_taps


def prepared(
    builder: KernelBuilder, generic: GenericOp, match: Callable[[GenericOp], Contraction | None]
) -> tuple[Contraction, list[Array]]:
    """Return an operation that `match` recognises as a contraction with few, long loops, and its
    operands as views of the kernel's arguments."""
    generic, values = collapse_dims(builder, generic, builder.arguments)
    contraction = match(generic)
    assert contraction is not None, "merging loops leaves a contraction one"
    if contraction.is_depthwise:
        return spread_channels(builder, contraction, values)
    split, values = split_taps(builder, contraction, values)
    contraction = match(split)
    assert contraction is not None, "splitting a loop leaves a contraction one"
    return contraction, values
