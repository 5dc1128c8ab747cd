"""Operators that write a part of an array, the rest of which are constants.

    y[t + 1, c] = function(scale * (x[c, t] + shift[c]) + bias);  y[0, c] = token[c]

What follows sees both as one array, an `npu.overlay`, and that array is what lies on chip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import VIEW_OPS, shape_of
from polystage.mlir import ir
from polystage.passes.lower.generic_op import GenericOp, Linear
from polystage.passes.lower.resident.operators import (
    Column,
    Read,
    ResidentOperator,
    plain_dims,
)
from polystage.passes.lower.resident.reading import Reading, constant_of, users_of
from polystage.passes.lower.resident.terms import Terms
from polystage.passes.lower.resident.windows import Window
from polystage.passes.lower.resident.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Placing(ResidentOperator):
    """`output[start + i] = function(scale * (source[i] + shift) + bias)`, where `i` counts what the
    source has within a partition; `constants` are the other elements, by their places."""

    partition: int
    source: Window
    source_partition: int
    start: int
    shift: Column | None
    constants: Mapping[int, Column]
    function: str
    scale: float
    bias: float

    @property
    def reads(self) -> Iterator[Read]:
        """The source."""
        yield self.source, self.source_partition, ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The shift and the constants."""
        return (*([self.shift] if self.shift else []), *self.constants.values())


class PlacingWriter:
    """Writes such an operator: the scalar engine moves a tile at a time."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.builder = workspace.builder

    def write(self, operator: Placing) -> None:
        """Write one operator."""
        builder = self.builder
        source = self.workspace.arrays[operator.source.array]
        output = self.workspace.arrays[operator.output.array]
        flat = builder.collapse(output.buffer, [1, 1, len(output.layout.free)])
        size = prod(source.layout.shape[d] for d in source.layout.free)
        for tile in range(output.layout.tiles):
            count = output.layout.count(tile)
            inside = builder.collapse(source.inside(builder, tile), [1, len(source.layout.free)])
            place = builder.subview(flat, [0, tile, operator.start], [count, 1, size], drop=[1])
            shift = operator.shift and self.workspace.column(operator.shift, tile, count)
            function, scale, bias = operator.function, operator.scale, operator.bias
            builder.activate(inside, place, function, scale, bias, shift)
            for position, column in operator.constants.items():
                value = self.workspace.column(column, tile, count)
                place = builder.subview(flat, [0, tile, position], [count, 1, 1], drop=[1])
                builder.activate(value, place)


def read_placing(
    reading: Reading, op: ir.Operation, generic: GenericOp, terms: Terms
) -> Placing | None:
    """Return the operator that a sum is which writes a part of an array, or None."""
    output = reading.window(op, generic.outputs[0])
    if plain_dims(output, generic.extents) is not None:
        return None
    accesses = [a for a in generic.inputs if a.argument in terms.operands]
    columns = [a for a in accesses if constant_of(op.operands[a.argument]) and len(a.dims) == 1]
    rest = [reading.window(op, a) for a in accesses if a not in columns]
    if len(rest) != 1 or len(terms.operands) != len(accesses):
        return None
    (source,) = rest
    dims = plain_dims(source, generic.extents)
    across = reading.partitions.get(source.array)
    if dims is None or across is None or source.fill is not None:
        return None
    loop = source.index[across].single
    partition = None if loop is None else output.dim_of(loop)
    if partition is None or any(set(a.dims) != {loop} for a in columns):
        return None
    if output.shape[partition] != source.shape[across]:
        return None
    within = sorted(d for d in dims.values() if d != across)
    start = _start(output, partition, [source.index[d].single for d in within], generic.extents)
    seen = None if start is None else _seen(reading, op, output, partition)
    if start is None or seen is None:
        return None
    shown, constants = seen
    size = prod(source.shape) // source.shape[across]
    if {*range(start, start + size), *constants} != set(range(_free(output, partition))):
        return None
    extent = output.shape[partition]
    names = tuple(name for a in columns if (name := constant_of(op.operands[a.argument])))
    reading.partitions[shown] = partition
    reading.shown.add(shown)
    return Placing(
        reading.with_fill(op),
        Window(shown, output.index),
        partition,
        source,
        across,
        start,
        Column(names, extent, terms.scale) if names else None,
        {place: Column((name,), extent) for place, name in constants.items()},
        terms.function,
        terms.scale,
        terms.bias,
    )


def _free(output: Window, partition: int) -> int:
    return prod(n for d, n in enumerate(output.shape) if d != partition)


def _start(
    output: Window, partition: int, loops: list[int | None], extents: tuple[int, ...]
) -> int | None:
    """Return where the part begins, if `loops` walk it row by row in the only dimension of the
    output that is not across the partitions."""
    wide = [d for d, n in enumerate(output.shape) if n > 1 and d != partition]
    if len(wide) != 1 or None in loops:
        return None
    coefficients, stride = [0] * len(extents), 1
    for loop in reversed([loop for loop in loops if loop is not None]):
        coefficients[loop] = stride
        stride *= extents[loop]
    linear = output.index[wide[0]]
    same = linear == Linear(linear.constant, tuple(coefficients))
    return linear.constant if same else None


def _seen(
    reading: Reading, op: ir.Operation, output: Window, partition: int
) -> tuple[ir.Value, dict[int, str]] | None:
    """Return the overlay as which all others, right behind `op`, see what it writes, and its
    constants by their places, each one element for every partition."""
    overlays = [
        use.owner.operation
        for use in output.array.uses
        if use.owner.operation.name not in VIEW_OPS and use.owner.operation != op
    ]
    if len(overlays) != 1 or overlays[0].name != overlay.NAME:
        return None
    shown = overlays[0].results[0]
    users = users_of(output.array)
    behind = [reading.place.get(user, -1) for user in users if user != op]
    between = reading.operations[reading.place[op] + 1 : max(behind, default=0)]
    if users.count(op) != 1 or set(behind) != {reading.place[u] for u in users_of(shown)}:
        return None
    if min(behind) < 0 or any(user not in reading.fills for user in between):
        return None
    found, fill = overlay.pieces(shown)
    if fill is not None or found[-1][1] != output.array:
        return None
    constants: dict[int, str] = {}
    (wide,) = [d for d, n in enumerate(output.shape) if n > 1 and d != partition]
    for offsets, piece in found[:-1]:
        name = constant_of(piece)
        shape = [n if d == partition else 1 for d, n in enumerate(output.shape)]
        if name is None or list(shape_of(piece)) != shape or offsets[wide] in constants:
            return None
        constants[offsets[wide]] = name
    return shown, constants
