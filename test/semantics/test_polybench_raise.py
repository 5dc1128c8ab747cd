"""PolyBench kernels compute the same before and after `raise-affine-to-linalg`."""

from pathlib import Path

import numpy as np
import pytest

from polystage.forms import check_form, walk
from polystage.mlir import ir
from polystage.passes.polyhedral.raise_affine_to_linalg import RaiseAffineToLinalgPass
from polystage.reference import jit_run

KERNELS = Path(__file__).parent / "polybench"


@pytest.mark.parametrize("name", ["gemm", "2mm", "jacobi-2d", "correlation"])
def test_raised_kernel_computes_the_same(name: str) -> None:
    text = (KERNELS / f"{name}.mlir").read_text()
    random = np.random.default_rng(0)
    with ir.Context(), ir.Location.unknown():
        before, after = ir.Module.parse(text), ir.Module.parse(text)
        function = before.body.operations[0]
        inputs = [random.standard_normal(t.shape, np.float32) for t in function.type.inputs]
        RaiseAffineToLinalgPass().run(after)
        check_form(after, "buffers")
        assert not [op.name for op in walk(after.operation) if op.name.startswith("affine.")]
        expected, found = jit_run(before, inputs), jit_run(after, inputs)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
