"""ONNX graphs without what the importer cannot follow: computed shapes, new composite operators.

Exporters compute shapes by little integer subgraphs (Shape, Gather, Concat, then Reshape), and ONNX
itself defines many operators by a function body. With static inputs the former are constants.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from polystage.frontends.onnx_bodies import BODIES, own_body

EXPANDED = (
    ("", "AffineGrid"),
    ("", "Attention"),
    ("", "CausalConvWithState"),
    ("", "CenterCropPad"),
    ("", "Gelu"),
    ("", "LinearAttention"),
    ("", "NegativeLogLikelihoodLoss"),
    ("", "RMSNormalization"),
    ("", "RotaryEmbedding"),
    ("", "SoftmaxCrossEntropyLoss"),
    ("", "SpaceToDepth"),
    ("", "SwiGLU"),
    ("", "Swish"),
    ("ai.onnx.preview", "FlexAttention"),
)
"""Operators that the importer lacks or gets wrong, and ONNX defines by others: domain and name."""

LARGEST = 4096
"""Most elements of a value that is computed here; weights stay for the compiler."""

_DOMAIN = "polystage"
_ROUNDS = 20
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
_NOT_EVALUATED = _RANDOM | {"Constant", "RandomUniformLike", "Dropout", "Loop", "Scan", "If"}

Known = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def expand_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its own functions and operators in `EXPANDED` replaced by bodies."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    while any(_is_composite(node) for node in model.graph.node):
        model = shape_inference.infer_shapes(model, data_prop=True)
        if not _define_operators(model):
            break
        model = inliner.inline_local_functions(model)
    return model


def _is_composite(node: onnx.NodeProto) -> bool:
    return (node.domain, node.op_type) in EXPANDED or (node.domain, node.op_type) in BODIES


def _define_operators(model: onnx.ModelProto) -> bool:
    """Turn operators in `EXPANDED` into calls of functions of the model, one for each node."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    types = {v.name: v.type for v in values}
    for weight in model.graph.initializer:
        types[weight.name] = helper.make_tensor_type_proto(weight.data_type, weight.dims)
    for position, node in enumerate(model.graph.node):
        if not _is_composite(node):
            continue
        body = _body(node, [types.get(name, onnx.TypeProto()) for name in node.input], model)
        if body is not None:
            body.domain, body.name = _DOMAIN, f"{node.op_type}_{position}"
            del body.opset_import[:]  # else a body older than the model is not inlined
            body.opset_import.extend(model.opset_import)
            model.functions.append(body)
            node.domain, node.op_type = _DOMAIN, body.name
    if model.functions and not any(o.domain == _DOMAIN for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return bool(model.functions)


def _body(
    node: onnx.NodeProto, types: list[onnx.TypeProto], model: onnx.ModelProto
) -> onnx.FunctionProto | None:
    """Return the function that ONNX defines an operator by, with its attributes filled in."""
    version = next((o.version for o in model.opset_import if o.domain == node.domain), 1)
    if (node.domain, node.op_type) in BODIES:
        return own_body(node, types, version)
    schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)
    given = {a.name for a in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.name:
            node.attribute.append(attribute.default_value)
    body = onnx.FunctionProto()
    if schema.has_function:
        body.CopyFrom(schema.function_body)
    elif schema.has_context_dependent_function:
        serialized = [t.SerializeToString() for t in types]
        text = schema.get_context_dependent_function(node.SerializeToString(), serialized)
        body.ParseFromString(text)
    else:
        return None
    return body


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with values folded that follow from shapes and constants, shapes inferred.

    Raises: onnx.shape_inference.InferenceError.
    """
    for _ in range(_ROUNDS):
        model = shape_inference.infer_shapes(model, data_prop=True)
        if not _fold(model):
            break
        del model.graph.value_info[:]
    return model


def _fold(model: onnx.ModelProto) -> bool:
    """Replace nodes of known value by constants; return whether there were any."""
    graph = model.graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = _static_shapes(values)
    shapes |= {w.name: tuple(w.dims) for w in graph.initializer}
    known = {w.name: numpy_helper.to_array(w) for w in graph.initializer if _is_small(w)}
    types = {v.name: v.type.tensor_type.elem_type for v in values}
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        _replace_cast_like(node, types)
        replacement = _replacement(node, known, shapes, model)
        changed |= replacement is not None
        nodes.extend([node] if replacement is None else replacement)
    if changed:
        del graph.node[:]
        graph.node.extend(_used(nodes, {o.name for o in graph.output}))
    return changed


def _replace_cast_like(node: onnx.NodeProto, types: Mapping[str, int]) -> None:
    """Turn CastLike into Cast where the type is known: its second input then need not be."""
    if node.op_type == "CastLike" and types.get(node.input[1]):
        like = types[node.input[1]]
        node.op_type = "Cast"
        del node.input[1]
        node.attribute.append(helper.make_attribute("to", like))


def _replacement(
    node: onnx.NodeProto,
    known: Known,
    shapes: Shapes,
    model: onnx.ModelProto,
) -> list[onnx.NodeProto] | None:
    """Return what a node becomes, or nothing; remember the values that are known by it."""
    if node.op_type == "If" and node.input[0] in known:
        return _taken_branch(node, bool(known[node.input[0]].all()))
    values = _values(node, known, shapes, model)
    if values is None:
        return _cropped_pad(node, known)
    known.update(values)
    if node.op_type == "Constant":
        return None
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value), name=name)
        for name, value in values.items()
    ]


def _values(
    node: onnx.NodeProto,
    known: Known,
    shapes: Shapes,
    model: onnx.ModelProto,
) -> Known | None:
    inputs = [name for name in node.input if name]
    if node.op_type == "Constant":
        return _constant(node, model)
    if node.op_type == "Shape" and inputs[0] in shapes:
        options = {a.name: a.i for a in node.attribute}
        extents = shapes[inputs[0]][options.get("start", 0) : options.get("end")]
        return {node.output[0]: np.array(extents, np.int64)}
    if node.op_type == "Size" and inputs[0] in shapes:
        return {node.output[0]: np.array(math.prod(shapes[inputs[0]]), np.int64)}
    outputs = [name for name in node.output if name]
    small = all(math.prod(shapes.get(name, (LARGEST + 1,))) <= LARGEST for name in outputs)
    evaluated = node.op_type not in _NOT_EVALUATED and all(name in known for name in inputs)
    return _evaluate(node, inputs, outputs, known, model) if evaluated and small else None


def _constant(node: onnx.NodeProto, model: onnx.ModelProto) -> Known | None:
    attribute = node.attribute[0]
    if attribute.name != "value":  # a number or a list of them
        return _evaluate(node, [], list(node.output), {}, model)
    small = _is_small(attribute.t)
    return {node.output[0]: numpy_helper.to_array(attribute.t)} if small else None


def _evaluate(
    node: onnx.NodeProto,
    inputs: list[str],
    outputs: list[str],
    known: Known,
    model: onnx.ModelProto,
) -> Known | None:
    """Return the outputs of a node as ONNX's own evaluator computes them; nothing if it fails."""
    empty = onnx.TypeProto()
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_value_info(name, empty) for name in dict.fromkeys(inputs)],
        [helper.make_value_info(name, empty) for name in outputs],
    )
    alone = helper.make_model(graph, opset_imports=model.opset_import)
    try:
        values = ReferenceEvaluator(alone).run(None, {name: known[name] for name in inputs})
    except Exception:  # the importer will say what is wrong with the node
        return None
    return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}


