"""Where an operation comes from: its layer, its operands' purposes, what makes two operations
equal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import VIEW_OPS, defining_op
from polystage.mlir import ir
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.physical_layout import DECISIONS


def layer_name(op: ir.Operation) -> str:
    """Return the name that the model gives to the layer of an operation, or an empty text.

    It is the first name in the operation's location; positions in files are not names.
    """
    for name, after in re.findall(r'"([^"]+)"(:\d+)?', str(op.location)):
        if not after:
            return name
    return ""


def kernel_kind(op: ir.Operation) -> str:
    """Return what an operation does, in a word or two, from its body."""
    if op.name != "linalg.generic":
        return op.name.partition(".")[2]
    operations = list(op.regions[0].blocks[0].operations)
    body = [o.operation.name for o in operations]
    reduces = any("reduction" in str(a) for a in op.opview.iterator_types)
    if any(
        n == "memref.load" and len(o.operands) > 1 for n, o in zip(body, operations, strict=True)
    ):
        return "gather"
    plain = ("arith.ext", "memref.")
    steps = [n.partition(".")[2] for n in body[:-1] if not n.startswith(plain)]
    if not steps:
        return "copy"
    prefix = "reduce_" if reduces else ""
    return prefix + (steps[-1] if len(steps) <= 2 else "fused")


def captured_memrefs(op: ir.Operation) -> list[ir.Value]:
    """Return the memrefs that the body of an operation reads from outside, in order of first
    use."""
    if op.name != "linalg.generic":
        return []
    found: list[ir.Value] = []
    for inner in op.regions[0].blocks[0].operations:
        for value in inner.operands:
            if isinstance(value.type, ir.MemRefType) and value not in found:
                found.append(value)
    return found


def sources_of(values: Sequence[ir.Value]) -> list[ir.Value]:
    """Return the memrefs that a kernel on some values takes: for overlays, what they show."""
    memrefs = (v for v in values if isinstance(v.type, ir.MemRefType))
    return [source for value in memrefs for _, source in overlay.pieces(value)[0]]


def causes_of(op: ir.Operation, arguments: list[ir.Value]) -> list[str]:
    """Return why the bytes of every argument move: input, weight, intermediate, output or copy."""
    if kernel_kind(op) == "copy":
        return ["copy"] * len(arguments)
    return [cause_of(value) for value in arguments]


def cause_of(value: ir.Value) -> str:
    """Return what the bytes of an array are for: input, weight, intermediate or output."""
    if _is_returned(value):
        return "output"
    op = defining_op(value)
    while op is not None and op.name in VIEW_OPS:
        if _is_returned(op.operands[0]):
            return "output"
        op = defining_op(op.operands[0])
    if op is None:
        return "input"
    return "weight" if op.name == "memref.get_global" else "intermediate"


def _is_returned(value: ir.Value) -> bool:
    return any(use.owner.operation.name == "func.return" for use in value.uses)


def kernel_key(
    op: ir.Operation, captured: list[ir.Value], causes: list[str], initial: Initial | None
) -> str:
    """Return a text that is equal for two operations exactly when one kernel serves both."""
    operands = [*op.operands, *captured]
    arguments = sources_of([*op.operands, *captured])
    parts = [op.name, *map(_operand_text, operands), *_arguments_text(arguments)]
    parts += [str(causes), str(initial)]
    if op.name == "linalg.generic":
        parts += [str(op.opview.indexing_maps), str(op.opview.iterator_types)]
        parts += [str(op.attributes[name]) for name in DECISIONS if name in op.attributes]
        parts += _body_text(op.regions[0].blocks[0], operands)
    return "\n".join(parts)


def group_key(
    operations: Sequence[ir.Operation],
    arguments: Sequence[ir.Value],
    causes: list[str],
    initials: Sequence[Initial | None],
) -> str:
    """Return a text that is equal for two groups of operations exactly when one kernel serves
    both."""
    keys = [
        kernel_key(op, [], causes, initial)
        for op, initial in zip(operations, initials, strict=True)
    ]
    written = [op.operands[len(op.operands) - 1] for op in operations]
    reads = [[written.index(v) for v in op.operands if v in written] for op in operations]
    places = [[i for i, v in enumerate(op.operands) if v in written] for op in operations]
    return "\n".join([*keys, str(reads), str(places), *_arguments_text(arguments)])


def _arguments_text(arguments: Sequence[ir.Value]) -> list[str]:
    """Return the types of arguments, and which of them are the same."""
    first = [list(arguments).index(v) for v in arguments]
    return [*(str(v.type) for v in arguments), str(first)]


def _operand_text(value: ir.Value) -> str:
    """Return the type of an operand, and where an overlay shows what."""
    if not overlay.is_overlay(value):
        return str(value.type)
    layers, fill = overlay.pieces(value)
    return f"{value.type} {[offsets for offsets, _ in layers]} {fill}"


def _body_text(body: ir.Block, operands: list[ir.Value]) -> list[str]:
    """Return the operations of a body with values named by their position."""
    names: dict[ir.Value, str] = {a: f"a{i}" for i, a in enumerate(body.arguments)}
    lines = []
    for number, view in enumerate(body.operations):
        op = view.operation
        inputs = [names.get(v) or _outside_name(v, operands) for v in op.operands]
        attributes = sorted(f"{name}={op.attributes[name]}" for name in op.attributes)
        results = [str(r.type) for r in op.results]
        lines.append(f"{op.name}({', '.join(inputs)}) {attributes} {results}")
        names.update({r: f"v{number}.{i}" for i, r in enumerate(op.results)})
    return lines


def _outside_name(value: ir.Value, operands: list[ir.Value]) -> str:
    """Return a text for a value from outside the body: a captured memref or a constant."""
    if value in operands:
        return f"o{operands.index(value)}"
    op = defining_op(value)
    if op is not None and op.name == "arith.constant":
        return str(op.attributes["value"])
    return f"outside {value.get_name()}"
