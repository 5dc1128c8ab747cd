"""The names of a program's inputs and outputs."""

from typing import Literal

from polystage.mlir import ir


def value_names(
    function: ir.Operation, attributes: Literal["arg_attrs", "res_attrs"], prefix: str, count: int
) -> list[str]:
    """Return the attribute `npu.name` of every argument or result; `prefix` and number without."""
    names = [f"{prefix}{i}" for i in range(count)]
    if attributes not in function.attributes:
        return names
    for i, entry in enumerate(ir.ArrayAttr(function.attributes[attributes])):
        found = ir.DictAttr(entry)
        if "npu.name" in found:
            names[i] = ir.StringAttr(found["npu.name"]).value
    return names
