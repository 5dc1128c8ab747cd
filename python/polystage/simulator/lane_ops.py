"""The instructions of the vector, scalar and gpsimd engines: operands, cost, numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from polystage.dialects.npu.rules import activate_operands
from polystage.errors import SimulationError
from polystage.evaluator import iteration_box
from polystage.evaluator.scalar_body import ScalarBody
from polystage.evaluator.scalar_ops import constant_scalar
from polystage.machine.access import contiguous_run
from polystage.machine.components import LaneEngine
from polystage.machine.lane_passes import LaneOperand, lane_passes
from polystage.mlir import ir
from polystage.simulator.access import ChipWindow, View, Walk
from polystage.simulator.activations import Activation
from polystage.simulator.decode import Decoder, Handler
from polystage.simulator.instructions import Numerics
from polystage.simulator.memory import Array
from polystage.simulator.operands import LaneName, chip, engine_of, lane_instruction
from polystage.simulator.views import where

_BF16 = np.dtype(ml_dtypes.bfloat16)

Run = Callable[[list[Array], list[Array], int], None]


class _Function(Numerics):
    """Numbers that one function computes."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def run(self, reads: list[Array], writes: list[Array], value: int) -> None:
        """Read, compute, write."""
        self._run(reads, writes, value)


def _memset(decoder: Decoder, op: ir.Operation) -> None:
    destination = chip(decoder, op, decoder.view(op.operands[0]))
    type_ = ir.MemRefType(op.operands[0].type).element_type
    value = constant_scalar(op.attributes["value"], type_)

    lane_instruction(
        decoder,
        op,
        engine_of(op),
        [],
        [destination],
        destination.view_shape,
        (0,),
        _Function(lambda reads, writes, _: fill(writes[0], value)),
    )


def fill(destination: Array, value: Any) -> None:
    """Give every element a value."""
    destination[...] = value


def _box(
    decoder: Decoder, op: ir.Operation
) -> tuple[list[ChipWindow], list[ChipWindow], tuple[int, ...], ScalarBody]:
    """Return inputs, outputs, extents and body of an elementwise operation or reduction."""
    sizes = tuple(ir.DenseI64ArrayAttr(op.attributes["sizes"]))
    maps = list(ir.ArrayAttr(op.attributes["indexing_maps"]))
    views = [decoder.view(v) for v in op.operands]
    name = ir.FlatSymbolRefAttr(op.attributes["function"]).value
    body = decoder.program.body(name, op)
    n_ins = len(views) - len(body.result_dtypes)
    if len(body.argument_dtypes) != len(views) or n_ins < 0:
        raise SimulationError(
            f"'{op.name}' has {len(views)} operands, but @{name} takes "
            f"{len(body.argument_dtypes)} values and returns {len(body.result_dtypes)}",
            help="a scalar function takes one value per operand and returns one per output",
            op=op,
        )
    accesses = [
        _window(decoder, op, view, map_, sizes) for view, map_ in zip(views, maps, strict=True)
    ]
    return accesses[:n_ins], accesses[n_ins:], sizes, body


def _window(
    decoder: Decoder, op: ir.Operation, view: View, map_: ir.Attribute, sizes: tuple[int, ...]
) -> ChipWindow:
    known = decoder.windows.get((view, (map_, sizes)))
    if known is None:
        walk = _walk(op, view, ir.AffineMapAttr(map_).value, sizes)
        known = decoder.windows[view, (map_, sizes)] = chip(decoder, op, view, walk)
    assert isinstance(known, ChipWindow)
    return known


def _walk(op: ir.Operation, view: View, map_: ir.AffineMap, sizes: tuple[int, ...]) -> Walk:
    linear = iteration_box.linear_access(map_)
    if linear is None:
        raise SimulationError(f"indexing map {map_} of '{op.name}' is not linear", op=op)
    strides = tuple(
        sum(row[d] * s for row, s in zip(linear.coefficients, view.strides, strict=True))
        for d in range(len(sizes))
    )
    offset = sum(c * s for c, s in zip(linear.constants, view.strides, strict=True))
    for row, constant, extent in zip(
        linear.coefficients, linear.constants, view.shape, strict=True
    ):
        reach = [c * (n - 1) for c, n in zip(row, sizes, strict=True)]
        low, high = (
            constant + sum(min(0, r) for r in reach),
            constant + sum(max(0, r) for r in reach),
        )
        if low < 0 or high >= extent:
            raise SimulationError(
                f"indexing map {map_} of '{op.name}' reaches [{low}, {high}] of extent {extent} "
                f"of {where(view)}",
                op=op,
            )
    return Walk(sizes, strides, offset)


