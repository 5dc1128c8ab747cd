"""The pass demote-doubles."""

from dataclasses import dataclass

import numpy as np

from polystage.constants import constant_array, constant_attr
from polystage.errors import PassError
from polystage.forms import walk
from polystage.mlir import ir
from polystage.passes.registry import Pass, register_pass

_CASTS = ("arith.extf", "arith.truncf")
_LARGEST = float(np.finfo(np.float32).max)


@register_pass
@dataclass
class DemoteDoublesPass(Pass):
    """Compute in f32 what the model computes in f64.

    No accelerator here has f64. Importers use it for the scalars of PyTorch and for variances.
    Finite constants beyond the range of f32 become its largest number.

    Raises: PassError where the bits of an f64 are reinterpreted.
    """

    name = "demote-doubles"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Change the types in place, then drop the casts that have become identities."""
        with module.context, ir.Location.unknown():
            operations = list(walk(module.operation))
            for op in operations:
                self._demote(op)
            for op in operations:
                if op.name in _CASTS and op.operands[0].type == op.results[0].type:
                    op.results[0].replace_all_uses_with(op.operands[0])
                    op.erase()

    def _demote(self, op: ir.Operation) -> None:
        values = [*op.results, *(a for r in op.regions for b in r for a in b.arguments)]
        changed = [value for value in values if _demoted(value.type) != value.type]
        if changed and op.name == "arith.bitcast":
            raise PassError(
                f"'{op.name}' takes the bits of an f64, which is computed as f32", op=op
            )
        for value in changed:
            value.set_type(_demoted(value.type))
        if op.name == "arith.constant" and changed:
            op.attributes["value"] = _demoted_constant(op.attributes["value"])
        if op.name == "memref.global":
            _demote_global(op)
        if op.name == "func.func":
            type_ = ir.TypeAttr(op.attributes["function_type"]).value
            op.attributes["function_type"] = ir.TypeAttr.get(_demoted(type_))
        if changed:
            self.count("operations demoted")
            self.remark(op, "f64 is computed as f32")


def _demoted(type_: ir.Type) -> ir.Type:
    if isinstance(type_, ir.F64Type):
        return ir.F32Type.get()
    if isinstance(type_, ir.RankedTensorType):
        element = _demoted(type_.element_type)
        return ir.RankedTensorType.get(type_.shape, element, type_.encoding)
    if isinstance(type_, ir.MemRefType):
        element = _demoted(type_.element_type)
        return ir.MemRefType.get(type_.shape, element, type_.layout, type_.memory_space)
    if isinstance(type_, ir.FunctionType):
        inputs, results = ([_demoted(t) for t in ts] for ts in (type_.inputs, type_.results))
        return ir.FunctionType.get(inputs, results)
    return type_


def _demote_global(op: ir.Operation) -> None:
    type_ = ir.TypeAttr(op.attributes["type"]).value
    if _demoted(type_) == type_:
        return
    op.attributes["type"] = ir.TypeAttr.get(_demoted(type_))
    if "initial_value" in op.attributes:
        initial = op.attributes["initial_value"]
        if not isinstance(initial, ir.UnitAttr):
            op.attributes["initial_value"] = _demoted_constant(initial)


def _demoted_constant(attribute: ir.Attribute) -> ir.Attribute:
    if isinstance(attribute, ir.FloatAttr):
        return ir.FloatAttr.get_f32(float(_to_single(np.float64(attribute.value))))
    array = constant_array(attribute)
    f32 = ir.F32Type.get()
    if getattr(attribute, "is_splat", False):
        type_ = ir.RankedTensorType.get(array.shape, f32)
        value = float(_to_single(array.reshape(-1)[0]))
        return ir.DenseElementsAttr.get_splat(type_, ir.FloatAttr.get_f32(value))
    return constant_attr(_to_single(array), "demoted", f32)


def _to_single(array: np.ndarray | np.float64) -> np.ndarray:
    finite = np.isfinite(array)
    return np.where(finite, np.clip(array, -_LARGEST, _LARGEST), array).astype(np.float32)
