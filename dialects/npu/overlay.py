"""Overlays as Python code sees them: making one, reading a chain of them, giving them storage.

A chain `overlay(a, overlay(b, c))` shows `a`, where that does not reach `b`, elsewhere `c`.
"""

from __future__ import annotations

from collections.abc import Sequence

from polystage.dialects.npu.views import defining_op, shape_of
from polystage.mlir import arith, ir, linalg, memref

NAME = "npu.overlay"

Pieces = list[tuple[tuple[int, ...], ir.Value]]
"""Offsets and array of every piece of an overlay, the one on top first."""


def is_overlay(value: ir.Value) -> bool:
    """Return whether `value` is the result of an `npu.overlay`."""
    op = defining_op(value)
    return op is not None and op.name == NAME


def overlay(
    source: ir.Value,
    offsets: Sequence[int],
    shape: Sequence[int],
    base: ir.Value | None = None,
    fill: ir.Attribute | None = None,
) -> ir.Value:
    """Create an `npu.overlay` of `shape` at the current insertion point and return its result."""
    type_ = ir.MemRefType.get(list(shape), ir.MemRefType(source.type).element_type)
    attributes = {"offsets": ir.DenseI64ArrayAttr.get(list(offsets))}
    if fill is not None:
        attributes["fill"] = fill
    operands = [source] if base is None else [source, base]
    return ir.Operation.create(NAME, [type_], operands, attributes).results[0]


def pieces(value: ir.Value) -> tuple[Pieces, ir.Attribute | None]:
    """Return what an array shows, from the top down, and the constant that it shows elsewhere.

    The constant is None where nothing lies below the last piece. An array that is no overlay is
    its own only piece.
    """
    found: Pieces = []
    while is_overlay(value):
        op = value.owner.operation
        offsets = tuple(ir.DenseI64ArrayAttr(op.attributes["offsets"]))
        found.append((offsets, op.operands[0]))
        if len(op.operands) == 1:
            return found, op.attributes.get("fill")
        value = op.operands[1]
    found.append(((0,) * len(shape_of(value)), value))
    return found, None


def materialize_overlays(root: ir.Module | ir.OpView | ir.Operation) -> None:
    """Give every overlay below `root` storage: an allocation, filled and copied to.

    The copies stand right in front of each reader, so that it finds what the operands of the
    overlay hold by then.
    """
    overlays: list[ir.Operation] = []
    readers: list[ir.Operation] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.name == NAME:
            overlays.append(op)
        elif any(is_overlay(operand) for operand in op.operands):
            readers.append(op)
        return ir.WalkResult.ADVANCE

    root.operation.walk(visit)
    for reader in readers:
        with ir.InsertionPoint(reader), reader.location:
            stored: dict[ir.Value, ir.Value] = {}
            for number, operand in enumerate(reader.operands):
                if not is_overlay(operand):
                    continue
                if operand not in stored:
                    stored[operand] = _stored(operand)
                reader.operands[number] = stored[operand]
    for op in reversed(overlays):  # a base comes before what lies on it
        op.erase()


def _stored(value: ir.Value) -> ir.Value:
    """Return a new array with the elements of an overlay, copied at the insertion point."""
    layers, fill = pieces(value)
    array = memref.AllocOp(ir.MemRefType(value.type), [], []).result
    if fill is not None:
        _fill(array, fill)
    for offsets, source in reversed(layers):
        sizes = shape_of(source)
        is_everything = sizes == shape_of(array)
        target = array if is_everything else memref.subview(array, offsets, sizes, [1] * len(sizes))
        memref.CopyOp(source, target)
    return array


def _fill(array: ir.Value, fill: ir.Attribute) -> None:
    """Write the constant `fill` to every element, as a linalg.generic without inputs."""
    identity = ir.AffineMap.get_identity(len(shape_of(array)))
    parallel = ir.Attribute.parse("#linalg.iterator_type<parallel>")
    op = linalg.GenericOp(
        [],
        [],
        [array],
        ir.ArrayAttr.get([ir.AffineMapAttr.get(identity)]),
        ir.ArrayAttr.get([parallel] * identity.n_dims),
    )
    element = ir.MemRefType(array.type).element_type
    block = op.regions[0].blocks.append(element)
    with ir.InsertionPoint(block):
        linalg.YieldOp([arith.ConstantOp(element, fill).result])