def _elementwise(decoder: Decoder, op: ir.Operation) -> None:
    ins, outs, sizes, body = _box(decoder, op)
    for access in outs:
        if any(n > 1 and s == 0 for n, s in zip(sizes, access.walk.strides, strict=True)):
            raise SimulationError(
                "an output of 'npu.elementwise' does not depend on every dimension of the box",
                help="use npu.reduce to fold over a dimension",
                op=op,
            )
    used = body.used_arguments
    kept = [i for i in range(len(ins)) if used[i]]
    present = [i for i in range(len(outs)) if used[len(ins) + i]]
    count = len(used)

    def numerics(reads: list[Array], writes: list[Array], _: int) -> None:
        arguments: list[Array | None] = [None] * count
        for position, i in enumerate(kept):
            arguments[i] = reads[position]
        for i in present:
            arguments[len(ins) + i] = writes[i]
        for out, result in zip(writes, body.run(arguments), strict=True):
            out[...] = result

    reads = [ins[i] for i in kept] + [outs[i] for i in present]
    function, engine = _Function(numerics), engine_of(op)
    passes = _passes(decoder, engine, body, [*ins, *outs])
    lane_instruction(
        decoder,
        op,
        engine,
        reads,
        outs,
        sizes,
        passes,
        function,
        operands=[*ins],
        operations=len(body.passes),
    )


def _passes(
    decoder: Decoder, engine: LaneName, body: ScalarBody, operands: Sequence[ChipWindow]
) -> tuple[int, ...]:
    """Return what every instruction of an elementwise body streams."""
    unit: LaneEngine = getattr(decoder.program.target, engine)
    is_simple = unit.fused_operations == 1 and not unit.full_rate_pairs
    if is_simple or not body.operations:
        return body.passes
    described = [_lane_operand(access) for access in operands]
    outputs = described[len(operands) - len(body.values) :]
    return lane_passes(
        unit,
        body.operations,
        dict(enumerate(described)),
        dict(zip(body.values, outputs, strict=True)),
    )


def _lane_operand(access: ChipWindow) -> LaneOperand:
    extents, strides = access.walk.extents[1:], access.walk.strides[1:]
    return LaneOperand(
        all(s == 0 or n == 1 for n, s in zip(extents, strides, strict=True)),
        access.root.memory.name == "psum",
        access.dtype == _BF16 and contiguous_run(extents, strides) == prod(extents),
    )


def _reduce(decoder: Decoder, op: ir.Operation) -> None:
    ins, outs, sizes, body = _box(decoder, op)

    def numerics(reads: list[Array], writes: list[Array], _: int) -> None:
        iteration_box.run(body, reads[: len(ins)], writes, sizes)

    reads, passes = [*ins, *outs], body.reduction_passes
    lane_instruction(decoder, op, engine_of(op), reads, outs, sizes, passes, _Function(numerics))


def _activate(decoder: Decoder, op: ir.Operation) -> None:
    operands = {
        name: chip(decoder, op, decoder.view(value))
        for name, value in activate_operands(op).items()
    }
    source, destination = operands["source"], operands["destination"]
    columns = {name: operands[name] for name in ("shift", "factor") if name in operands}
    totals = [operands["total"]] if "total" in operands else []
    scale, bias = (ir.FloatAttr(op.attributes[key]).value for key in ("scale", "bias"))
    activation = Activation(
        ir.StringAttr(op.attributes["function"]).value, scale, bias, tuple(columns), source.dtype
    )
    lane_instruction(
        decoder,
        op,
        "scalar",
        [source, *columns.values()],
        [destination, *totals],
        source.view_shape,
        (1,),
        _Function(activation.run),
        operands=[source],
        accumulates=bool(totals),
    )


def _iota(decoder: Decoder, op: ir.Operation) -> None:
    destination = chip(decoder, op, decoder.view(op.operands[0]))
    dimension = ir.IntegerAttr(op.attributes["dimension"]).value
    shape = destination.view_shape
    ramp = np.arange(shape[dimension], dtype=np.int64)
    ramp = ramp.reshape([n if d == dimension else 1 for d, n in enumerate(shape)])

    def numerics(_: list[Array], writes: list[Array], first: int) -> None:
        writes[0][...] = ramp + first

    offset = decoder.index(op.operands[1])
    lane_instruction(
        decoder, op, "gpsimd", [], [destination], shape, (0,), _Function(numerics), value=offset
    )


HANDLERS: dict[str, Handler] = {
    "npu.memset": _memset,
    "npu.elementwise": _elementwise,
    "npu.reduce": _reduce,
    "npu.activate": _activate,
    "npu.iota": _iota,
}
