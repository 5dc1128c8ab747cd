"""Whole models before and after `poly-eliminate-copies`: equal to the last bit.

Both are executed by upstream's lowering and JIT, loops in the order that the IR has, in f32, with
random weights on random inputs. More models, and what is left of their copies:
benchmarks/data_movement.py.
"""

import light_models as light
import numpy as np
import onnx
import pytest

import polystage as ps
from polystage.frontends import ImportedModel
from polystage.mlir import ir
from polystage.passes.tensors.normalize import BUFFERIZE, PREPARE
from polystage.pipeline import run_pipeline
from polystage.polyhedral import Kind, TensorProgram
from polystage.reference import jit_run

ALLOWED = 0.02
"""The part of the pairs that may stay; see benchmarks/data_movement.py for the reasons."""


def copies_in(module: ir.Module) -> int:
    return sum(s.kind == Kind.COPY for s in TensorProgram.from_module(module).statements)


def check(model: ImportedModel, inputs: list[np.ndarray]) -> None:
    module = model.module
    run_pipeline(module, f"builtin.module({PREPARE},{BUFFERIZE})")
    before, pairs = jit_run(module, inputs), copies_in(module)
    run_pipeline(module, "builtin.module(poly-eliminate-copies)")
    after = jit_run(module, inputs)
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert np.isfinite(one).all() and one.std() > 0
        assert one.tobytes() == other.tobytes()
    assert copies_in(module) <= ALLOWED * pairs


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_light_model(name):
    model = light.with_random_weights(onnx.load(light.light_path(name)))
    inputs = light.random_inputs(model)
    imported = ps.load(model)
    check(imported, [inputs[i.name] for i in imported.inputs])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vit_base", "gpt2", "wav2vec2", "convnext_tiny"])
def test_small_torch_model(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import torch_models

    module, inputs = torch_models.build(name, small=True)
    check(ps.load(module, inputs=[inputs], name=name), [inputs.numpy()])
