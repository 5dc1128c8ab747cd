"""The pass protect-contractions."""

from dataclasses import dataclass

from polystage.forms import walk
from polystage.mlir import ir
from polystage.passes.registry import Pass, register_pass
from polystage.passes.tensors.generic import (
    affine_maps,
    inputs_of,
    is_contraction,
    is_elementwise,
)

_COMBINERS = ("addf", "mulf", "maximumf", "minimumf", "maxnumf", "minnumf", "addi", "muli")


@register_pass
@dataclass
class ProtectContractionsPass(Pass):
    """Put a copy around what must not be fused: contractions, windows and gathers.

    Upstream's elementwise fusion takes any producer into any consumer. In a contraction it would
    hide the multiplication and addition that the tensor engine executes, in a convolution or
    pooling it would be repeated for every tap, in a gather it would become part of the address. It
    also splits dimensions of a contraction to get rid of reshapes around it. The copies
    (`bufferization.alloc_tensor`) stop it; `drop-copies` removes them afterwards.
    """

    name = "protect-contractions"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Copy the tensor inputs and the results of every protected operation."""
        with module.context:
            for op in [o for o in walk(module.operation) if o.name == "linalg.generic"]:
                reason = _why_protected(op)
                if not reason:
                    continue
                with op.location:
                    self._copy_inputs(op)
                    self._copy_results(op)
                self.count("operations protected")
                self.remark(op, f"not fused: {reason}")

    def _copy_inputs(self, op: ir.Operation) -> None:
        with ir.InsertionPoint(op):
            for position, value in enumerate(inputs_of(op)):
                if isinstance(value.type, ir.RankedTensorType):
                    op.operands[position] = _copy(value)

    def _copy_results(self, op: ir.Operation) -> None:
        with ir.InsertionPoint.after(op):
            for result in op.results:
                uses = list(result.uses)
                if not uses:
                    continue
                copied = _copy(result)
                for use in uses:
                    use.owner.operands[use.operand_number] = copied


def _copy(value: ir.Value) -> ir.Value:
    """Build a copy that no pattern of linalg looks through."""
    return ir.Operation.create(
        "bufferization.alloc_tensor",
        results=[value.type],
        operands=[value],
        attributes={"operandSegmentSizes": ir.DenseI32ArrayAttr.get([0, 1, 0])},
    ).result


def _why_protected(op: ir.Operation) -> str:
    """Return why nothing may be fused into or across `op`, or nothing if it may."""
    names = [o.operation.name for o in op.regions[0].blocks[0]]
    if "tensor.extract" in names:
        return "a gather"
    if is_elementwise(op):
        return ""
    if is_contraction(op):
        return "a contraction"
    if not all(m.is_projected_permutation for m in affine_maps(op)[: len(inputs_of(op))]):
        return "a window"
    if len(names) != 2 or names[0].partition(".")[2] not in _COMBINERS:
        return "a reduction with several operations"
    if any(map(_computes_function, inputs_of(op))):
        return "a reduction of what the scalar engine computes"
    return ""


def _computes_function(value: ir.Value) -> bool:
    owner = value.owner
    if isinstance(owner, ir.Block) or owner.name != "linalg.generic":
        return False
    return any(o.operation.name.startswith("math.") for o in owner.regions[0].blocks[0])
