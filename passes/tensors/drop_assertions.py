"""The pass drop-assertions."""

from dataclasses import dataclass

from polystage.errors import PassError
from polystage.forms import walk
from polystage.mlir import ir
from polystage.passes.registry import Pass, register_pass


@register_pass
@dataclass
class DropAssertionsPass(Pass):
    """Remove every run-time assertion: the accelerator has no way to stop a program.

    Importers assert what their lowering takes for granted, e.g. that an index lies inside a table
    or that a divisor is not zero. An assertion that is false already is an error.

    Raises: PassError for an assertion whose condition is the constant false.
    """

    name = "drop-assertions"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Erase the assertions; what only they used is left to canonicalize."""
        for op in [o for o in walk(module.operation) if o.name == "cf.assert"]:
            text = ir.StringAttr(op.attributes["msg"]).value
            if _is_false(op.operands[0]):
                raise PassError(f"assertion '{text}' is false for every input", op=op)
            self.remark(op, f"dropped assertion '{text}'")
            self.count("assertions dropped")
            op.erase()


def _is_false(condition: ir.Value) -> bool:
    owner = condition.owner
    if isinstance(owner, ir.Block) or owner.name != "arith.constant":
        return False
    return str(owner.attributes["value"]) == "false"
