"""The pass `npu-compact-strided-reads`: what is read at every other element lies side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from polystage.dialects import npu
from polystage.dialects.npu import overlay
from polystage.dialects.npu.target import required_target
from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.mlir import ir, linalg, memref
from polystage.passes.lower.generic_op import Access, GenericOp
from polystage.passes.registry import Form, Pass, register_pass

READERS = frozenset({"linalg.generic", overlay.NAME})
"""Users of an array among which its writers are known: those that have it as an output."""


@register_pass
@dataclass
class CompactStridedReadsPass(Pass):
    """Copy what a contraction reads in strides, right after it is made, on a flat scratchpad.

    read x[c, 2*h, 2*w]   ->   s[c, h, w] = x[c, 2*h, 2*w]; read s[c, h, w]

    A plan keeps, stores and loads boxes of an array: for a convolution of one tap in strides of
    two, as the shortcut between two stages of a residual network, four times what it needs. The
    copy is as small as that, and it runs with what makes the array, which can then end there.
    Operands with more taps than their stride, arguments and constants stay as they are.
    """

    name: ClassVar[str] = "npu-compact-strided-reads"
    input_form: ClassVar[Form] = "buffers"
    output_form: ClassVar[Form] = "buffers"

    def run(self, module: ir.Module) -> None:
        """Compact the operands of all contractions."""
        npu.load(module.context)
        if not required_target(module).is_flat:
            return
        with module.context, ir.Location.unknown():
            for op in _contractions(module):
                try:
                    generic = GenericOp.from_op(op)
                except PassError:
                    continue
                for access in generic.inputs:
                    self._compact(op, generic, access)

    def _compact(self, op: ir.OpView, generic: GenericOp, access: Access) -> None:
        dims = _strided_dims(generic, access)
        value = op.operands[access.argument]
        writer = _last_writer(value, op.operation)
        if dims is None or writer is None:
            return
        copied = _copy(value, writer, generic, access, dims)
        maps = [ir.AffineMapAttr(a).value for a in ir.ArrayAttr(op.attributes["indexing_maps"])]
        exprs = [
            ir.AffineConstantExpr.get(0) if dim is None else ir.AffineDimExpr.get(dim)
            for dim in dims
        ]
        maps[access.argument] = ir.AffineMap.get(maps[access.argument].n_dims, 0, exprs)
        op.operands[access.argument] = copied
        op.attributes["indexing_maps"] = ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps])
        self.count("operands made compact")


def _contractions(module: ir.Module) -> list[ir.OpView]:
    found: list[ir.OpView] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.name == "linalg.generic" and "reduction" in str(op.attributes["iterator_types"]):
            found.append(op.opview)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def _strided_dims(generic: GenericOp, access: Access) -> tuple[int | None, ...] | None:
    """Return the loop dimension that counts each axis of an operand, None for an axis of one
    element, where some axis is read in strides and by that dimension alone; else None."""
    dims: list[int | None] = []
    for index in access.index:
        moving = [d for d in index.dims if generic.extents[d] > 1]
        if len(moving) > 1 or index.constant:
            return None
        dims.append(moving[0] if moving else None)
    counting = [dim for dim in dims if dim is not None]
    steps = [x.coefficients[d] for x, d in zip(access.index, dims, strict=True) if d is not None]
    if len({*counting}) < len(counting) or min(steps, default=0) < 1 or max(steps) == 1:
        return None
    return tuple(dims)


def _last_writer(value: ir.Value, reader: ir.Operation) -> ir.Operation | None:
    """Return what completes an array before `reader` reads it, if that is known and nothing writes
    the array later; else None."""
    source = defining_op(value)
    if source is None or source.name != "memref.alloc":
        return None
    users = [use.owner.operation for use in value.uses]
    block = reader.block
    if any(user.name not in READERS or user.block != block for user in users):
        return None
    place = {op.operation: number for number, op in enumerate(block.operations)}
    writers = [u for u in users if u.name == "linalg.generic" and value in u.opview.outputs]
    last = max(writers, key=place.__getitem__, default=None)
    return last if last is not None and place[last] < place[reader] else None


def _copy(
    value: ir.Value,
    writer: ir.Operation,
    generic: GenericOp,
    access: Access,
    dims: tuple[int | None, ...],
) -> ir.Value:
    """Write a copy of the elements at every stride after `writer`; return it."""
    shape = [1 if dim is None else generic.extents[dim] for dim in dims]
    strides = [
        1 if dim is None else index.coefficients[dim]
        for index, dim in zip(access.index, dims, strict=True)
    ]
    read = [ir.AffineDimExpr.get(axis) * stride for axis, stride in enumerate(strides)]
    rank = len(shape)
    maps = [ir.AffineMap.get(rank, 0, read), ir.AffineMap.get_identity(rank)]
    element = ir.MemRefType(value.type).element_type
    point = ir.InsertionPoint.after(writer)
    with point, writer.location:
        copied = memref.AllocOp(ir.MemRefType.get(shape, element), [], []).result
        op = linalg.GenericOp(
            [],
            [value],
            [copied],
            ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps]),
            ir.ArrayAttr.get([ir.Attribute.parse("#linalg.iterator_type<parallel>")] * rank),
        )
        body = op.regions[0].blocks.append(element, element)
        with ir.InsertionPoint(body):
            linalg.YieldOp([body.arguments[0]])
    return copied
