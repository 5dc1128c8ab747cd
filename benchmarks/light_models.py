"""The nine `light_*.onnx` models of the onnx package, simulated, beside onnxruntime.

Three runs of each:

* as they are, through the command line in f32. Their stored weights are constants, so nearly every
  mistake gives the same uniform output; what counts is the next one;
* with random weights of sensible scale on random inputs, in f32: relative error under 1e-3
  (largest difference over largest magnitude of the reference);
* the same in bf16. Its error against f32 stands beside that of the same ONNX graph executed by
  onnxruntime with every weight and every result of an operator rounded to bf16: ours may be at most
  twice as large, and not below a quarter, which would not be bf16. Here errors are norms,
  |a - b| / |b|, which vary less than the largest difference.

Exit code 1 if a model misses one of these.

    python benchmarks/light_models.py [MODEL ...]
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from chain import Simulated, compile_and_simulate, largest_error, norm_error
from onnx import TensorProto, helper, numpy_helper, shape_inference, version_converter

import polystage as ps

MODELS = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
OPSET, IR_VERSION = 17, 8
LOGIT_DEVIATION = 2.0
F32_TOLERANCE = 1e-3
BF16_RATIOS = (0.25, 2.0)
"""Smallest and largest error of bf16 over that of the emulation."""


def light_path(name: str) -> Path:
    return Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"


def with_random_weights(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Return the model with weights under which activations keep the size of the input."""
    generator = np.random.default_rng(seed)
    model = version_converter.convert_version(model, OPSET)
    graph = model.graph
    uses = {name: (node, i) for node in graph.node for i, name in enumerate(node.input)}
    shapes = weight_shapes(model)
    for name, shape in shapes.items():
        if name not in uses:
            continue
        array = random_weight(name, shape, uses, generator)
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    kept = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    inputs = [i for i in graph.input if len(i.type.tensor_type.shape.dim) == 4]
    for field, values in ((graph.node, kept), (graph.input, inputs)):
        del field[:]
        field.extend(values)
    remove_unused(graph)
    model.ir_version = IR_VERSION
    scale_logits(model)
    return model


