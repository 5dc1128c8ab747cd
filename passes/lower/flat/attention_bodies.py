"""The scalar functions of attention: one instruction applies each to a tile of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polystage.mlir import func, ir
from polystage.passes.lower.flat.bodies import Source
from polystage.planner.fusion.attention.operator import Attention
from polystage.polyhedral import Statement

MAXIMUM = """func.func private @f(%s: f32, %m: f32) -> f32 {
  %r = arith.maximumf %m, %s : f32
  return %r : f32
}"""
SUM = """func.func private @f(%p: f32, %l: f32) -> f32 {
  %r = arith.addf %l, %p : f32
  return %r : f32
}"""
WEIGHT = """func.func private @f(%s: f32, %m: f32, %p: f32) -> f32 {
  %d = arith.subf %s, %m : f32
  %r = math.exp %d : f32
  return %r : f32
}"""
FACTOR = """func.func private @f(%m: f32, %before: f32, %l: f32) -> (f32, f32) {
  %d = arith.subf %before, %m : f32
  %f = math.exp %d : f32
  %r = arith.mulf %l, %f : f32
  return %f, %r : f32, f32
}"""
FACTOR_ALONE = """func.func private @f(%m: f32, %before: f32) -> f32 {
  %d = arith.subf %before, %m : f32
  %f = math.exp %d : f32
  return %f : f32
}"""
SHRINK = """func.func private @f(%f: f32, %o: f32) -> f32 {
  %r = arith.mulf %o, %f : f32
  return %r : f32
}"""
DIVIDE = """func.func private @f(%o: f32, %l: f32, %out: f32) -> f32 {
  %r = arith.divf %o, %l : f32
  return %r : f32
}"""
DIVIDE_OR_ZERO = """func.func private @f(%o: f32, %l: f32, %out: f32) -> f32 {
  %zero = arith.constant 0.0 : f32
  %none = arith.cmpf oeq, %l, %zero : f32
  %q = arith.divf %o, %l : f32
  %r = arith.select %none, %zero, %q : f32
  return %r : f32
}"""
NAMES = {
    MAXIMUM: "max",
    SUM: "add",
    WEIGHT: "weight",
    FACTOR: "factor",
    FACTOR_ALONE: "factor",
    SHRINK: "shrink",
    DIVIDE: "divide",
    DIVIDE_OR_ZERO: "divide",
}
"""What the functions are called; that of pointwise bodies is `score`."""
_ROUNDING = ("arith.extf", "arith.truncf")


def pointwise(operator: Attention, masks: Sequence[Source]) -> str:
    """Return a function (score, masks.., old) -> new, in f32 from one body to the next.

    truncf(mulf(extf(score), scale)) ; addf(extf(that), extf(mask))  ->
    addf(mulf(score, scale), mask)
    """
    f32 = ir.F32Type.get()
    types = [f32, *(_wide(ir.MemRefType(m.op.operands[m.operand].type)) for m in masks), f32]
    function = func.FuncOp("f", (types, [f32]), visibility="private", ip=False)
    block = function.add_entry_block()
    value, before = block.arguments[0], operator.statements[0]
    with ir.InsertionPoint(block):
        for statement in operator.pointwise:
            arguments = {
                mask.operand: argument
                for mask, argument in zip(masks, list(block.arguments)[1:], strict=False)
                if mask.op == statement.op
            }
            own = (a for a in statement.reads if a.array == before.writes[0].array)
            arguments[next(own).operand] = value
            value, before = _copied(statement, arguments), statement
        func.ReturnOp([value])
    return str(function)


def _wide(type_: ir.MemRefType) -> ir.Type:
    """Return the type in which elements come into a body: floats as f32."""
    element: Any = type_.element_type
    return ir.F32Type.get() if isinstance(element, ir.FloatType) else element


def _copied(statement: Statement, arguments: dict[int | None, Any]) -> Any:
    """Copy a body to where the next operation goes, without rounding; return what it yields."""
    body = statement.op.regions[0].blocks[0]
    values: dict[ir.Value, Any] = {
        argument: arguments[number]
        for number, argument in enumerate(body.arguments)
        if number in arguments
    }

    def copy(value: ir.Value) -> Any:
        if value not in values:
            values[value] = _copy_of(value, statement, copy)
        return values[value]

    return copy(list(body.operations)[-1].operands[0])


def _copy_of(value: ir.Value, statement: Statement, copy: Any) -> Any:
    if isinstance(value, ir.BlockArgument):  # a scalar operand: a value from outside
        return copy(statement.op.operands[ir.BlockArgument(value).arg_number])
    op = ir.OpResult(value).owner
    operands = [copy(v) for v in op.operands]
    if op.name in _ROUNDING:
        return operands[0]
    copied = op.operation.clone()
    for number, operand in enumerate(operands):
        copied.operands[number] = operand
    return copied.results[list(op.results).index(value)]
