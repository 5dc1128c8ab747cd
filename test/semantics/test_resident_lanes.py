"""Elementwise operators and sums across the partitions in a resident group compute what onnxruntime
does."""

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import polystage as ps
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.lower.resident import marking
from polystage.pipeline import default_pipeline

RNG = np.random.default_rng(0)


class Net:
    """A program on [tokens, features], as an ONNX model."""

    def __init__(self, tokens, features):
        self.shape = (1, tokens, features)
        self.nodes, self.weights = [], []

    def constant(self, data):
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(data, np.float32), name))
        return name

    def add(self, op, *inputs, **attributes):
        name = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def linear(self, x, features):
        width = self.shape[2]
        weights = RNG.standard_normal((width, features)) / np.sqrt(width)
        y = self.add("MatMul", x, self.constant(weights))
        return self.add("Add", y, self.per_feature(features))

    def per_feature(self, features=None):
        return self.constant(RNG.standard_normal(features or self.shape[2]))

    def mean(self, x):
        return self.add("ReduceMean", x, axes=[-1], keepdims=1)

    def model(self, result):
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, self.shape)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def layer_norm(net, x):
    centred = net.add("Sub", x, net.mean(x))
    variance = net.mean(net.add("Mul", centred, centred))
    deviation = net.add("Sqrt", net.add("Add", variance, net.constant(1e-5)))
    normal = net.add("Div", centred, deviation)
    return net.add("Add", net.add("Mul", normal, net.per_feature()), net.per_feature())


def rms_norm(net, x):
    mean = net.mean(net.add("Mul", x, x))
    root = net.add("Sqrt", net.add("Add", mean, net.constant(1e-6)))
    return net.add("Mul", net.add("Div", x, root), net.per_feature())


def mean_of_a_function(net, x):
    """What is summed is computed in between."""
    scaled = net.add("Mul", net.add("Tanh", x), net.per_feature())
    return net.add("Mul", x, net.mean(net.add("Exp", net.add("Sub", scaled, x))))


def functions(net, x):
    soft = net.add("Log", net.add("Add", net.add("Exp", x), net.constant(1.0)))
    bounded = net.add("Max", x, net.constant(-0.5))
    both = net.add("Mul", net.add("Mul", soft, net.per_feature()), bounded)
    return net.add("Sub", both, net.add("Sigmoid", net.add("Mul", x, net.constant(3.0))))


def statistic_of_a_statistic(net, x):
    """What depends on statistics alone is computed for each token once."""
    mean, size = net.mean(x), net.mean(net.add("Abs", x))
    ratio = net.add("Tanh", net.add("Div", mean, size))
    return net.add("Add", net.add("Mul", x, ratio), net.add("Mul", ratio, ratio))


BODIES = [layer_norm, rms_norm, mean_of_a_function, functions, statistic_of_a_statistic]
SHAPES = {"whole tiles": (128, 256), "odd": (77, 200), "less than a tile": (197, 48)}


def program(module, dtype, monkeypatch):
    """Return the program with all that computes in one group."""
    monkeypatch.setattr(marking, "saved_ns", lambda *_: 1.0)  # the arrays are small
    text = default_pipeline("neuroncore_v2", dtype)
    at = text.index("convert-linalg-to-npu")
    front = text[:at].split(",npu-fuse-operators")[0]
    found = ps.compile(module, target="neuroncore_v2", pipeline=f"{front})")
    with found.context, ir.Location.unknown():
        (main,) = (f for f in found.body.operations if isinstance(f, func.FuncOp))
        marked = marking.mark_resident(main, Target.load("neuroncore_v2", {}))
    assert marked.groups == 1 and not marked.remarks
    return ps.compile(found, target="neuroncore_v2", pipeline=f"builtin.module({text[at:]}")


@pytest.mark.parametrize(("shape", "dtype"), [(s, "f32") for s in SHAPES] + [("odd", "bf16")])
@pytest.mark.parametrize("body", BODIES)
def test_a_body_computes_what_onnxruntime_does(body, shape, dtype, tmp_path, monkeypatch):
    tokens, features = SHAPES[shape]
    net = Net(tokens, features)
    hidden = net.linear("x", features)
    model = net.model(net.linear(body(net, hidden), features))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    x = RNG.standard_normal(net.shape).astype(ml_dtypes.bfloat16).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    run = ps.simulate(program(ps.load(path).module, dtype, monkeypatch), {"x": x})
    (found,) = run.outputs.values()
    error = 1e-5 if dtype == "f32" else 3e-2
    assert np.abs(found - expected).max() < error * np.abs(expected).max()
    assert "intermediate" not in run.totals.dram_read_by_cause


@pytest.mark.parametrize(("tokens", "instructions"), [(64, 2), (128, 4), (32, 1)])
def test_instructions_are_as_short_as_costs_nothing(tokens, instructions, tmp_path, monkeypatch):
    """What comes behind the first tiles need not wait for the last: 128 elements or more each."""
    net = Net(tokens, 512)
    hidden = net.linear("x", 512)
    model = net.model(net.linear(net.add("Max", hidden, net.add("Exp", hidden)), 512))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    compiled = program(ps.load(path).module, "bf16", monkeypatch)
    assert str(compiled).count("npu.elementwise") == instructions


def test_arrays_with_features_innermost_cross_the_border_in_rows(tmp_path):
    """Without the array that turns them, every element would have a descriptor of its own."""
    net = Net(197, 160)
    model = net.model(net.linear(net.add("Relu", net.linear("x", 160)), 160))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    x = RNG.standard_normal(net.shape).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    compiled = ps.compile(
        ps.load(path).module, target="neuroncore_v2", dtype="f32", objective="latency"
    )
    run = ps.simulate(compiled, {"x": x})
    (found,) = run.outputs.values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert "resident_0" in str(compiled)
    assert run.totals.latency_ns < 20_000
