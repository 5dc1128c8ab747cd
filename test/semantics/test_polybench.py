"""PolyBench kernels written as affine loops: the simulated result is the upstream JIT's."""

from pathlib import Path

import numpy as np
import pytest

import polystage as ps
from polystage.reference import jit_run

KERNELS = Path(__file__).parent / "polybench"


@pytest.mark.parametrize("target", ["neuroncore_v2", "tiny"])
@pytest.mark.parametrize("name", ["gemm", "2mm", "jacobi-2d", "correlation"])
def test_simulated_kernel_equals_the_jit(name, target):
    model = ps.load(KERNELS / f"{name}.mlir")
    random = np.random.default_rng(0)
    inputs = {i.name: random.standard_normal(i.shape, np.float32) for i in model.inputs}
    program = ps.compile(model.module, target=target, dtype="f32")
    outputs = ps.simulate(program, inputs).outputs
    text = (KERNELS / f"{name}.mlir").read_text()
    expected = jit_run(text, [inputs[i.name] for i in model.inputs])
    assert len(expected) == len(model.outputs)
    for spec, reference in zip(model.outputs, expected, strict=True):
        np.testing.assert_allclose(outputs[spec.name], reference, rtol=1e-4, atol=1e-4)
