"""Operators by others, where the importer gets them wrong and ONNX defines no function."""

import onnx
from onnx import TensorProto, parser


def lp_normalization(node: onnx.NodeProto, types: list[onnx.TypeProto]) -> str:
    """x / |x|, and 0 where the norm is 0; the importer makes that 0 / 0."""
    options = {a.name: a.i for a in node.attribute}
    norm = "ReduceL1" if options.get("p", 2) == 1 else "ReduceL2"
    return f"""(x) => (y) {{
        axes = Constant<value_ints = [{options.get("axis", -1)}]>()
        norm = {norm}<keepdims = 1>(x, axes)
        sum = Add(norm, norm)
        is_zero = Equal(sum, norm)
        fixed = Cast<to = {types[0].tensor_type.elem_type}>(is_zero)
        divisor = Add(norm, fixed)
        y = Div(x, divisor)
    }}"""


def dequantize_linear(node: onnx.NodeProto, types: list[onnx.TypeProto]) -> str:
    """(x - zero_point) * scale; the importer takes the zero points of an axis as signed."""
    options = {a.name: a.i for a in node.attribute}
    data, scale = (t.tensor_type for t in types[:2])
    if len(node.input) < 3 or not node.input[2] or options.get("block_size"):
        return ""
    if len(scale.shape.dim) != 1 or data.elem_type not in (TensorProto.INT8, TensorProto.UINT8):
        return ""
    rank = len(data.shape.dim)
    axis = options.get("axis", 1) % rank
    shape = ", ".join("-1" if d == axis else "1" for d in range(rank))
    return f"""(x, scale, zero) => (y) {{
        shape = Constant<value_ints = [{shape}]>()
        along_axis = Reshape(scale, shape)
        zeros = Reshape(zero, shape)
        value = Cast<to = {scale.elem_type}>(x)
        zero_value = Cast<to = {scale.elem_type}>(zeros)
        difference = Sub(value, zero_value)
        y = Mul(difference, along_axis)
    }}"""


BODIES = {
    ("", "DequantizeLinear"): dequantize_linear,
    ("", "LpNormalization"): lp_normalization,
}


def own_body(
    node: onnx.NodeProto, types: list[onnx.TypeProto], opset: int
) -> onnx.FunctionProto | None:
    """Return the function that a node is, or nothing where the importer knows the operator well."""
    write = BODIES.get((node.domain, node.op_type))
    text = write(node, types) if write else ""
    if not text:
        return None
    head = f'<domain: "own", opset_import: ["" : {opset}]> {node.op_type} '
    return parser.parse_function(head + text)
