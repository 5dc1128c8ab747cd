"""Light ONNX models with random weights: our outputs are onnxruntime's.

All nine: benchmarks/light_models.py.
"""

import light_models as light
import numpy as np
import onnx
import pytest
from chain import compile_and_simulate, largest_error, norm_error

import polystage as ps


@pytest.fixture(scope="module", params=["squeezenet", "shufflenet", "inception_v1"])
def model(request):
    return light.with_random_weights(onnx.load(light.light_path(request.param)))


def test_outputs_are_those_of_onnxruntime_and_bf16_errs_as_bf16_does(model):
    inputs = light.random_inputs(model)
    expected = light.run_onnxruntime(model, inputs)
    assert expected.std() > 0.1 * expected.mean(), "a uniform output would show nothing"
    imported = ps.load(model)
    runs = (compile_and_simulate(imported, inputs, dtype) for dtype in ("f32", "bf16"))
    f32, bf16 = (run.output(imported) for run in runs)
    assert largest_error(f32, expected) < light.F32_TOLERANCE
    rounded = light.run_onnxruntime(light.rounded_to_bf16(model), inputs)
    ratio = norm_error(bf16, expected) / norm_error(rounded, expected)
    assert light.BF16_RATIOS[0] <= ratio <= light.BF16_RATIOS[1]


def test_stored_weights_through_the_command_line():
    assert light.command_line_error("squeezenet") < light.F32_TOLERANCE


def test_random_weights_keep_activations_of_one_size():
    model = light.with_random_weights(onnx.load(light.light_path("resnet50")))
    inputs = light.random_inputs(model)
    residual = [node.output[0] for node in model.graph.node if node.op_type == "Sum"]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in residual)
    sizes = [np.sqrt(np.mean(a**2)) for a in light.run_all_outputs(model, inputs)]
    assert min(sizes) > 0.1 and max(sizes) < 10
