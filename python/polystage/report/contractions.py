"""Which contractions the layers of a program carry out, from what the lowering noted on kernels."""

from __future__ import annotations

from collections.abc import Mapping

from polystage.forms import walk
from polystage.mlir import ir
from polystage.report.losses import Contraction

ATTRIBUTE = "npu.contraction"
"""Dictionary on a kernel: batch, m, n, k of the contraction whose tiles it multiplies."""


def contractions(module: ir.Module, calls: Mapping[str, int]) -> dict[str, list[Contraction]]:
    """Return the contractions of every layer that has any; `calls` says how often each ran.

    A layer that calls several kernels is left out: which of them ran how often is not known.
    """
    kernels = {
        ir.StringAttr(op.attributes["sym_name"]).value: op.operation
        for op in module.body.operations
        if "sym_name" in op.attributes
    }
    callees: dict[str, set[str]] = {}
    for op in walk(module.operation):
        if op.name == "func.call":
            callee = ir.FlatSymbolRefAttr(op.attributes["callee"]).value
            named = "layer" in op.attributes
            layer = ir.StringAttr(op.attributes["layer"]).value if named else callee
            callees.setdefault(layer, set()).add(callee)
    found: dict[str, list[Contraction]] = {}
    for layer, names in callees.items():
        name = next(iter(names))
        if len(names) == 1 and ATTRIBUTE in kernels[name].attributes:
            found[layer] = [_contraction(kernels[name], calls.get(layer, 0))]
    return found


def _contraction(kernel: ir.Operation, count: int) -> Contraction:
    extents = ir.DictAttr(kernel.attributes[ATTRIBUTE])
    batch, m, n, k = (ir.IntegerAttr(extents[name]).value for name in ("batch", "m", "n", "k"))
    return Contraction(batch, m, n, k, count)
