"""Write the models of the command-line tests to a folder: good, and broken in one way each."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def perceptron(batch):
    generator = np.random.default_rng(0)
    weights = [
        ("w0", generator.standard_normal((12, 10), np.float32)),
        ("w1", generator.standard_normal((10, 5), np.float32)),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w1"], ["y"], name="second"),
    ]
    return model(nodes, [("x", [batch, 12])], [("y", [batch, 5])], weights)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(perceptron(3), folder / "good.onnx")
    onnx.save(perceptron("batch"), folder / "dynamic.onnx")
    (folder / "truncated.onnx").write_bytes((folder / "good.onnx").read_bytes()[:-100])
    pool = helper.make_node("MaxRoiPool", ["x", "x"], ["y"], name="rois", pooled_shape=[1, 1])
    onnx.save(model([pool], [("x", [5, 5])], [("y", [5, 5])]), folder / "unsupported.onnx")
    np.savez(folder / "in.npz", x=np.ones((3, 12), np.float32))
    np.savez(folder / "wrong.npz", x=np.ones((4, 12), np.float32))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
