"""Five small graphs of data movement: nothing is copied any more, and nothing else changes.

The graphs: benchmarks/models/small_cases.py.
"""

import numpy as np
import onnxruntime
import pytest
from chain import TARGET
from models import small_cases

import polystage as ps
from polystage.frontends import ImportedModel
from polystage.mlir import ir
from polystage.passes.tensors.normalize import BUFFERIZE, NORMALIZE, PREPARE
from polystage.pipeline import default_pipeline, run_pipeline
from polystage.polyhedral import Kind, TensorProgram
from polystage.reference import jit_run


def random_input(model: ImportedModel) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(model.inputs[0].shape, np.float32)


def copies_in(module: ir.Module) -> list[str]:
    program = TensorProgram.from_module(module)
    return [s.name for s in program.statements if s.kind == Kind.COPY]


def eliminated(model: ImportedModel) -> ir.Module:
    """Run the pass on a model; outputs before and after are the same to the last bit."""
    inputs = [random_input(model)]
    run_pipeline(model.module, f"builtin.module({PREPARE},{BUFFERIZE})")
    assert copies_in(model.module)
    before = jit_run(model.module, inputs)[0]
    run_pipeline(model.module, "builtin.module(poly-eliminate-copies)")
    assert jit_run(model.module, inputs)[0].tobytes() == before.tobytes()
    return model.module


@pytest.mark.parametrize("name", small_cases.CASES)
def test_no_copy_is_left_and_no_bit_changes(name):
    assert copies_in(eliminated(small_cases.CASES[name]())) == []


def test_an_input_that_goes_to_the_output_is_copied_once():
    model = ps.load(small_cases.shufflenet_v2_unit_alone())
    assert len(copies_in(eliminated(model))) == 1


@pytest.mark.parametrize("name", small_cases.CASES)
def test_simulated_outputs_are_those_of_onnxruntime(name):
    onnx_model = small_cases.ONNX_MODELS[name]()
    model = ps.load(onnx_model)
    data = random_input(model)
    session = onnxruntime.InferenceSession(onnx_model.SerializeToString())
    expected = session.run(None, {"x": data})[0]
    eliminated = f"{PREPARE},{BUFFERIZE},poly-eliminate-copies"
    pipeline = default_pipeline(TARGET, "f32").replace(NORMALIZE, eliminated)
    program = ps.compile(model.module, target=TARGET, dtype="f32", pipeline=pipeline)
    found = ps.simulate(program, {"x": data}).outputs[model.outputs[0].name]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
