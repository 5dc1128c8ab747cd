"""The pass `npu-pack-weights`: constant operands of contractions, laid out as the tensor engine
loads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polystage.constants import constant_array, constant_attr
from polystage.dialects import npu
from polystage.dialects.npu.target import required_target
from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import ir, memref
from polystage.passes.lower.generic_op import Access, GenericOp, inline_scalar_operands
from polystage.passes.lower.tensor_engine.contraction import Contraction
from polystage.passes.lower.unfold_groups import unfold_groups
from polystage.passes.registry import Pass, register_pass


@register_pass
@dataclass
class PackWeightsPass(Pass):
    """Reorder constant operands of contractions so that every partition's elements are contiguous
    in DRAM.

    weight[co, ci, kh, kw]  ->  weight[ci, kh, kw, co]     (contracted channel first, the free
    dimension last)

    The data is permuted at compile time, the indexing map with it. Operands that are not constants
    stay as they are.
    """

    name = "npu-pack-weights"
    input_form = "buffers"
    output_form = "buffers"

    def run(self, module: ir.Module) -> None:
        """Pack the weights of all contractions."""
        npu.load(module.context)
        target = required_target(module)
        symbols = ir.SymbolTable(module.operation)
        packed: dict[tuple[str, tuple[int, ...]], str] = {}
        with module.context, ir.Location.unknown():
            for op in _generics(module):
                contraction = self._contraction(op, target)
                if contraction is not None:
                    for access in (contraction.stationary, contraction.moving):
                        self._pack(symbols, op, access, contraction, packed)

    def _contraction(self, op: ir.OpView, target: Target) -> Contraction | None:
        inline_scalar_operands(op)
        try:
            unfold_groups(op.operation)
            generic = GenericOp.from_op(op).without_unit_dims()
        except PassError as error:
            self.remark(op, f"not packed: {error.message}")
            return None
        return Contraction.match(generic, target)

    def _pack(
        self,
        symbols: ir.SymbolTable,
        op: ir.OpView,
        access: Access,
        contraction: Contraction,
        packed: dict[tuple[str, tuple[int, ...]], str],
    ) -> None:
        value = op.operands[access.argument]
        order = packed_order(access, contraction)
        read = defining_op(value)
        if order is None or read is None or read.name != "memref.get_global":
            return
        source = ir.FlatSymbolRefAttr(read.attributes["name"]).value
        if (source, order) not in packed:
            packed[source, order] = _permuted_global(symbols, source, order)
            self.count("weights packed")
        name = packed[source, order]
        type_ = ir.TypeAttr(symbols[name].attributes["type"]).value
        with ir.InsertionPoint(op):
            op.operands[access.argument] = memref.GetGlobalOp(type_, name).result
        maps = [ir.AffineMapAttr(a).value for a in ir.ArrayAttr(op.attributes["indexing_maps"])]
        old = maps[access.argument]
        maps[access.argument] = ir.AffineMap.get(old.n_dims, 0, [old.results[i] for i in order])
        op.attributes["indexing_maps"] = ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps])


def packed_order(access: Access, contraction: Contraction) -> tuple[int, ...] | None:
    """Return the operand's dimensions in the order to store them, or None where it is stored so
    already."""
    place = {x.single: i for i, x in enumerate(access.index) if x.single is not None}
    if len(place) != sum(1 for x in access.index if x.dims):
        return None
    roles = (
        contraction.batch,
        (contraction.channel,),
        contraction.taps,
        contraction.rows,
        contraction.columns,
    )
    walked = [place[d] for role in roles for d in role if d in place]
    still = [i for i, x in enumerate(access.index) if not x.dims]
    order = tuple(still + walked)
    return None if walked == sorted(walked) else order


def _generics(module: ir.Module) -> list[ir.OpView]:
    found: list[ir.OpView] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.name == "linalg.generic":
            found.append(op.opview)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def _permuted_global(symbols: ir.SymbolTable, source: str, order: tuple[int, ...]) -> str:
    """Make a global that holds `source` with its dimensions in `order`; return its name."""
    old = symbols[source]
    array = constant_array(old.attributes["initial_value"], old.context)
    data = np.ascontiguousarray(array.transpose(order))
    old_type = ir.MemRefType(ir.TypeAttr(old.attributes["type"]).value)
    type_ = ir.MemRefType.get(list(data.shape), old_type.element_type)
    name = f"{source}_packed"
    with ir.InsertionPoint(old):
        op = memref.GlobalOp(
            name,
            ir.TypeAttr.get(type_),
            sym_visibility="private",
            initial_value=constant_attr(data, name, old_type.element_type),
            constant=True,
        )
    return symbols.insert(op).value