def weight_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the float weights; those that are initializers are taken out."""
    graph = model.graph
    constants = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
    shapes = {
        node.output[0]: tuple(constants[node.input[0]])
        for node in graph.node
        if node.op_type == "ConstantOfShape"
    }
    stored = [w for w in graph.initializer if w.data_type == TensorProto.FLOAT]
    shapes |= {w.name: tuple(w.dims) for w in stored}
    for weight in stored:
        graph.initializer.remove(weight)
    return shapes


def random_weight(
    name: str,
    shape: tuple[int, ...],
    uses: dict[str, tuple[onnx.NodeProto, int]],
    generator: np.random.Generator,
) -> np.ndarray:
    """Return a weight according to what it is used for.

    Filters: He, i.e. variance 2 / fan-in. Normalisation: scale and variance about 1, mean about 0;
    the scale is smaller at the end of a residual branch, whose sums would grow otherwise.
    """
    node, position = uses[name]
    while node.op_type in ("Unsqueeze", "Reshape"):
        node, position = uses[node.output[0]]
    if node.op_type in ("Conv", "Gemm") and position == 1:
        fan_in = np.prod(shape[1:])
        return generator.standard_normal(shape) * np.sqrt(2 / fan_in)
    if node.op_type == "BatchNormalization" and position == 4:
        return generator.uniform(0.7, 1.3, shape)
    if (node.op_type, position) == ("BatchNormalization", 1) or node.op_type == "Mul":
        ends_branch = uses[node.output[0]][0].op_type == "Sum"
        return generator.uniform(0.8, 1.2, shape) * (0.3 if ends_branch else 1.0)
    return generator.standard_normal(shape) * 0.1


def remove_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [w for w in graph.initializer if w.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def scale_logits(model: onnx.ModelProto) -> None:
    """Scale the last layer so that the scores before the Softmax vary by `LOGIT_DEVIATION`.

    Else the Softmax is nearly one-hot, and a wrong score shows no more than in a uniform output.
    """
    graph = model.graph
    last = graph.node[-2]
    if graph.node[-1].op_type != "Softmax" or last.op_type != "Gemm":
        return
    logits = onnx.ModelProto()
    logits.CopyFrom(model)
    del logits.graph.node[-1]
    logits.graph.output[0].name = last.output[0]
    factor = LOGIT_DEVIATION / run_onnxruntime(logits, random_inputs(model)).std()
    for weight in graph.initializer:
        if weight.name in last.input:
            scaled = numpy_helper.to_array(weight) * np.float32(factor)
            weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))


def rounded_to_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every float weight and result rounded to bf16, arithmetic in f32."""
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(weight).astype(ml_dtypes.bfloat16).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    floats = float_values(model)
    nodes = [n for value in graph.input for n in rounding(value.name, f"{value.name}_rounded")]
    renamed = {value.name: f"{value.name}_rounded" for value in graph.input}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        results = [name for name in node.output if name in floats]
        node.output[:] = [f"{n}_exact" if n in results else n for n in node.output]
        nodes.append(node)
        nodes += [n for name in results for n in rounding(f"{name}_exact", name)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return rounded


def rounding(source: str, result: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [source], [f"{result}_bf16"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [f"{result}_bf16"], [result], to=TensorProto.FLOAT),
    ]


def float_values(model: onnx.ModelProto) -> set[str]:
    graph = shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.output]
    return {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def run_onnxruntime(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return run_all_outputs(model, inputs)[0]


def run_all_outputs(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return what onnxruntime computes; nothing is fused, so that every rounding stays."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def random_inputs(model: onnx.ModelProto, seed: int = 1) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    weights = {w.name for w in model.graph.initializer}
    return {
        value.name: generator.standard_normal(
            [d.dim_value for d in value.type.tensor_type.shape.dim], np.float32
        )
        for value in model.graph.input
        if value.name not in weights
    }


@dataclass(frozen=True)
class Row:
    """The figures of one model with random weights."""

    import_s: float
    f32: Simulated
    f32_error: float
    bf16: Simulated
    bf16_error: float
    rounded_error: float

    @property
    def passed(self) -> bool:
        """Return whether both errors are what they may be."""
        smallest, largest = BF16_RATIOS
        ratio = self.bf16_error / self.rounded_error
        return self.f32_error < F32_TOLERANCE and smallest <= ratio <= largest


def measure(name: str) -> Row:
    """Compare a model with random weights, in f32 and bf16."""
    model = with_random_weights(onnx.load(light_path(name)))
    inputs = random_inputs(model)
    expected = run_onnxruntime(model, inputs)
    assert expected.std() > 0.1 * expected.mean(), "a uniform output would show nothing"
    start = time.perf_counter()
    imported = ps.load(model)
    import_s = time.perf_counter() - start
    f32, bf16 = (compile_and_simulate(imported, inputs, dtype) for dtype in ("f32", "bf16"))
    return Row(
        import_s,
        f32,
        largest_error(f32.output(imported), expected),
        bf16,
        norm_error(bf16.output(imported), expected),
        norm_error(run_onnxruntime(rounded_to_bf16(model), inputs), expected),
    )


def command_line_error(name: str) -> float:
    """Return the relative error of the model as it is, which `polystage run` itself reports."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "polystage.tools.polystage", "run", str(light_path(name))]
        options = ["--target", "neuroncore_v2", "--dtype", "f32", "--json", str(report)]
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()}")
        return float(json.loads(report.read_text())["check"]["max_rel_error"])


HEADER = (
    f"{'model':13} {'stored':>8} {'f32':>8} {'bf16':>8} {'rounded':>8} {'ratio':>6} "
    f"{'import':>7} {'compile':>8} {'simulate':>9} {'f32 us':>9} {'bf16 us':>9}"
)


def print_row(name: str, stored: float, row: Row) -> None:
    print(
        f"{name:13} {stored:8.1e} {row.f32_error:8.1e} {row.bf16_error:8.1e} "
        f"{row.rounded_error:8.1e} {row.bf16_error / row.rounded_error:6.2f} "
        f"{row.import_s:7.2f} {row.f32.compile_s:8.2f} {row.f32.simulate_s:9.2f} "
        f"{row.f32.result.totals.latency_us:9.1f} "
        f"{row.bf16.result.totals.latency_us:9.1f}",
        "" if row.passed and stored < F32_TOLERANCE else " MISSED",
        flush=True,
    )


def main(names: Sequence[str]) -> int:
    print(HEADER)
    missed = 0
    for name in names or MODELS:
        try:
            stored, row = command_line_error(name), measure(name)
        except (ps.PolystageError, RuntimeError) as error:
            print(f"{name:13} {error}", flush=True)
            missed += 1
            continue
        print_row(name, stored, row)
        missed += not row.passed or stored >= F32_TOLERANCE
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
