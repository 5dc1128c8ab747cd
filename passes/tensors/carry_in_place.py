"""The pass carry-in-place."""

from dataclasses import dataclass

from polystage.forms import walk
from polystage.mlir import ir
from polystage.passes.registry import Pass, register_pass


@register_pass
@dataclass
class CarryInPlacePass(Pass):
    """Write what a loop carries into the buffer that it came in.

    The machine has no loops that carry values, only buffers that one iteration leaves to the next.
    Bufferization finds such a buffer by itself only where the carried tensor is updated in place.
    """

    name = "carry-in-place"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Wrap the carried operands of `scf.yield`; bufferization drops copies onto themselves."""
        for op in list(walk(module.operation)):
            if op.name == "scf.for":
                self._carry(op)

    def _carry(self, loop: ir.Operation) -> None:
        body = loop.regions[0].blocks[0]
        end = body.operations[len(body.operations) - 1].operation
        carried = list(body.arguments)[1:]  # after the induction variable
        with ir.InsertionPoint(end), end.location:
            for position, (value, argument) in enumerate(zip(end.operands, carried, strict=True)):
                if isinstance(value.type, ir.RankedTensorType) and value != argument:
                    end.operands[position] = ir.Operation.create(
                        "bufferization.materialize_in_destination",
                        results=[value.type],
                        operands=[value, argument],
                    ).result
                    self.count("values carried")
