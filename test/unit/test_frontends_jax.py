"""JAX functions and StableHLO files."""

from pathlib import Path

import numpy as np
import pytest

from polystage.errors import FrontendError
from polystage.evaluator.module_evaluator import evaluate
from polystage.frontends import load
from polystage.passes.tensors.normalize import NORMALIZE_PIPELINE
from polystage.pipeline import run_pipeline

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.filterwarnings("ignore")


def attention(x, w):
    q, k, v = (x @ w[i] for i in range(3))
    scores = jax.nn.softmax(q @ k.T / 4.0)
    return jax.nn.gelu(scores @ v, approximate=False) + x


SHAPES = (jax.ShapeDtypeStruct((8, 16), np.float32), jax.ShapeDtypeStruct((3, 16, 16), np.float32))


def assert_computes_its_reference(model) -> None:
    rng = np.random.default_rng(0)
    inputs = {s.name: rng.normal(size=s.shape).astype(s.dtype) for s in model.inputs}
    expected = model.run_reference(inputs)
    run_pipeline(model.module, NORMALIZE_PIPELINE)
    found = evaluate(model.module, inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4)


def test_function() -> None:
    model = load(attention, inputs=SHAPES)
    assert (model.name, model.reference) == ("attention", "jax")
    assert [s.name for s in model.inputs] == ["x", "w"]
    assert_computes_its_reference(model)


def test_stablehlo_text_and_artifact(tmp_path: Path) -> None:
    exported = jax.export.export(jax.jit(attention))(*SHAPES)
    (tmp_path / "a.mlir").write_text(exported.mlir_module())
    (tmp_path / "b.mlirbc").write_bytes(exported.mlir_module_serialized)
    for name in ("a.mlir", "b.mlirbc"):
        model = load(tmp_path / name)
        assert model.reference == "jit"
        assert [s.name for s in model.inputs] == ["x", "w"]
        assert_computes_its_reference(model)


def test_damaged_artifact(tmp_path: Path) -> None:
    exported = jax.export.export(jax.jit(attention))(*SHAPES)
    path = tmp_path / "cut.mlirbc"
    path.write_bytes(exported.mlir_module_serialized[:400])
    with pytest.raises(FrontendError) as error:
        load(path)
    assert error.value.message.startswith(f"{path}: the StableHLO artifact of version v")


def test_function_that_fails() -> None:
    with pytest.raises(FrontendError) as error:
        load(attention, inputs=SHAPES[:1])
    assert error.value.message.startswith("attention: jax.export failed: ")
