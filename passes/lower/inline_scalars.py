"""Scalars that a program computes between its operations move into the bodies that use them.

    %v = memref.load %m[%c0] : memref<1xf32>       %s = memref.alloc() : memref<f32>
    %w = arith.addf %v, %v                         linalg.generic copies %m[0] to %s
    linalg.generic .. {                     ->     linalg.generic .. {
      %r = arith.mulf %in, %w                        %v = memref.load %s[]
      linalg.yield %r                                %w = arith.addf %v, %v
    }                                                %r = arith.mulf %in, %w
                                                     linalg.yield %r
                                                   }

The copy keeps the element as it was at the load: the memref may be written in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.mlir import ir, linalg, memref
from polystage.passes.lower.generic_op import inline_scalar_operands


def inline_scalars(operations: Sequence[ir.Operation]) -> list[ir.Operation]:
    """Make the bodies of linalg.generic operations capture nothing but memrefs and constants.

    Return the scalar operations that bodies no longer need, users behind what they use.

    Raises:
        PassError: a scalar is loaded from a place that is not constant.
    """
    inliner = _Inliner()
    for op in operations:
        if op.name == "linalg.generic":
            inline_scalar_operands(op.opview)
            inliner.inline(op.regions[0].blocks[0])
    return _in_order(inliner.outside)


class _Inliner:
    def __init__(self) -> None:
        self.kept: dict[ir.Operation, ir.Value] = {}
        self.outside: dict[ir.Operation, None] = {}

    def inline(self, body: ir.Block) -> None:
        """Move the scalars that a body captures into it."""
        point = ir.InsertionPoint.at_block_begin(body)
        inside: dict[ir.Value, ir.Value] = {}
        for view in list(body.operations):
            op = view.operation
            for i, value in enumerate(op.operands):
                if self.is_captured(value, body):
                    op.operands[i] = self.moved(value, point, inside)

    def is_captured(self, value: ir.Value, body: ir.Block) -> bool:
        """Whether a body takes a scalar from an operation around it that is no constant."""
        op = defining_op(value)
        if op is None or op.block == body or isinstance(value.type, ir.ShapedType):
            return False
        return op.name != "arith.constant"

    def moved(
        self, value: ir.Value, point: ir.InsertionPoint, inside: dict[ir.Value, ir.Value]
    ) -> ir.Value:
        """Return a value in the body that equals `value` outside."""
        if value in inside:
            return inside[value]
        op = defining_op(value)
        if op is None or op.name == "arith.constant":
            return value
        self.outside[op] = None
        if op.name == "memref.load":
            with point, op.location:
                inside[value] = memref.LoadOp(self.element(op), []).result
            return inside[value]
        if not op.name.startswith(("arith.", "math.")):
            raise PassError(f"a body uses the result of '{op.name}' from outside", op=op)
        operands = [self.moved(v, point, inside) for v in op.operands]
        clone = op.clone(ip=point)
        for i, operand in enumerate(operands):
            clone.operation.operands[i] = operand
        inside.update(zip(op.results, clone.operation.results, strict=True))
        return inside[value]

    def element(self, load: ir.Operation) -> ir.Value:
        """Return a memref of rank 0 that keeps the element that was loaded."""
        if load not in self.kept:
            source, *indices = load.operands
            places = [_constant(load, index) for index in indices]
            type_ = ir.MemRefType.get([], load.results[0].type)
            with ir.InsertionPoint(load), load.location:
                self.kept[load] = memref.AllocOp(type_, [], []).memref
                _copy_element(source, places, self.kept[load])
        return self.kept[load]


def erase_unused(operations: Sequence[ir.Operation]) -> None:
    """Erase those of `operations` that nothing uses, last first."""
    for op in reversed(operations):
        if not any(any(True for _ in result.uses) for result in op.results):
            op.erase()


def _constant(load: ir.Operation, index: ir.Value) -> int:
    op = defining_op(index)
    if op is None or op.name != "arith.constant":
        raise PassError("a scalar is loaded from a place that is not constant", op=load)
    return ir.IntegerAttr(op.attributes["value"]).value


def _copy_element(source: ir.Value, places: Sequence[int], target: ir.Value) -> None:
    """Write `target[] = source[places]` as a linalg.generic."""
    type_ = ir.MemRefType(source.type).element_type
    constants = [ir.AffineExpr.get_constant(p) for p in places]
    maps = [ir.AffineMap.get(0, 0, constants), ir.AffineMap.get(0, 0, [])]
    op = linalg.GenericOp(
        [], [source], [target], ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps]), []
    )
    block = op.regions[0].blocks.append(type_, type_)
    with ir.InsertionPoint(block):
        linalg.YieldOp([block.arguments[0]])


def _in_order(operations: dict[ir.Operation, None]) -> list[ir.Operation]:
    """Return operations with users behind what they use."""
    order: list[ir.Operation] = []

    def visit(op: ir.Operation) -> None:
        if op in order or op not in operations:
            return
        for value in op.operands:
            source = defining_op(value)
            if source is not None:
                visit(source)
        order.append(op)

    for op in operations:
        visit(op)
    return order
