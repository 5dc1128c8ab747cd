"""From a model to its simulated result in three calls."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import polystage as ps


def build_model():
    """Return a small classifier, as any tool that writes ONNX would."""
    weights = np.random.default_rng(0).standard_normal((64, 10), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"], name="classify"),
            helper.make_node("Softmax", ["scores"], ["p"], name="normalise"),
        ],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 64])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [8, 10])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


model = ps.load(build_model())
program = ps.compile(model.module, target="neuroncore_v2", dtype="f32")
inputs = {"x": np.random.default_rng(1).standard_normal((8, 64), np.float32)}
result = ps.simulate(program, inputs)

expected = model.run_reference(inputs)
print("largest error:", np.abs(result.outputs["p"] - expected["p"]).max())
assert np.allclose(result.outputs["p"], expected["p"], atol=1e-5)
