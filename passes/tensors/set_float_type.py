"""The pass npu-set-float-type."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from polystage.constants import constant_array, constant_attr
from polystage.dtypes import numpy_dtype
from polystage.evaluator.module_evaluator import indexing_maps
from polystage.forms import walk
from polystage.mlir import arith, ir
from polystage.passes.registry import Pass, register_pass
from polystage.passes.tensors.generic import element_type, inputs_of, is_fill, iterator_types

_LOADS = ("memref.load", "affine.load")
_STORES = ("memref.store", "affine.store")
_NARROW = {"bf16": ir.BF16Type, "f16": ir.F16Type, "f8": ir.Float8E4M3Type}


@register_pass
@dataclass
class SetFloatTypePass(Pass):
    """Hold every f32 array in another type, and keep computing in f32.

    Arguments, results, buffers and weights (converted here) become `type`. Scalar bodies extend
    what they read and round what they write, so that a value is rounded once per operation. The
    caller of `@main` passes arrays of that type. Integers and other floats stay as they are.

    `f8` is f8E4M3: 4 bits of exponent, 3 of mantissa, at most 240, infinities. It is what the
    arrays of Trainium multiply; f8E4M3FN reaches 448 but has no infinity, which masks and the
    borders of a maximum need. The sum of an average stays in f32 until it is scaled, since 49
    values of 6 are more than 240.
    """

    name = "npu-set-float-type"
    input_form = "buffers"
    output_form = "buffers"

    type: Literal["f32", "bf16", "f16", "f8"] = "bf16"
    """Element type of every array that was f32."""

    def run(self, module: ir.Module) -> None:
        """Change the types in place and put casts where scalars meet arrays."""
        if self.type == "f32":
            return
        with module.context, ir.Location.unknown():
            self.narrow = _NARROW[self.type].get()
            operations = list(walk(module.operation))
            self.wide = {op for op in operations if self.type == "f8" and _is_unscaled_sum(op)}
            for op in operations:
                self._change_types(op)
            for op in operations:
                self._insert_casts(op)

    def _change_types(self, op: ir.Operation) -> None:
        if op in self.wide:
            return
        for value in (*op.results, *(a for r in op.regions for b in r for a in b.arguments)):
            if isinstance(value.type, ir.MemRefType):
                value.set_type(self._changed(value.type))
        if op.name == "func.func":
            type_ = ir.TypeAttr(op.attributes["function_type"]).value
            inputs, results = (
                [self._changed(t) for t in ts] for ts in (type_.inputs, type_.results)
            )
            op.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(inputs, results))
        elif op.name == "memref.global":
            self._change_global(op)
        elif op.name == "npu.overlay" and "fill" in op.attributes:
            fill = op.attributes["fill"]
            if isinstance(fill.type, ir.F32Type):
                op.attributes["fill"] = ir.FloatAttr.get(self.narrow, fill.value)
        elif op.name == "memref.alloc":
            self.count("buffers changed", element_type(op.results[0].type) == self.narrow)

    def _changed(self, type_: ir.Type) -> ir.Type:
        if not isinstance(type_, ir.MemRefType) or not isinstance(type_.element_type, ir.F32Type):
            return type_
        return ir.MemRefType.get(type_.shape, self.narrow, type_.layout, type_.memory_space)

    def _change_global(self, op: ir.Operation) -> None:
        type_ = ir.TypeAttr(op.attributes["type"]).value
        if not isinstance(type_.element_type, ir.F32Type):
            return
        op.attributes["type"] = ir.TypeAttr.get(self._changed(type_))
        if "initial_value" not in op.attributes:
            return
        initial = op.attributes["initial_value"]
        if not isinstance(initial, ir.UnitAttr):
            name = ir.StringAttr(op.attributes["sym_name"]).value
            op.attributes["initial_value"] = self._converted(initial, name)
            self.count("weights converted")

    def _converted(self, initial: ir.Attribute, name: str) -> ir.Attribute:
        array = constant_array(initial)
        dtype = numpy_dtype(self.narrow)
        if getattr(initial, "is_splat", False):
            type_ = ir.RankedTensorType.get(array.shape, self.narrow)
            value = float(array.reshape(-1)[0].astype(dtype))
            return ir.DenseElementsAttr.get_splat(type_, ir.FloatAttr.get(self.narrow, value))
        with np.errstate(over="ignore"):
            return constant_attr(array.astype(dtype), name, self.narrow)

    def _insert_casts(self, op: ir.Operation) -> None:
        if op.name == "linalg.generic":
            self._cast_body(op.regions[0].blocks[0], [element_type(v.type) for v in op.operands])
        elif op.name in _LOADS and isinstance(op.results[0].type, ir.F32Type):
            if element_type(op.operands[0].type) == self.narrow:
                op.results[0].set_type(self.narrow)
                self._extend(op.results[0], after=op)
        elif op.name in _STORES and element_type(op.operands[1].type) == self.narrow:
            self._round(op, [0])

    def _cast_body(self, block: ir.Block, elements: Sequence[ir.Type]) -> None:
        for argument, element in zip(block.arguments, elements, strict=True):
            if element == self.narrow and isinstance(argument.type, ir.F32Type):
                argument.set_type(self.narrow)
                if any(True for _ in argument.uses):
                    self._extend(argument, before=next(iter(block)).operation)
        terminator = list(block)[-1].operation
        n_results = len(terminator.operands)
        rounded = [i for i, e in enumerate(elements[-n_results:]) if e == self.narrow]
        self._round(terminator, rounded)

    def _extend(
        self,
        value: ir.Value,
        *,
        before: ir.Operation | None = None,
        after: ir.Operation | None = None,
    ) -> None:
        """Let the users of `value` read it as f32."""
        point = ir.InsertionPoint(before) if before is not None else ir.InsertionPoint.after(after)
        with point:
            wide = arith.ExtFOp(ir.F32Type.get(), value)
        value.replace_all_uses_except(wide.result, wide.operation)

    def _round(self, op: ir.Operation, positions: Sequence[int]) -> None:
        """Round operands of `op` that are f32; what was only extended is passed on as it was."""
        for position in positions:
            value = op.operands[position]
            if not isinstance(value.type, ir.F32Type):
                continue
            owner = value.owner
            if not isinstance(owner, ir.Block) and owner.name == "arith.extf":
                op.operands[position] = owner.operands[0]
                if owner.operands[0].type == self.narrow:
                    continue
            with ir.InsertionPoint(op):
                op.operands[position] = self._rounded(value)

    def _rounded(self, value: ir.Value) -> ir.Value:
        owner = value.owner
        if isinstance(owner, ir.Block) or owner.name != "arith.constant":
            return arith.TruncFOp(self.narrow, value).result
        number = np.float32(owner.attributes["value"].value).astype(numpy_dtype(self.narrow))
        return arith.ConstantOp(self.narrow, ir.FloatAttr.get(self.narrow, float(number))).result


def _is_unscaled_sum(op: ir.Operation) -> bool:
    """Return whether a buffer holds sums along one operand until one other operation scales them,
    element by element."""
    if op.name != "memref.alloc" or not isinstance(element_type(op.results[0].type), ir.F32Type):
        return False
    users = [use.owner.operation for use in op.results[0].uses]
    if any(user.name != "linalg.generic" for user in users):
        return False
    readers = [user for user in users if op.results[0] in inputs_of(user)]
    writers = [user for user in users if user not in readers and not is_fill(user)]
    if len(readers) != 1 or len(writers) != 1 or "reduction" in iterator_types(readers[0]):
        return False
    (index,) = (
        map_
        for map_, value in zip(indexing_maps(readers[0]), readers[0].operands, strict=True)
        if value == op.results[0]
    )
    return index.is_permutation and _sums_up(writers[0])


def _sums_up(op: ir.Operation) -> bool:
    """Return whether an operation adds what its one operand holds."""
    block = op.regions[0].blocks[0]
    total = list(block)[-1].operands[0].owner
    if isinstance(total, ir.Block) or total.name != "arith.addf" or len(op.results):
        return False
    return all(isinstance(value.owner, ir.Block) for value in total.operands)
