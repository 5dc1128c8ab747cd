"""The scalar engine: its functions, what comes per partition, and the sum along the way."""

import numpy as np
import pytest
from npu_programs import Kernel, dram, program, random

from polystage.dialects.npu.rules import ACTIVATIONS
from polystage.machine import Target, cost
from polystage.pipeline import run_pipeline
from polystage.simulator import simulate
from polystage.simulator.activations import ACTIVATIONS as FUNCTIONS

torch = pytest.importorskip("torch")

REFERENCES = {
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "softplus": torch.nn.functional.softplus,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "relu": torch.relu,
    "rsqrt": lambda x: torch.rsqrt(x.abs()),
    "erf": torch.erf,
    "exp": torch.exp,
}


def test_every_function_that_is_allowed_has_numbers() -> None:
    assert set(ACTIVATIONS) == set(FUNCTIONS)


@pytest.mark.parametrize("function", REFERENCES)
def test_functions_are_those_of_pytorch(function: str) -> None:
    x = np.linspace(-12, 12, 240, dtype=np.float32).reshape(4, 60)
    source = np.abs(x) if function == "rsqrt" else x
    k = Kernel(x=dram(4, 60), y=dram(4, 60))
    tile = k.load(k.x)
    k.activate(tile, tile, function)
    k.dma(tile, k.y, "output")
    expected = REFERENCES[function](torch.from_numpy(x)).numpy()
    got = simulate(program(k), {"x": source}).outputs["y"]
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)


def columns_kernel(dtype: str) -> Kernel:
    """y, z = exp(f * x + s - 1) and twice its sums; f, s and z have one element per partition."""
    k = Kernel(
        x=dram(8, 4, 6), f=dram(8, 1), s=dram(8, 1), y=dram(8, 4, 6, dtype=dtype), z=dram(8, 1)
    )
    x, f, s = k.load(k.x), k.load(k.f, 100), k.load(k.s, 104)
    y, t = k.alloc([8, 4, 6], dtype, address=200), k.alloc([8, 1], address=400)
    k.activate(x, y, "exp", bias=-1.0, shift=s, factor=f, total=t)
    k.dma(y, k.y, "output")
    k.box("elementwise", "double", [t, t], [8], ["d0, 0"] * 2)
    k.dma(t, k.z, "output")
    return k


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_factor_shift_and_total(dtype: str) -> None:
    x, f, s = random(8, 4, 6), random(8, 1, seed=1), random(8, 1, seed=2)
    module = program(columns_kernel(dtype), results=("y", "z"))
    result = simulate(module, {"x": x, "f": f, "s": s}).outputs
    wide = np.exp(x.astype(np.float64) * f[:, :, None] + s[:, :, None] - 1)
    tolerance = 1e-6 if dtype == "f32" else 5e-3
    np.testing.assert_allclose(result["y"].astype(np.float64), wide, rtol=tolerance)
    # The sum is that of the results before they are rounded.
    np.testing.assert_allclose(result["z"][:, 0], 2 * wide.sum(axis=(1, 2)), rtol=1e-6)


def test_what_comes_per_partition_is_free_and_the_total_is_64_cycles() -> None:
    def busy(**columns: bool) -> float:
        k = Kernel(y=dram(8, 200))
        tile = k.alloc([8, 200], address=0)
        given = {name: k.alloc([8, 1], address=900 + 4 * i) for i, name in enumerate(columns)}
        for value in (tile, *given.values()):
            k.memset(value, 1)
        k.activate(tile, tile, "exp", **given)
        k.dma(tile, k.y, "output")
        return simulate(program(k), {}).totals.busy_ns["scalar"]

    target = Target.load("neuroncore_v2")
    assert busy() == pytest.approx(cost.activate(target, 200).busy_ns)
    assert busy(shift=True, factor=True) == pytest.approx(busy())
    assert busy(total=True) == pytest.approx(busy() + 64 / 1.4)


def test_a_total_is_waited_for() -> None:
    module = program(columns_kernel("f32"), results=("y", "z"))
    run_pipeline(module, "builtin.module(npu-insert-sync)")
    inputs = {"x": random(8, 4, 6), "f": random(8, 1), "s": random(8, 1)}
    assert simulate(module, inputs).races == ()
