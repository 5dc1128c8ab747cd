"""The pass drop-copies."""

from dataclasses import dataclass

from polystage.forms import walk
from polystage.mlir import ir
from polystage.passes.registry import Pass, register_pass


@register_pass
@dataclass
class DropCopiesPass(Pass):
    """Replace every copy of a tensor by the tensor; values cannot change, so a copy is the same."""

    name = "drop-copies"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Drop `linalg.copy` and `bufferization.alloc_tensor copy(..)` between equal types."""
        for op in list(walk(module.operation)):
            if not _is_copy(op) or op.operands[0].type != op.results[0].type:
                continue
            op.results[0].replace_all_uses_with(op.operands[0])
            op.erase()
            self.count("copies dropped")


def _is_copy(op: ir.Operation) -> bool:
    if len(op.results) != 1:
        return False
    if op.name == "bufferization.alloc_tensor":
        return list(ir.DenseI32ArrayAttr(op.attributes["operandSegmentSizes"])) == [0, 1, 0]
    return op.name == "linalg.copy"
