"""What the importer takes but computes wrongly, and what nothing after it can hold.

A rule is a function from a node and the types of its graph's values to what is wrong with it; the
message that a user sees is built from that.
"""

from collections.abc import Callable, Mapping

import onnx

Types = Mapping[str, onnx.TypeProto]


def grid_sample(node: onnx.NodeProto, types: Types) -> str:
    """Grid points outside the image read beyond it; `nearest` rounds halves away from zero."""
    if node.op_type != "GridSample":
        return ""
    return "the importer computes it wrongly where a grid point lies outside the image"


def peepholes(node: onnx.NodeProto, types: Types) -> str:
    """The peephole weights of an LSTM are ignored."""
    if node.op_type == "LSTM" and len(node.input) > 7 and node.input[7]:
        return "the importer ignores the peephole weights"
    return ""


def determinant(node: onnx.NodeProto, types: Types) -> str:
    """Elimination without pivoting: a zero on the way divides by zero."""
    if node.op_type != "Det":
        return ""
    return "the importer computes it without exchanging rows, so that a pivot of 0 gives NaN"


def unique(node: onnx.NodeProto, types: Types) -> str:
    """Shapes depend on values; the importer dies where some of the outputs are left out."""
    if node.op_type != "Unique":
        return ""
    return "how many elements its results have depends on values"


def aligned_corners(node: onnx.NodeProto, types: Types) -> str:
    """Scales that give no whole extent are replaced by the ratio of the rounded extents."""
    modes = [a.s for a in node.attribute if a.name == "coordinate_transformation_mode"]
    if node.op_type != "Resize" or modes != [b"align_corners"] or not "".join(node.input[2:3]):
        return ""
    known = [
        [d.dim_value for d in types[name].tensor_type.shape.dim]
        for name in (node.input[0], node.output[0])
        if name in types
    ]
    if len(known) == 2 and all(n and out % n == 0 for n, out in zip(*known, strict=True)):
        return ""
    return "with align_corners the importer takes the ratio of the extents for the scales"


def no_elements(node: onnx.NodeProto, types: Types) -> str:
    """A tensor without elements has no place in memory; to a concatenation it adds nothing."""
    if node.op_type in ("Concat", "Shape", "Size"):
        return ""
    for name in node.input:
        shape = types[name].tensor_type.shape if name in types else None
        extents = [d.dim_value for d in shape.dim if d.HasField("dim_value")] if shape else []
        if 0 in extents:
            return f"its operand '{name}' of shape {extents} has no elements"
    return ""


RULES: tuple[Callable[[onnx.NodeProto, Types], str], ...] = (
    grid_sample,
    peepholes,
    determinant,
    unique,
    aligned_corners,
    no_elements,
)


def violation(
    graph: onnx.GraphProto, around: Types | None = None
) -> tuple[onnx.NodeProto, str] | None:
    """Return the first node that a rule refuses, and why; bodies of nodes count."""
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {**(around or {}), **{v.name: v.type for v in values}}
    for node in graph.node:
        for rule in RULES:
            reason = rule(node, types)
            if reason:
                return node, reason
        for attribute in node.attribute:
            found = violation(attribute.g, types)
            if found:
                return found
    return None
