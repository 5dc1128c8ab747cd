"""Two passes as a user writes them."""

from dataclasses import dataclass

from polystage.errors import PassError
from polystage.forms import walk
from polystage.mlir import ir
from polystage.passes.registry import Pass, register_pass


@register_pass
def mark_module(module: ir.Module) -> None:
    """Put the attribute `npu.marked` on the module."""
    module.operation.attributes["npu.marked"] = ir.UnitAttr.get()


@register_pass
@dataclass
class CountOpsPass(Pass):
    """Count the operations of one name."""

    name = "count-ops"

    op: str = "arith.constant"
    """Which operation is counted."""

    limit: int = 10
    """More than this is an error."""

    def run(self, module: ir.Module) -> None:
        for op in walk(module.operation):
            if op.name == self.op:
                self.count(f"{self.op} found")
                self.remark(op, "found one")
                if self.statistics[f"{self.op} found"] > self.limit:
                    raise PassError(f"more than {self.limit} '{self.op}'", help="fold", op=op)
