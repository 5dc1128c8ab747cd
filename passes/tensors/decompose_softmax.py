"""The pass decompose-softmax."""

from dataclasses import dataclass

from polystage.forms import walk
from polystage.mlir import ir, passmanager
from polystage.passes.registry import Pass, register_pass

_ENABLE = "transform.with_named_sequence"
_SEQUENCE = """
module attributes {transform.with_named_sequence} {
  transform.named_sequence @__transform_main(%root: !transform.any_op {transform.consumed}) {
    %all = transform.structured.match ops{["linalg.softmax"]} in %root
      : (!transform.any_op) -> !transform.any_op
    %parts = transform.structured.decompose_interface %all
      : (!transform.any_op) -> !transform.any_op
    transform.yield
  }
}
"""


@register_pass
@dataclass
class DecomposeSoftmaxPass(Pass):
    """Split `linalg.softmax` into maximum, subtraction, exponential, sum and division.

    Upstream decomposes it by a script of the transform dialect, which is put into the module, run,
    and taken out again.
    """

    name = "decompose-softmax"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Decompose all of them at once."""
        found = [op for op in walk(module.operation) if op.name == "linalg.softmax"]
        if not found:
            return
        for op in found:
            self.remark(op, "decomposed")
        self.count("softmaxes decomposed", len(found))
        with module.context, ir.Location.unknown():
            script = ir.Module.parse(_SEQUENCE)
            sequence = script.body.operations[0].operation.clone()
            module.operation.attributes[_ENABLE] = ir.UnitAttr.get()
            module.body.append(sequence)
            passmanager.PassManager.parse("builtin.module(transform-interpreter)").run(
                module.operation
            )
            sequence.erase()
            del module.operation.attributes[_ENABLE]
