"""The pass keep-arguments."""

from dataclasses import dataclass

from polystage.mlir import func, ir
from polystage.passes.registry import Pass, register_pass


@register_pass
@dataclass
class KeepArgumentsPass(Pass):
    """Forbid bufferization to write into the arguments of public functions.

    A model must not change its inputs. Where it updates one, e.g. inserts a slice into it, the
    result is a new buffer.
    """

    name = "keep-arguments"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Set `bufferization.writable = false`, which bufferization removes again."""
        with module.context:
            for function in module.body:
                if isinstance(function, func.FuncOp) and _is_public(function):
                    self._keep(function)

    def _keep(self, function: func.FuncOp) -> None:
        types = function.type.inputs
        given = list(function.attributes["arg_attrs"]) if "arg_attrs" in function.attributes else []
        attributes = [ir.DictAttr(a) for a in given] or [ir.DictAttr.get({})] * len(types)
        for position, type_ in enumerate(types):
            if isinstance(type_, ir.RankedTensorType):
                kept = {a.name: a.attr for a in attributes[position]}
                kept["bufferization.writable"] = ir.BoolAttr.get(False)
                attributes[position] = ir.DictAttr.get(kept)
                self.count("arguments kept")
        function.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes)


def _is_public(function: func.FuncOp) -> bool:
    return "sym_visibility" not in function.attributes and bool(function.regions[0].blocks)
