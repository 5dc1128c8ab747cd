"""Index arithmetic, and the loops that it is about, as the decoder sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polystage.errors import SimulationError
from polystage.mlir import ir
from polystage.simulator.decode import Decoder, Handler
from polystage.simulator.index import COMPARISONS, DIVISIONS, NONLINEAR, Linear
from polystage.simulator.instructions import Loop


def _constant(decoder: Decoder, op: ir.Operation) -> None:
    attribute = op.attributes["value"]
    if isinstance(attribute, ir.BoolAttr):
        decoder.linear[op.results[0]] = Linear(int(attribute.value))
    elif isinstance(attribute, ir.IntegerAttr):
        value = attribute.value
        is_flag = str(op.results[0].type) == "i1"
        decoder.linear[op.results[0]] = Linear(value & 1 if is_flag else value)


def _add(decoder: Decoder, op: ir.Operation) -> None:
    a, b = (decoder.index(v) for v in op.operands)
    decoder.linear[op.results[0]] = a + b


def _subtract(decoder: Decoder, op: ir.Operation) -> None:
    a, b = (decoder.index(v) for v in op.operands)
    decoder.linear[op.results[0]] = a + b * -1


def _cast(decoder: Decoder, op: ir.Operation) -> None:
    decoder.linear[op.results[0]] = decoder.index(op.operands[0])


def _apply(decoder: Decoder, op: ir.Operation) -> None:
    map_ = ir.AffineMapAttr(op.attributes["map"]).value
    operands = [decoder.index(v) for v in op.operands]
    decoder.linear[op.results[0]] = _affine(decoder, map_.results[0], operands, map_.n_dims, op)


_AFFINE = {
    ir.AffineModExpr: "arith.remui",
    ir.AffineFloorDivExpr: "arith.floordivsi",
    ir.AffineCeilDivExpr: "arith.ceildivsi",
    ir.AffineMulExpr: "arith.muli",
}


def _affine(
    decoder: Decoder,
    expression: ir.AffineExpr,
    operands: list[Linear],
    n_dims: int,
    op: ir.Operation,
) -> Linear:
    if isinstance(expression, ir.AffineConstantExpr):
        return Linear(expression.value)
    if isinstance(expression, ir.AffineDimExpr):
        return operands[expression.position]
    if isinstance(expression, ir.AffineSymbolExpr):
        return operands[n_dims + expression.position]
    pair: Any = expression
    a = _affine(decoder, pair.lhs, operands, n_dims, op)
    b = _affine(decoder, pair.rhs, operands, n_dims, op)
    if isinstance(expression, ir.AffineAddExpr):
        return a + b
    name = next(name for kind, name in _AFFINE.items() if isinstance(expression, kind))
    return _value(decoder, name, (a, b), op)


def _nonlinear(decoder: Decoder, op: ir.Operation) -> None:
    operands = [decoder.index(v) for v in op.operands]
    decoder.linear[op.results[0]] = _value(decoder, op.name, operands, op)


def _compare(decoder: Decoder, op: ir.Operation) -> None:
    operands = [decoder.index(v) for v in op.operands]
    function = COMPARISONS[ir.IntegerAttr(op.attributes["predicate"]).value]
    decoder.linear[op.results[0]] = decoder.space.apply(function, operands, decoder.depth)


def _value(decoder: Decoder, name: str, operands: Sequence[Linear], op: ir.Operation) -> Linear:
    """Return the value of an operation in all iterations; a product with a constant stays linear.

    Raises: SimulationError for a division by zero.
    """
    if name == "arith.muli" and any(x.is_constant for x in operands):
        first, second = operands if operands[1].is_constant else operands[::-1]
        return first * second.constant
    if name in DIVISIONS and decoder.space.first(operands[1], lambda b: b == 0) is not None:
        raise SimulationError(f"'{op.name}' in @{decoder.name} divides by zero", op=op)
    return decoder.space.apply(NONLINEAR[name], operands, decoder.depth)


# --- loops ---


def _for(decoder: Decoder, op: ir.Operation) -> None:
    if len(op.results):
        raise SimulationError("'scf.for' of an npu program carries no values", op=op)
    names = ("lower bound", "upper bound", "step")
    low, high, step = (
        decoder.constant(v, name, op) for v, name in zip(op.operands, names, strict=True)
    )
    if step <= 0:
        raise SimulationError(f"'scf.for' has step {step}, which must be positive", op=op)
    steps = range(low, high, step)
    if not steps:
        return
    block = op.regions[0].blocks[0]
    decoder.linear[block.arguments[0]] = decoder.space.loop(steps, decoder.depth)
    loop = Loop(len(steps), decoder.length)
    decoder.loops.append(loop)
    decoder.length = 0
    decoder.block(block)
    decoder.loops.pop()
    loop.length = decoder.length
    decoder.length = loop.start + loop.trips * loop.length


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(NONLINEAR, _nonlinear),
    "arith.cmpi": _compare,
    "arith.constant": _constant,
    "arith.addi": _add,
    "arith.subi": _subtract,
    "arith.index_cast": _cast,
    "arith.index_castui": _cast,
    "arith.extsi": _cast,
    "arith.extui": _cast,
    "affine.apply": _apply,
    "scf.for": _for,
}
