"""The pass separate-biases."""

from dataclasses import dataclass

from polystage.forms import walk
from polystage.mlir import arith, ir
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


@register_pass
@dataclass
class SeparateBiasesPass(Pass):
    """Start contractions from zero and add a bias afterwards.

    Importers let a convolution accumulate onto its broadcast bias, which would be written to memory
    first. As an addition of its own it fuses with what follows, e.g. a ReLU:

    `contract(x, w) onto broadcast(b)` becomes `contract(x, w) onto 0` and `+ b`.
    """

    name = "separate-biases"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Rewrite every contraction whose initial value is a broadcast."""
        with module.context:
            for op in [o for o in walk(module.operation) if o.results and is_contraction(o)]:
                init = outputs_of(op)[0].owner
                if isinstance(init, ir.Block) or not is_broadcast(init.operation):
                    continue
                with op.location:
                    _separate(op, init.operation)
                self.count("biases separated")
                self.remark(op, "the bias is added afterwards")


def _separate(op: ir.Operation, broadcast: ir.Operation) -> None:
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
            [result, broadcast.operands[0]],
            [
                ir.AffineMap.get_identity(len(type_.shape)),
                affine_maps(broadcast)[0],
                ir.AffineMap.get_identity(len(type_.shape)),
            ],
            lambda value, bias, _: add(value, bias),
        )
    for use in users:
        use.owner.operands[use.operand_number] = total