def _cropped_pad(node: onnx.NodeProto, known: Known) -> list[onnx.NodeProto] | None:
    """Return a Pad of negative amounts as a Slice and a Pad; the importer gets it wrong."""
    modes = [a.s for a in node.attribute if a.name == "mode"]
    if node.op_type != "Pad" or node.input[1] not in known or modes not in ([], [b"constant"]):
        return None
    amounts = known[node.input[1]]
    if (amounts >= 0).all():
        return None
    low, high = amounts.reshape(2, -1)
    axes = known.get(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    name = node.output[0]
    operands = {
        f"{name}_starts": np.maximum(-low, 0),
        f"{name}_ends": np.where(high < 0, high, np.iinfo(np.int64).max),
        f"{name}_axes": np.arange(len(low)) if axes is None else axes,
        f"{name}_pads": np.maximum(amounts, 0),
    }
    constants = [
        helper.make_node("Constant", [], [n], value=numpy_helper.from_array(a.astype(np.int64), n))
        for n, a in operands.items()
    ]
    *cut, pads = operands
    pad = onnx.NodeProto()
    pad.CopyFrom(node)
    pad.input[0], pad.input[1] = f"{name}_cropped", pads
    crop = helper.make_node("Slice", [node.input[0], *cut], [f"{name}_cropped"], node.name)
    return [*constants, crop, pad]


def _taken_branch(node: onnx.NodeProto, condition: bool) -> list[onnx.NodeProto]:
    """Return the nodes of a branch of an If, and its outputs under the names that the If has."""
    wanted = "then_branch" if condition else "else_branch"
    branch = next(a.g for a in node.attribute if a.name == wanted)
    constants = [
        helper.make_node("Constant", [], [w.name], value=w, name=w.name) for w in branch.initializer
    ]
    renamed = [
        helper.make_node("Identity", [inner.name], [outer], name=outer)
        for inner, outer in zip(branch.output, node.output, strict=True)
    ]
    return [*constants, *branch.node, *renamed]


def _used(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs depend on, in order."""
    needed, kept = set(outputs), list[onnx.NodeProto]()
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed |= _read(node)
    return kept[::-1]


def _read(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        names |= {name for inner in attribute.g.node for name in _read(inner)}
        names |= {output.name for output in attribute.g.output}
    return names


def _static_shapes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for value in values:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return shapes


def _is_small(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) <= LARGEST and (
        bool(tensor.raw_data) or len(tensor.dims) == 0 or not _has_no_data(tensor)
    )


def _has_no_data(tensor: onnx.TensorProto) -> bool:
    """Return whether the data of a weight was set aside."""
    return tensor.HasField("raw_data") and not tensor.raw_data and math.prod(tensor.dims) > 0
