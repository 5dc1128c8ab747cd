"""Takes elementwise operations apart that read more operands than one instruction can."""

from __future__ import annotations

from collections.abc import Mapping

from polystage.dialects import npu
from polystage.forms import walk
from polystage.mlir import ir, linalg, memref
from polystage.polyhedral.scalar import computed_from

_MOST_OPERANDS = npu.ops.BoxOp.MAX_OPERANDS

Cones = Mapping[ir.Value, frozenset[int]]
"""By value of a body, the operands that it is computed from."""


def split_wide_bodies(module: ir.Module) -> int:
    """Let parts of wide bodies be operations of their own, in front; return how many parts.

    y = a0 + a1 + .. + a20  ->  t = a0 + .. + a10
                                y = t + a11 + .. + a20
    """
    generics = [op for op in walk(module.operation) if op.name == "linalg.generic"]
    return sum(map(_split, generics))


def _extents(op: ir.Operation) -> list[int] | None:
    """Return how often each loop of an elementwise operation runs, where it has one result that
    walks all loops, and too many operands."""
    outputs, operands = op.opview.outputs, [v for v in op.operands if _is_array(v)]
    if len(outputs) != 1 or len(operands) <= _MOST_OPERANDS:
        return None
    written = ir.AffineMapAttr(list(ir.ArrayAttr(op.attributes["indexing_maps"]))[-1]).value
    walked = [e.maybe_downcast() for e in written.results]
    dims = [e.position for e in walked if isinstance(e, ir.AffineDimExpr)]
    if sorted(dims) != list(range(written.n_dims)) or len(dims) != len(walked):
        return None
    by_dim = dict(zip(dims, ir.MemRefType(outputs[0].type).shape, strict=True))
    return [by_dim[dim] for dim in range(written.n_dims)]


def _is_array(value: ir.Value) -> bool:
    return isinstance(value.type, ir.MemRefType)


def _fits(value: ir.Value) -> bool:
    """Whether there are arrays of such values: of whole bytes."""
    type_ = value.type
    return isinstance(type_, ir.FloatType) or (
        isinstance(type_, ir.IntegerType) and type_.width > 1
    )


def _split(op: ir.Operation) -> int:
    """Move the largest part of a body that one instruction computes in front, until what is left
    is as small; return how many parts."""
    parts = 0
    while (extents := _extents(op)) is not None:
        cones = _cones(op)
        fitting = [v for v, cone in cones.items() if 2 <= len(cone) < _MOST_OPERANDS and _fits(v)]
        if not fitting:
            break
        value = max(fitting, key=lambda v: len(cones[v]))
        op = _with_part_in_front(op, value, cones[value], extents)
        parts += 1
    return parts


def _cones(op: ir.Operation) -> Cones:
    """Return the operands behind what a body computes, without what needs the old result."""
    body = op.regions[0].blocks[0]
    arguments = list(body.arguments)
    known = {
        argument: frozenset([number] if _is_array(op.operands[number]) else [])
        for number, argument in enumerate(arguments)
    }
    found: dict[ir.Value, frozenset[int]] = {}
    for inner in list(body.operations)[:-1]:
        cone = frozenset[int]().union(*(known.get(v, frozenset()) for v in inner.operands))
        known.update(dict.fromkeys(inner.results, cone))
        if len(arguments) - 1 not in cone:
            found.update(dict.fromkeys(inner.results, cone))
    return found


def _with_part_in_front(
    op: ir.Operation, value: ir.Value, cone: frozenset[int], extents: list[int]
) -> ir.Operation:
    """Compute `value` by an operation of its own; return what replaces `op`."""
    maps = list(ir.ArrayAttr(op.attributes["indexing_maps"]))
    whole = ir.AffineMapAttr.get(ir.AffineMap.get_identity(len(extents)))
    body = op.regions[0].blocks[0]
    last = len(op.operands) - 1
    with ir.InsertionPoint(op), op.location:
        array = memref.AllocOp(ir.MemRefType.get(extents, value.type), [], []).result
        kinds = op.attributes["iterator_types"]
        numbers = sorted(cone)
        inputs = [op.operands[n] for n in numbers]
        order = ir.ArrayAttr.get([*(maps[n] for n in numbers), whole])
        front = linalg.GenericOp([], inputs, [array], order, kinds)
        _copy_body(front, body, [body.arguments[n] for n in numbers], value, value.type)
        needed = _needed(list(body.operations)[-1].operands[0], value)
        numbers = [n for n in range(last) if body.arguments[n] in needed]
        inputs = [*(op.operands[n] for n in numbers), array]
        order = ir.ArrayAttr.get([*(maps[n] for n in numbers), whole, maps[last]])
        rest = linalg.GenericOp([], inputs, [op.operands[last]], order, kinds)
        arguments = [*(body.arguments[n] for n in numbers), value]
        result = list(body.operations)[-1].operands[0]
        _copy_body(rest, body, arguments, result, body.arguments[last].type)
    op.erase()
    return rest.operation


def _needed(result: ir.Value, known: ir.Value) -> set[ir.Value]:
    """Return the values that `result` is computed from, given one that is known."""
    return set(computed_from(result, lambda value: value == known))


def _copy_body(
    op: ir.OpView, body: ir.Block, arguments: list[ir.Value], result: ir.Value, output: ir.Type
) -> None:
    """Let `op` compute `result` from those values of `body` that are its `arguments`."""
    block = op.regions[0].blocks.append(*(a.type for a in arguments), output)
    known = dict(zip(arguments, block.arguments, strict=False))
    known[body.arguments[len(body.arguments) - 1]] = block.arguments[len(arguments)]
    needed = _needed(result, arguments[-1])
    with ir.InsertionPoint(block):
        for inner in list(body.operations)[:-1]:
            if inner.operation.results[0] not in needed or inner.operation.results[0] in known:
                continue
            copy = inner.operation.clone(ir.InsertionPoint.current)
            for number, operand in enumerate(inner.operation.operands):
                copy.operands[number] = known.get(operand, operand)
            known.update(zip(inner.operation.results, copy.results, strict=True))
        linalg.YieldOp([known[result]])
