"""Light models with another batch: every item is what onnxruntime computes of it alone."""

import light_models as light
import numpy as np
import onnx
import pytest
from chain import largest_error

import polystage as ps
from polystage.evaluator.module_evaluator import evaluate
from polystage.reference import onnxruntime_run

BATCH = 2


@pytest.mark.parametrize("name", ["resnet50", "shufflenet", "squeezenet", "densenet121"])
def test_items_are_those_of_the_single_model(name: str) -> None:
    source = light.with_random_weights(onnx.load(light.light_path(name)))
    model = ps.load(source, batch=BATCH)
    (image,) = model.inputs
    batch = np.random.default_rng(0).standard_normal(image.shape, np.float32)
    (found,) = evaluate(model.module, {image.name: batch}).values()
    alone = [onnxruntime_run(source, {image.name: item[None]}) for item in batch]
    expected = np.concatenate([value for outputs in alone for value in outputs.values()])
    assert np.abs(expected[0] - expected[1]).max() > 1e-3, "equal items would show nothing"
    assert largest_error(found, expected) < light.F32_TOLERANCE


def test_batch_of_a_simulated_program() -> None:
    source = light.with_random_weights(onnx.load(light.light_path("shufflenet")))
    model = ps.load(source, batch=BATCH)
    (image,) = model.inputs
    inputs = {
        image.name: np.random.default_rng(0).standard_normal(image.shape, np.float32),
    }
    program = ps.compile(model.module, target="neuroncore_v2", dtype="f32")
    found = ps.simulate(program, inputs).outputs
    for name, expected in model.run_reference(inputs).items():
        assert largest_error(found[name], expected) < light.F32_TOLERANCE
