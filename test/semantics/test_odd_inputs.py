"""Arrays of one element, of truth values, with infinite elements: against onnxruntime."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import polystage as ps

RNG = np.random.default_rng(0)
TARGETS = {"tiny": (), "neuroncore_v2": (), "flat": ("scratchpad_bytes=16384",)}
TYPES = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("bool"): TensorProto.BOOL}


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], **attributes)


def model_of(nodes, inputs, output, constants):
    """Return a model of nodes whose result is called y."""
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info(k, TYPES[a.dtype], a.shape) for k, a in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def with_infinities(*shape):
    """Return an array that hides about a third of its elements, but none of the first column."""
    array = normal(*shape)
    array[..., 1:][RNG.random((*shape[:-1], shape[-1] - 1)) < 0.3] = -np.inf
    return array


SCORES = [node("MatMul", "q k", "s"), node("Add", "s m", "a"), node("Exp", "a", "y")]
COMPUTED = [
    node("Where", "hidden infinity zero", "m"),
    *SCORES[:2],
    node("Tanh", "a", "t"),
    node("MatMul", "t v", "q2"),
    node("MatMul", "q2 k", "s2"),
    node("Add", "s2 m", "a2"),
    node("Tanh", "a2", "y"),
]
DENSE = [
    node("MatMul", "x w", "a"),
    node("Relu", "a", "b"),
    node("MatMul", "b w2", "c"),
    node("Add", "c m", "d"),
    node("Relu", "d", "e"),
    node("MatMul", "e w", "y"),
]
HEADS = {"q": normal(2, 12, 8), "k": normal(2, 8, 20)}
CASES = {
    "constant_mask": (SCORES, HEADS, (2, 12, 20), {"m": with_infinities(12, 20)}),
    "given_mask": (SCORES, {**HEADS, "m": with_infinities(12, 20)}, (2, 12, 20), {}),
    "computed_mask": (
        COMPUTED,
        {**HEADS, "v": normal(2, 20, 8), "hidden": with_infinities(12, 20) == -np.inf},
        (2, 12, 20),
        {"infinity": np.float32(-np.inf), "zero": np.float32(0)},
    ),
    "constant_addend_in_a_group": (
        DENSE,
        {"x": normal(20, 24)},
        (20, 24),
        {"w": normal(24, 24), "w2": normal(24, 24), "m": with_infinities(20, 24)},
    ),
    "scalar": ([node("Exp", "x", "a"), node("Add", "a x", "y")], {"x": normal()}, (), {}),
    "are_all_equal": (
        [
            node("Equal", "x z", "a"),
            node("ReduceMin", "a axes", "b", keepdims=0),
            node("Where", "b z x0", "y"),
        ],
        {"x": np.floor(normal(30, 2)), "z": np.zeros((), np.float32), "x0": normal(30)},
        (30,),
        {"axes": np.array([1])},
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_computes_what_onnxruntime_computes(name, target):
    nodes, inputs, output, constants = CASES[name]
    model = ps.load(model_of(nodes, inputs, output, constants))
    program = ps.compile(model.module, target=target, settings=TARGETS[target], dtype="f32")
    result = ps.simulate(program, inputs).outputs["y"]
    np.testing.assert_allclose(result, model.run_reference(inputs)["y"], rtol=1e-4, atol=1e-5)
