"""The pass expand-scans."""

from dataclasses import dataclass

import numpy as np

from polystage.constants import constant_attr
from polystage.dtypes import numpy_dtype
from polystage.errors import PassError
from polystage.forms import walk
from polystage.mlir import arith, ir
from polystage.passes.registry import Pass, register_pass
from polystage.passes.tensors.generic import build_generic, build_zero_fill


@register_pass
@dataclass
class ExpandScansPass(Pass):
    """Turn cumulative sums into contractions with a triangle of ones.

    `tm_tensor.scan` along a dimension of extent n becomes `out[i] = sum_j in[j] * (j <= i)`, or
    `j < i` where it is exclusive: n times the work of a sequential scan, all of it parallel.

    Raises: PassError for a scan that does not add, or whose last value is used.
    """

    name = "expand-scans"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Rewrite every scan."""
        with module.context:
            for op in [o for o in walk(module.operation) if o.name == "tm_tensor.scan"]:
                with ir.InsertionPoint(op), op.location:
                    op.results[0].replace_all_uses_with(_contraction(op))
                self.remark(op, "a scan became a contraction with a triangle of ones")
                self.count("scans expanded")
                op.erase()


def _contraction(scan: ir.Operation) -> ir.Value:
    source, type_ = scan.operands[0], scan.results[0].type
    names = [o.operation.name for o in scan.regions[0].blocks[0]]
    adds = {"arith.addf": (arith.mulf, arith.addf), "arith.addi": (arith.muli, arith.addi)}
    if names[0] not in adds or len(names) != 2:
        raise PassError(f"only sums can be accumulated, found '{names[0]}'", op=scan)
    if any(True for _ in scan.results[1].uses):
        raise PassError("the last value of a scan is used, which is not supported", op=scan)
    multiply, add = adds[names[0]]
    rank = len(type_.shape)
    scanned = ir.IntegerAttr(scan.attributes["dimension"]).value
    dims = [ir.AffineExpr.get_dim(d) for d in range(rank + 1)]
    read = [dims[rank] if d == scanned else dims[d] for d in range(rank)]
    maps = [
        ir.AffineMap.get(rank + 1, 0, index)
        for index in (read, [dims[rank], dims[scanned]], dims[:rank])
    ]
    return build_generic(
        type_,
        [source, _triangle(scan, type_.shape[scanned], type_.element_type)],
        maps,
        lambda value, one, total: add(total, multiply(value, one)),
        iterators=["parallel"] * rank + ["reduction"],
        init=build_zero_fill(type_),
    )


def _triangle(scan: ir.Operation, extent: int, element_type: ir.Type) -> ir.Value:
    """Return the constant t[j, i] that is one where element j counts towards result i."""
    offset = 0 if ir.BoolAttr(scan.attributes["inclusive"]).value else 1
    ones = np.triu(np.ones((extent, extent), numpy_dtype(element_type)), offset)
    attribute = constant_attr(ones, "triangle", element_type)
    return arith.ConstantOp(attribute.type, attribute).result
