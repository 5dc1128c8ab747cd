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


def qlinear_matmul(node: onnx.NodeProto, types: list[onnx.TypeProto]) -> str:
    """round((a - a_zero) @ (b - b_zero) * a_scale * b_scale / y_scale) + y_zero, saturated.

    The importer gets batches of matrices wrong. Products of 8-bit integers add up exactly in f32.
    """
    a, b, y_zero = (types[i].tensor_type for i in (0, 3, 7))
    scales = [types[i].tensor_type.shape.dim for i in (1, 4, 6)]
    scalars = all(len(dims) == 0 or dims[0].dim_value == len(dims) == 1 for dims in scales)
    if max(len(a.shape.dim), len(b.shape.dim)) <= 2 or not scalars:
        return ""
    low, high = (0, 255) if y_zero.elem_type == TensorProto.UINT8 else (-128, 127)
    return f"""(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero) => (y) {{
        a_value = Cast<to = {TensorProto.FLOAT}>(a)
        a_offset = Cast<to = {TensorProto.FLOAT}>(a_zero)
        a_difference = Sub(a_value, a_offset)
        b_value = Cast<to = {TensorProto.FLOAT}>(b)
        b_offset = Cast<to = {TensorProto.FLOAT}>(b_zero)
        b_difference = Sub(b_value, b_offset)
        sum = MatMul(a_difference, b_difference)
        a_factor = Cast<to = {TensorProto.FLOAT}>(a_scale)
        b_factor = Cast<to = {TensorProto.FLOAT}>(b_scale)
        y_factor = Cast<to = {TensorProto.FLOAT}>(y_scale)
        product = Mul(a_factor, b_factor)
        factor = Div(product, y_factor)
        scaled = Mul(sum, factor)
        rounded = Round(scaled)
        y_offset = Cast<to = {TensorProto.FLOAT}>(y_zero)
        shifted = Add(rounded, y_offset)
        low = Constant<value_float = {low}.0>()
        high = Constant<value_float = {high}.0>()
        clipped = Clip(shifted, low, high)
        y = Cast<to = {y_zero.elem_type}>(clipped)
    }}"""


BODIES = {
    ("", "DequantizeLinear"): dequantize_linear,
    ("", "LpNormalization"): lp_normalization,
    ("", "QLinearMatMul"): qlinear_matmul,
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
