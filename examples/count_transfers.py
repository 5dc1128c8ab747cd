"""A pass of your own: count the transfers of a program by cause.

polystage-opt p.mlir --load examples/count_transfers.py --count-transfers --mlir-pass-statistics
"""

from dataclasses import dataclass

import polystage as ps
from polystage.forms import walk
from polystage.mlir import ir


@ps.register_pass
@dataclass
class CountTransfersPass(ps.Pass):
    """Count the `npu.dma` of a program by cause."""

    name = "count-transfers"
    input_form = "npu"
    output_form = "npu"

    only: str = ""
    """Count this cause alone; empty counts all."""

    def run(self, module: ir.Module) -> None:
        """Count, and change nothing."""
        for op in walk(module.operation):
            if op.name == "npu.dma":
                cause = ir.StringAttr(op.attributes["cause"]).value
                if self.only in ("", cause):
                    self.count(f"transfers of {cause}")
