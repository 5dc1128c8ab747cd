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


def unsigned_results(function: ir.Operation) -> list[bool]:
    """Return for every named result whether it is unsigned (`npu.unsigned`)."""
    if "res_attrs" not in function.attributes:
        return []
    entries = ir.ArrayAttr(function.attributes["res_attrs"])
    return ["npu.unsigned" in ir.DictAttr(entry) for entry in entries]
