"""The pass separate-fills."""

from dataclasses import dataclass

from polystage.forms import walk
from polystage.mlir import ir
from polystage.passes.registry import Pass, register_pass
from polystage.passes.tensors.generic import is_fill


@register_pass
@dataclass
class SeparateFillsPass(Pass):
    """Give every user its own fill and its own empty tensor.

    Common-subexpression elimination shares the zeros that contractions start from. Bufferization
    would then fill one buffer and copy it for each of them.
    """

    name = "separate-fills"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Clone fills first, then the empty tensors below them."""
        operations = [
            o for o in walk(module.operation) if o.name.startswith(("linalg.", "tensor."))
        ]
        for op in operations:
            if is_fill(op) and len(op.results) == 1:
                self._separate(op)
        for op in [o for o in walk(module.operation) if o.name == "tensor.empty"]:
            self._separate(op)

    def _separate(self, op: ir.Operation) -> None:
        uses = list(op.results[0].uses)
        for use in uses[1:]:
            clone = op.clone(ir.InsertionPoint(op))
            use.owner.operands[use.operand_number] = clone.results[0]
            self.count("operations cloned")
