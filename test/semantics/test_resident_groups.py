"""Operators in a resident group compute what they compute alone, and their arrays stay on chip."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import polystage as ps
from polystage.forms import walk
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.lower.resident.marking import computing_operations, mark_resident
from polystage.passes.lower.resident.split_folds import split_folds
from polystage.pipeline import default_pipeline

RNG = np.random.default_rng(0)


class Net:
    """A convolutional network of a few layers, as an ONNX model."""

    def __init__(self, shape):
        self.nodes, self.weights, self.channels = [], [], {"x": shape[1]}
        self.shape = shape

    def weight(self, shape):
        name = f"w{len(self.weights)}"
        data = (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        self.weights.append(numpy_helper.from_array(data, name))
        return name

    def add(self, op, inputs, channels, **attributes):
        name = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.channels[name] = channels
        return name

    def conv(self, x, channels, size=1, stride=1, pad=0):
        inputs = [
            x,
            self.weight((channels, self.channels[x], size, size)),
            self.weight((channels,)),
        ]
        return self.add(
            "Conv", inputs, channels, strides=[stride] * 2, pads=[pad] * 4, kernel_shape=[size] * 2
        )

    def relu(self, x):
        return self.add("Relu", [x], self.channels[x])

    def sum(self, a, b):
        return self.add("Add", [a, b], self.channels[a])

    def pool(self, op, x, **attributes):
        return self.add(op, [x], self.channels[x], **attributes)

    def dense(self, x, units):
        flat = self.add("Flatten", [x], self.channels[x])
        return self.add(
            "Gemm", [flat, self.weight((self.channels[x], units)), self.weight((units,))], units
        )

    def module(self, result, path):
        kind = TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", kind, self.shape)],
            [helper.make_tensor_value_info(result, kind, None)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        file = path / "net.onnx"
        file.write_bytes(model.SerializeToString())
        return ps.load(file).module


def bottleneck(net, x, inner, stride):
    """A block of ResNet whose shortcut is a convolution."""
    y = net.relu(net.conv(x, inner))
    y = net.relu(net.conv(y, inner, 3, stride, 1))
    return net.relu(net.sum(net.conv(y, 2 * inner), net.conv(x, 2 * inner, stride=stride)))


def residual(net, x, inner):
    """A block of ResNet whose shortcut is the input."""
    y = net.relu(net.conv(net.relu(net.conv(x, inner)), inner, 3, 1, 1))
    return net.relu(net.sum(net.conv(y, net.channels[x]), x))


def resnet(net):
    x = net.relu(net.conv("x", 8, 3, 2, 1))
    x = net.pool("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = residual(net, bottleneck(net, x, 6, 2), 6)
    return net.dense(net.pool("GlobalAveragePool", x), 10)


def odd_channels(net):
    x = net.relu(net.conv("x", 13, 3, 1, 1))
    return net.conv(net.relu(net.conv(x, 19, 3, 2, 1)), 11)


def windows_of_one_array(net):
    x = net.relu(net.conv("x", 12))
    return net.sum(net.conv(x, 9, 5, 1, 2), net.sum(net.conv(x, 9, 3, 1, 1), net.conv(x, 9)))


def sums_of_arrays(net):
    a, b = net.relu(net.conv("x", 9)), net.relu(net.conv("x", 9, 3, 1, 1))
    both = net.sum(a, b)
    return net.sum(net.conv(both, 8), net.sum(net.conv(a, 8, 3, 1, 1), net.conv(b, 8)))


def mean_of_a_sum(net):
    x = net.relu(net.conv("x", 9))
    y = net.relu(net.sum(net.conv(x, 9, 3, 1, 1), x))
    return net.dense(net.add("ReduceMean", [y], 9, axes=[2, 3], keepdims=1), 12)


def wide_window(net):
    return net.relu(net.conv(net.relu(net.conv("x", 8, 7, 2, 3)), 9))


CASES = {
    "resnet": (resnet, (1, 2, 32, 32)),
    "odd_channels": (odd_channels, (1, 11, 9, 7)),
    "windows_of_one_array": (windows_of_one_array, (1, 5, 6, 6)),
    "sums_of_arrays": (sums_of_arrays, (2, 6, 5, 5)),
    "mean_of_a_sum": (mean_of_a_sum, (1, 5, 6, 6)),
    "wide_window": (wide_window, (2, 2, 14, 17)),
    "rows_for_all_dma_engines": (wide_window, (2, 3, 140, 9)),
    "batch": (odd_channels, (4, 11, 9, 7)),
}
LARGER_TINY = {"sbuf.bytes_per_partition": "65536"}


def lowered(module, target, settings, resident, dtype="f32"):
    """Return a program, and how many groups it has."""
    text = default_pipeline(target, dtype, [f"{k}={v}" for k, v in settings.items()])
    at = text.index("convert-linalg-to-npu")
    front = text[:at].split(",npu-fuse-operators")[0].rstrip(",")
    program = ps.compile(module, target=target, pipeline=f"{front})")
    groups = 0
    if resident:
        with program.context, ir.Location.unknown():
            (main,) = (f for f in program.body.operations if isinstance(f, func.FuncOp))
            groups = mark_resident(main, Target.load(target, settings)).groups
    return ps.compile(program, target=target, pipeline=f"builtin.module({text[at:]}"), groups


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", ["tiny", "neuroncore_v2"])
def test_a_group_computes_what_its_operators_do(case, target, tmp_path):
    make, shape = CASES[case]
    net = Net(shape)
    module = net.module(make(net), tmp_path)
    x = {"x": RNG.standard_normal(shape).astype(np.float32)}
    settings = LARGER_TINY if target == "tiny" else {}
    alone, _ = lowered(module, target, settings, resident=False)
    together, groups = lowered(module, target, settings, resident=True)
    expected, found = ps.simulate(alone, x), ps.simulate(together, x)
    assert groups == 1
    for name, value in expected.outputs.items():
        np.testing.assert_allclose(found.outputs[name], value, rtol=1e-5, atol=1e-5)
    assert "intermediate" not in found.totals.dram_read_by_cause
    assert found.totals.latency_ns < expected.totals.latency_ns


def test_a_batch_goes_part_by_part_where_not_all_fits(tmp_path):
    net = Net((4, 11, 9, 7))
    module = net.module(odd_channels(net), tmp_path)
    x = {"x": RNG.standard_normal((4, 11, 9, 7)).astype(np.float32)}
    small = {"sbuf.bytes_per_partition": "6144"}
    program, groups = lowered(module, "tiny", small, resident=True)
    alone, _ = lowered(module, "tiny", small, resident=False)
    calls = str(program).count("call @resident_0")
    assert groups == 1 and calls == 2
    for name, value in ps.simulate(alone, x).outputs.items():
        np.testing.assert_allclose(
            ps.simulate(program, x).outputs[name], value, rtol=1e-5, atol=1e-5
        )


def residuals(net):
    return residual(net, net.relu(net.conv("x", 64)), 64)


def many_sums(net):
    """One matmul for a tile, and one array: the vector engine takes longer for all arrays than the
    array of processors for all matmuls."""
    x = net.relu(net.conv("x", 64))
    for _ in range(3):
        x = net.relu(net.sum(net.conv(x, 64), x))
    return x


WHO_ADDS = {
    "vector: beside another image": (residuals, 2),
    "array: nothing runs beside": (residuals, 1),
    "array: the vector engine has more to do": (many_sums, 2),
}


@pytest.mark.parametrize("who", WHO_ADDS)
def test_arrays_are_added_by_the_engine_that_has_time(who, tmp_path):
    make, images = WHO_ADDS[who]
    shape = (images, 16, 16, 16)
    net = Net(shape)
    module = net.module(make(net), tmp_path)
    x = {"x": RNG.standard_normal(shape).astype(np.float32)}
    alone, _ = lowered(module, "neuroncore_v2", {}, resident=False, dtype="bf16")
    program, groups = lowered(module, "neuroncore_v2", {}, resident=True, dtype="bf16")
    added = [op for op in walk(program.operation) if op.name == "npu.elementwise"]
    products = [op for op in walk(program.operation) if "auxiliary" in op.attributes]
    assert groups == 1
    vector = who.startswith("vector")
    assert (bool(added), bool(products)) == (vector, not vector)
    for name, value in ps.simulate(alone, x).outputs.items():
        error = ps.simulate(program, x).outputs[name].astype(np.float32) - value
        assert np.linalg.norm(error) < 0.01 * np.linalg.norm(value.astype(np.float32))


CHAIN = """
#a = affine_map<(m, n, k) -> (m, k)>
#b = affine_map<(m, n, k) -> (k, n)>
#c = affine_map<(m, n, k) -> (m, n)>
func.func @main(%x: memref<4x4xf32>, %y: memref<4x4xf32>, %z: memref<4x4xf32>) {
  %u = memref.alloc() : memref<4x4xf32>
  BODY ins(%x, %y : memref<4x4xf32>, memref<4x4xf32>) outs(%u : memref<4x4xf32>) { INNER }
  BODY ins(%u, %y : memref<4x4xf32>, memref<4x4xf32>) outs(%z : memref<4x4xf32>) { INNER }
  return
}
""".replace(
    "BODY",
    'linalg.generic {indexing_maps = [#a, #b, #c], iterator_types = ["parallel", "parallel", '
    '"reduction"]}',
).replace(
    "INNER",
    """^bb0(%p: f32, %q: f32, %out: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32""",
)


def test_no_contraction_is_taken_apart():
    with ir.Context(), ir.Location.unknown():
        module = ir.Module.parse(CHAIN)
        (main,) = module.body.operations
        operations = computing_operations(main)
        assert split_folds(operations, Target.load("tiny")) == 0
