"""Light models with another batch: every item is what onnxruntime computes of it alone."""

import light_models as light
import numpy as np
import onnx
import pytest
from chain import largest_error

import polystage as ps
from polystage.evaluator.module_evaluator import evaluate
from polystage.passes.tensors.normalize import PREPARE
from polystage.pipeline import run_pipeline
from polystage.pipeline_syntax import MODULE
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


@pytest.mark.parametrize("name", ["vit_base", "wav2vec2", "gpt2", "bert"])
def test_modules_of_pytorch(name: str) -> None:
    """Heads that are merged with the batch, masks and positions that are computed."""
    torch_models = pytest.importorskip("torch_models")
    module, example = torch_models.build(name, small=True)
    model = ps.load(module, inputs=[example], name=name, batch=BATCH)
    generator = np.random.default_rng(0)
    inputs = {
        s.name: (
            generator.standard_normal(s.shape)
            if s.dtype.kind == "f"
            else generator.integers(0, 20, s.shape)
        ).astype(s.dtype)
        for s in model.inputs
    }
    expected = model.run_reference(inputs)
    run_pipeline(model.module, f"{MODULE}({PREPARE})")
    found = evaluate(model.module, inputs)
    for output, value in expected.items():
        assert np.abs(value[0] - value[1]).max() > 1e-3, "equal items would show nothing"
        assert largest_error(found[output], value) < light.F32_TOLERANCE
