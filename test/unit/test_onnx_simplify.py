"""ONNX graphs before they reach the importer."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import polystage as ps
from polystage.evaluator.module_evaluator import evaluate
from polystage.frontends.onnx_simplify import expand_functions, simplify


def model_of(nodes, inputs, outputs, initializers=(), opset=23):
    def values(shapes):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def operators(model):
    return [node.op_type for node in model.graph.node]


def test_computed_shape_becomes_a_constant():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([0]), "first"),
        numpy_helper.from_array(np.array([-1]), "rest"),
    ]
    simple = simplify(model_of(nodes, {"x": (2, 3, 4)}, {"y": (2, 12)}, constants))
    assert operators(simple) == ["Constant", "Reshape"]
    target = numpy_helper.to_array(simple.graph.node[0].attribute[0].t)
    assert target.tolist() == [2, -1]


def test_known_branch_of_an_if_is_taken():
    def branch(name, op):
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, (2,))
        return helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [result])

    nodes = [
        helper.make_node("Size", ["x"], ["size"]),
        helper.make_node("Equal", ["size", "two"], ["small"]),
        helper.make_node(
            "If", ["small"], ["y"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg")
        ),
    ]
    constants = [numpy_helper.from_array(np.array(2), "two")]
    simple = simplify(model_of(nodes, {"x": (2,)}, {"y": (2,)}, constants))
    assert operators(simple) == ["Relu", "Identity"]


def test_large_values_stay_with_the_compiler():
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["weight"]),
        helper.make_node("Add", ["x", "weight"], ["y"]),
    ]
    shape = [numpy_helper.from_array(np.array([100, 100]), "shape")]
    simple = simplify(model_of(nodes, {"x": (100, 100)}, {"y": (100, 100)}, shape))
    assert operators(simple) == ["ConstantOfShape", "Add"]


def test_random_values_are_not_drawn():
    nodes = [
        helper.make_node("RandomNormal", [], ["noise"], shape=[2]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    assert operators(simplify(model_of(nodes, {"x": (2,)}, {"y": (2,)}))) == ["RandomNormal", "Add"]


def test_composite_operators_are_expanded_down_to_what_the_importer_knows():
    node = helper.make_node("SwiGLU", ["a", "b"], ["y"])
    shapes = {"a": (2, 4), "b": (2, 4)}
    expanded = expand_functions(model_of([node], shapes, {"y": (2, 4)}, opset=28))
    assert not {"SwiGLU", "Swish"} & set(operators(expanded))


def test_optional_inputs_may_be_missing():
    node = helper.make_node("Attention", ["q", "k", "v", "", "past_k", "past_v"], ["y"])
    shapes = dict.fromkeys(("q", "k", "v", "past_k", "past_v"), (1, 2, 3, 4))
    expanded = simplify(expand_functions(model_of([node], shapes, {"y": (1, 2, 3, 4)})))
    assert "MatMul" in operators(expanded)


@pytest.mark.parametrize(
    ("pads", "axes"),
    [
        ([1, 0, -1, 0], None),
        ([0, -1, 0, 2], None),
        ([-1, -2, 0, -1], None),
        ([-2, 1], [1]),
    ],
    ids=["shift", "crop-and-pad", "crop", "one-axis"],
)
def test_negative_padding_is_a_slice(pads: list[int], axes: list[int] | None) -> None:
    """The importer drops a Pad whose amounts cancel, and makes others outside of their operand."""
    names = ["x", "pads", "value"] + (["axes"] if axes else [])
    constants = [
        numpy_helper.from_array(np.array(pads), "pads"),
        numpy_helper.from_array(np.array(7, np.float32), "value"),
    ]
    if axes:
        constants.append(numpy_helper.from_array(np.array(axes), "axes"))
    node = helper.make_node("Pad", names, ["y"], "pad")
    model = model_of([node], {"x": (3, 4)}, {"y": None}, constants, opset=20)
    model.ir_version = 8
    x = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}
    imported = ps.load(model)
    expected = imported.run_reference(x)["y"]
    simple = simplify(model)
    assert operators(simple)[-2:] == ["Slice", "Pad"]
    (found,) = ReferenceEvaluator(simple).run(None, x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(evaluate(imported.module, x)["y"], expected)


def test_padding_that_adds_stays() -> None:
    constants = [numpy_helper.from_array(np.array([0, 1, 0, 1]), "pads")]
    model = model_of(
        [helper.make_node("Pad", ["x", "pads"], ["y"])], {"x": (3, 4)}, {"y": (3, 6)}, constants
    )
    assert operators(simplify(model)) == ["Pad"]
