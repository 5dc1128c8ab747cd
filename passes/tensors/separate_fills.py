"""The pass separate-fills."""

from dataclasses import dataclass

from polystage.forms import walk
from polystage.mlir import ir
from polystage.passes.registry import Pass, register_pass
from polystage.passes.tensors.generic import build_fill, inputs_of, is_fill, outputs_of


@register_pass
@dataclass
class SeparateFillsPass(Pass):
    """Give every user its own fill and its own empty tensor.

    Common-subexpression elimination shares the zeros that contractions start from. Bufferization
    would then fill one buffer and copy it for each of them. A uniform constant that an operation
    starts from is a fill, too, instead of an array to copy.
    """

    name = "separate-fills"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Clone fills first, then the empty tensors below them."""
        operations = [
            o for o in walk(module.operation) if o.name.startswith(("linalg.", "tensor."))
        ]
        with module.context:
            for op in [o for o in operations if o.name == "linalg.generic"]:
                self._fill_instead_of_constants(op)
        operations = [o for o in walk(module.operation) if o.name.startswith("linalg.")]
        for op in operations:
            if is_fill(op) and len(op.results) == 1:
                self._separate(op)
        for op in [o for o in walk(module.operation) if o.name == "tensor.empty"]:
            self._separate(op)

    def _fill_instead_of_constants(self, op: ir.Operation) -> None:
        for position, value in enumerate(outputs_of(op), start=len(inputs_of(op))):
            scalar = _uniform_value(value)
            if scalar is None:
                continue
            with ir.InsertionPoint(op), op.location:
                op.operands[position] = build_fill(ir.RankedTensorType(value.type), scalar)
            self.count("constants filled")

    def _separate(self, op: ir.Operation) -> None:
        uses = list(op.results[0].uses)
        for use in uses[1:]:
            clone = op.clone(ir.InsertionPoint(op))
            use.owner.operands[use.operand_number] = clone.results[0]
            self.count("operations cloned")


def _uniform_value(value: ir.Value) -> ir.Attribute | None:
    """Return the one value that all elements of a constant tensor have, or None."""
    owner = value.owner
    if isinstance(owner, ir.Block) or owner.operation.name != "arith.constant":
        return None
    attribute = owner.operation.attributes["value"]
    if not isinstance(attribute, ir.DenseElementsAttr):
        return None
    return attribute.get_splat_value() if attribute.is_splat else None
