"""The pass separate-biases."""

from dataclasses import dataclass

from polystage.forms import walk
from polystage.mlir import arith, ir, tensor
from polystage.passes.registry import Pass, register_pass
from polystage.passes.tensors.generic import (
    affine_maps,
    build_generic,
    build_zero_fill,
    inputs_of,
    is_broadcast,
    is_contraction,
    outputs_of,
)
from polystage.slices import reassociation


@register_pass
@dataclass
class SeparateBiasesPass(Pass):
    """Start contractions from zero and add a bias afterwards.

    Importers let a convolution accumulate onto its broadcast bias, which would be written to memory
    first; onto one in groups, `tensor.expand_shape` of the broadcast, where the convolution is in
    groups. As an addition of its own it fuses with what follows, e.g. a ReLU:

    `contract(x, w) onto broadcast(b)` becomes `contract(x, w) onto 0` and `+ b`.
    """

    name = "separate-biases"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Rewrite every contraction whose initial value is a broadcast."""
        with module.context:
            for op in [o for o in walk(module.operation) if o.results and is_contraction(o)]:
                with op.location, ir.InsertionPoint(op):
                    bias = _bias(outputs_of(op)[0])
                if bias is None:
                    continue
                with op.location:
                    _separate(op, *bias)
                self.count("biases separated")
                self.remark(op, "the bias is added afterwards")


def _bias(init: ir.Value) -> tuple[ir.Value, ir.AffineMap] | None:
    """Return the tensor that `init` repeats, and where each element of `init` finds its value."""
    op = init.owner
    if isinstance(op, ir.Block):
        return None
    if is_broadcast(op.operation):
        return op.operands[0], affine_maps(op.operation)[0]
    if op.operation.name != "tensor.expand_shape":
        return None
    inner = _bias(op.operands[0])
    if inner is None or not inner[1].is_projected_permutation:
        return None
    return _expanded(*inner, op.operation)


def _expanded(
    bias: ir.Value, map_: ir.AffineMap, expand: ir.Operation
) -> tuple[ir.Value, ir.AffineMap]:
    """Expand the bias as `expand` does its broadcast."""
    shape = list(ir.RankedTensorType(expand.results[0].type).shape)
    groups = reassociation(expand)
    kept = [groups[ir.AffineDimExpr(expr).position] for expr in map_.results]
    order = [d for group in kept for d in group]
    starts = [sum(len(g) for g in kept[:i]) for i in range(len(kept))]
    joined = [[start + i for i in range(len(g))] for start, g in zip(starts, kept, strict=True)]
    extents = [shape[d] for d in order]
    type_ = ir.RankedTensorType.get(extents, ir.RankedTensorType(bias.type).element_type)
    value = tensor.ExpandShapeOp(type_, bias, joined, [], extents).result
    dims = [ir.AffineExpr.get_dim(d) for d in order]
    return value, ir.AffineMap.get(len(shape), 0, dims)


def _separate(op: ir.Operation, bias: ir.Value, map_: ir.AffineMap) -> None:
    result = op.results[0]
    type_ = result.type
    with ir.InsertionPoint(op):
        op.operands[len(inputs_of(op))] = build_zero_fill(type_)
    is_float = isinstance(type_.element_type, ir.FloatType)
    add = arith.addf if is_float else arith.addi
    users = list(result.uses)
    with ir.InsertionPoint.after(op):
        total = build_generic(
            type_,
            [result, bias],
            [
                ir.AffineMap.get_identity(len(type_.shape)),
                map_,
                ir.AffineMap.get_identity(len(type_.shape)),
            ],
            lambda value, addend, _: add(value, addend),
        )
    for use in users:
        use.owner.operands[use.operand_number] = total
