"""Which contractions the layers of a program carry out, from what the lowering noted on kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from polystage.forms import walk
from polystage.mlir import ir
from polystage.report.losses import Contraction
from polystage.simulator.decode import layer_of

CONTRACTION = "npu.contraction"
"""Dictionary on a kernel: batch, m, n, k of the contraction whose tiles it multiplies."""

CONTRACTIONS = "npu.contractions"
"""Dictionary on a kernel whose instructions name layers: layer -> array of such dictionaries."""


def contractions(module: ir.Module, calls: Mapping[str, int]) -> dict[str, list[Contraction]]:
    """Return the contractions of every layer that has any; `calls` says how often each ran.

    A layer for which several kernels work is left out: which of them ran how often is not known.
    """
    kernels = {
        ir.StringAttr(op.attributes["sym_name"]).value: op.operation
        for op in module.body.operations
        if "sym_name" in op.attributes
    }
    found: dict[str, dict[str, list[ir.DictAttr]]] = {}
    for op in walk(module.operation):
        if op.name == "func.call":
            callee = ir.FlatSymbolRefAttr(op.attributes["callee"]).value
            for name, extents in _noted(kernels[callee], layer_of(op) or callee):
                found.setdefault(name, {})[callee] = extents
    return {
        layer: [_contraction(extents, calls.get(layer, 0)) for extents in noted]
        for layer, by_kernel in found.items()
        if len(by_kernel) == 1
        for noted in by_kernel.values()
        if noted
    }


def _noted(kernel: ir.Operation, layer: str) -> Iterator[tuple[str, list[ir.DictAttr]]]:
    """Yield what a kernel notes on every layer it names, or else on that of its call."""
    if CONTRACTIONS in kernel.attributes:
        for named in ir.DictAttr(kernel.attributes[CONTRACTIONS]):
            yield named.name, [ir.DictAttr(extents) for extents in ir.ArrayAttr(named.attr)]
        return
    noted = CONTRACTION in kernel.attributes
    yield layer, [ir.DictAttr(kernel.attributes[CONTRACTION])] if noted else []


def _contraction(extents: ir.DictAttr, count: int) -> Contraction:
    batch, m, n, k = (ir.IntegerAttr(extents[name]).value for name in ("batch", "m", "n", "k"))
    return Contraction(batch, m, n, k, count)
