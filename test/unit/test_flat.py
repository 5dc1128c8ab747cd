"""A flat scratchpad: its description, the time of what is larger than the array, its programs."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from npu_programs import Kernel, dram, program, random

from polystage.errors import SimulationError, TargetError
from polystage.machine import Target, bounds, cost
from polystage.mlir import ir
from polystage.report.contractions import contractions
from polystage.report.losses import Contraction, losses
from polystage.simulator import simulate

FLAT = Target.load("flat")
OUTPUT_STATIONARY = FLAT.override({"tensor.dataflow": "output_stationary"})
SIZES = st.integers(1, 100)


def flat_program(*kernels, **options):
    return program(*kernels, target="flat", **options)


# --- description ---


def test_scratchpad_bytes_is_its_size():
    assert FLAT.is_flat
    assert FLAT.override({"scratchpad_bytes": "147456"}).sbuf.bytes == 147456


def test_invalid_scratchpad_bytes_of_partitions():
    with pytest.raises(TargetError) as caught:
        Target.load("tiny", {"scratchpad_bytes": 1024})
    assert caught.value.message == (
        "--set: 'scratchpad_bytes' is the size of a flat scratchpad, but that of 'tiny' has "
        "8 partitions"
    )
    assert caught.value.help == "set sbuf.bytes_per_partition, or choose the target 'flat'"


def test_invalid_psum_beside_a_flat_scratchpad():
    with pytest.raises(TargetError) as caught:
        FLAT.override({"psum.banks": 2})
    assert caught.value.message == "--set: 'psum.banks' is 2, but must be 0: 'sbuf.partitions' is 1"
    assert caught.value.help == "the accumulators lie in a flat scratchpad"


def test_invalid_partitions_without_psum():
    with pytest.raises(TargetError) as caught:
        Target.load("tiny", {"psum.banks": 0})
    assert caught.value.message == (
        "--set: 'psum.banks' is 0, but must be at least 1: 'sbuf.partitions' is 8"
    )
    assert caught.value.help == (
        "only a flat scratchpad, which has 1 partition, holds the accumulators itself"
    )


# --- time ---


def test_a_matmul_larger_than_the_array_is_the_sum_of_its_passes():
    """70 x 40 x 100 on 32 x 32: three times two parts, of which the last column has 8 columns."""
    whole = cost.matmul(FLAT, 32, 32, 100, "bf16")
    edge = cost.matmul(FLAT, 32, 8, 100, "bf16")
    found = cost.matmul(FLAT, 70, 40, 100, "bf16")
    assert found.busy_ns == 3 * whole.busy_ns + 3 * edge.busy_ns
    assert found.latency_ns == found.busy_ns - edge.busy_ns + edge.latency_ns
    assert cost.array_passes(FLAT, 70, 40, 100) == 6


def test_the_array_holds_no_operand_that_is_larger():
    for shape in ((33, 32, 10), (32, 33, 10)):
        times = [cost.matmul(FLAT, *shape, "bf16", changed) for changed in (True, False)]
        assert times[0] == times[1]
    held = cost.matmul(FLAT, 32, 32, 1, "bf16", changed=False)
    assert held.latency_ns < cost.matmul(FLAT, 32, 32, 1, "bf16").latency_ns


def test_an_output_stationary_array_cuts_the_columns():
    assert cost.array_passes(OUTPUT_STATIONARY, 1000, 64, 33) == 4
    assert cost.operand_passes(OUTPUT_STATIONARY, 1000, 64, 33) == (2, 2, 1)
    assert cost.matmul(OUTPUT_STATIONARY, 1000, 64, 33, "bf16").busy_ns == 4 * 1000


@settings(max_examples=50, deadline=None)
@given(SIZES, SIZES, SIZES, st.sampled_from([FLAT, OUTPUT_STATIONARY]))
def test_bounds_of_large_matmuls_are_bounds(k, m, n, target):
    busy = cost.matmul(target, k, m, n, "bf16", changed=False).busy_ns
    matmuls = {(k, m, n, "bf16"): 1}
    in_array = bounds.array_bound_ns(target, matmuls)
    assert cost.compute_bound_ns(target, k * m * n, "bf16") <= in_array * (1 + 1e-12)
    assert in_array <= busy * (1 + 1e-12)
    times = losses(target, matmuls, [], {"tensor": busy}, busy).times_ns
    assert list(times) == sorted(times)


def test_lanes_take_neighbouring_elements():
    """32 lanes: 3200 elements are 100 cycles, and one more is one cycle more."""
    assert cost.lanes(FLAT, "vector", 3200).busy_ns == 100
    assert cost.lanes(FLAT, "vector", 3201).busy_ns == 101
    assert cost.lanes(FLAT, "vector", 3200, passes=(2,)).busy_ns == 200
    assert cost.lanes(FLAT, "vector", 3200, stride_bytes=64).busy_ns == 200
    slow = FLAT.override({"sbuf.interface_elements_per_cycle": 16})
    assert cost.lanes(slow, "vector", 3200).busy_ns == 200
    assert bounds.lanes_bound_ns(FLAT, "vector", 3200) == 100


# --- programs ---

FUNCTIONS = """
func.func private @gelu(%x: f32, %r: bf16, %o: bf16) -> bf16 {
  %half = arith.constant 5.0e-01 : f32
  %one = arith.constant 1.0 : f32
  %scale = arith.constant 0.707106769 : f32
  %s = arith.mulf %x, %scale : f32
  %e = math.erf %s : f32
  %p = arith.addf %e, %one : f32
  %h = arith.mulf %x, %half : f32
  %g = arith.mulf %h, %p : f32
  %n = arith.truncf %g : f32 to bf16
  %y = arith.addf %n, %r : bf16
  return %y : bf16 }
"""


def matmul_kernel(accumulate=False, fill=True):
    """Return y = [y +] a^T x b, 70 x 40 x 5 x 20, of every second column of b."""
    k = Kernel(a=dram(1, 70, 40), b=dram(1, 70, 5, 40), y=dram(1, 40, 5, 20))
    a, b = k.load(k.a, 0), k.load(k.b, 11200)
    sums = k.alloc([1, 40, 5, 20], address=67200)
    if fill:
        k.memset(sums, 2.0)
    k.matmul(a, k.subview(b, [0, 0, 0, 0], [1, 70, 5, 20], [1, 1, 1, 2]), sums, accumulate)
    k.dma(sums, k.y, "output")
    return k


@pytest.mark.parametrize("accumulate", [False, True])
def test_matmul_of_a_strided_window(accumulate):
    a, b = random(1, 70, 40), random(1, 70, 5, 40, seed=1)
    result = simulate(flat_program(matmul_kernel(accumulate)), {"a": a, "b": b})
    expected = np.einsum("km,kij->mij", a[0], b[0, :, :, ::2]) + 2.0 * accumulate
    np.testing.assert_allclose(result.outputs["y"][0], expected, rtol=1e-5, atol=1e-4)
    totals = result.totals
    assert totals.matmuls == {(70, 40, 100, "f32"): 1}
    # Moved in and out, set; weights once, the moving operand for both columns of parts, the sums
    # out three times and in twice, or three times where it adds.
    moved = 4 * (70 * 40 + 70 * 200 + 40 * 100)
    in_array = 4 * (70 * 40 + 2 * 70 * 100 + (5 + accumulate) * 40 * 100)
    assert totals.sbuf_bytes == moved + 4 * 40 * 100 + in_array
    assert totals.psum_bytes == totals.energy_pj["psum"] == 0
    assert bounds.bounds_of(FLAT, totals).program_ns <= totals.latency_ns


def test_invalid_sums_that_nothing_wrote():
    inputs = {"a": random(1, 70, 40), "b": random(1, 70, 5, 40)}
    with pytest.raises(SimulationError) as caught:
        simulate(flat_program(matmul_kernel(accumulate=True, fill=False)), inputs)
    assert caught.value.message.startswith("npu.matmul in @kernel of layer 'kernel' reads bytes")
    assert caught.value.message.endswith("of which not everything has been written")


def test_any_number_of_sums_may_be_unfinished():
    """Psum keeps `open_groups` accumulations; a scratchpad as many as fit."""
    k = Kernel(a=dram(1, 8, 8), y=dram(1, 8, 64))
    a, sums = k.load(k.a), k.alloc([1, 8, 64], address=256)
    for accumulate in (False, True):
        for i in range(8):
            k.matmul(a, a, k.subview(sums, [0, 0, 8 * i], [1, 8, 8]), accumulate)
    k.dma(sums, k.y, "output")
    a = random(1, 8, 8)
    result = simulate(flat_program(k), {"a": a})
    np.testing.assert_allclose(result.outputs["y"][0, :, :8], 2 * a[0].T @ a[0], rtol=1e-4)


def test_any_scalar_function_is_one_instruction():
    k = Kernel(x=dram(1, 6, 50), r=dram(1, 6, 50, dtype="bf16"), y=dram(1, 6, 50, dtype="bf16"))
    x, r = k.load(k.x), k.load(k.r, 1200)
    k.box("elementwise", "gelu", [x, r, r], [1, 6, 50], ["d0, d1, d2"] * 3)
    k.dma(r, k.y, "output")
    values, other = random(1, 6, 50), random(1, 6, 50, dtype=ml_dtypes.bfloat16, seed=1)
    result = simulate(flat_program(k, extra=FUNCTIONS), {"x": values, "r": other})
    exact = values * 0.5 * (1 + np.vectorize(math.erf)(values / 2**0.5))
    expected = exact.astype(other.dtype) + other
    found = result.outputs["y"].astype(np.float32)
    np.testing.assert_allclose(found, expected.astype(np.float32), rtol=1e-2, atol=1e-2)
    assert result.totals.instructions == {"npu.dma": 3, "npu.elementwise": 1}
    assert result.totals.operations == {"vector": 6 * 300}


def test_transfers_within_the_scratchpad_take_strided_windows():
    k = Kernel(x=dram(1, 4, 6), y=dram(1, 4, 6))
    x, window = k.load(k.x), k.alloc([1, 4, 6], address=96)
    for i in range(2):
        source = k.subview(x, [0, 0, i], [1, 4, 3], [1, 1, 2])
        k.dma(source, k.subview(window, [0, 0, 3 * i], [1, 4, 3]), "copy")
    k.dma(window, k.y, "output")
    x = random(1, 4, 6)
    result = simulate(flat_program(k), {"x": x})
    expected = np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)
    np.testing.assert_array_equal(result.outputs["y"], expected)
    assert result.totals.onchip_copy_bytes == 96


# --- layers of one kernel ---


def two_layers(noted=""):
    """Return a kernel that multiplies for one layer and doubles for another."""
    k = Kernel(a=dram(1, 8, 8), y=dram(1, 8, 8))
    a, sums = k.alloc([1, 8, 8]), k.alloc([1, 8, 8], address=256)
    flag = k.const("false", "i1")
    names, types = f"{k.a.name}, {a.name}", f"{k.a.type}, {a.type}"
    k.emit(f'"npu.dma"({names}) {{cause = "weight", layer = "product"}} : ({types}) -> ()')
    names, types = f"{a.name}, {a.name}, {sums.name}, {flag}", ", ".join([a.type] * 3)
    k.emit(f'"npu.matmul"({names}) {{layer = "product"}} : ({types}, i1) -> ()')
    k.box("elementwise", "double", [sums, sums], [1, 8, 8], ["d0, d1, d2"] * 2)
    k.lines[-1] = k.lines[-1].replace("{function", '{layer = "twice", function')
    k.op("dma", [sums, k.y], 'cause = "output", layer = "twice"')
    module = flat_program(k)
    with module.context:
        if noted:
            kernel = next(o for o in module.body.operations if o.name.value == "kernel")
            kernel.operation.attributes["npu.contractions"] = ir.Attribute.parse(noted)
    return module


def test_instructions_name_their_layers():
    result = simulate(two_layers(), {"a": random(1, 8, 8)})
    first, second = result.layers
    assert (first.name, second.name) == ("product", "twice")
    assert first.cost.instructions == {"npu.dma": 1, "npu.matmul": 1}
    assert second.cost.instructions == {"npu.dma": 1, "npu.elementwise": 1}
    assert (first.cost.compulsory_bytes, second.cost.compulsory_bytes) == (256, 256)
    assert first.cost.macs == 512
    assert second.cost.macs == 0
    assert first.cost.latency_ns + second.cost.latency_ns == result.totals.latency_ns
    assert [r.layer for r in result.find_residences()] == ["product", "product"]
    assert result.timeline.layers == ("product", "twice")


def test_contractions_of_the_layers_of_a_kernel():
    extents = "{batch = 1 : i64, m = 8 : i64, n = 8 : i64, k = 8 : i64}"
    module = two_layers(f"{{product = [{extents}]}}")
    assert contractions(module, {"product": 3}) == {"product": [Contraction(1, 8, 8, 8, 3)]}


def test_an_uninitialised_read_names_the_layer_of_the_instruction():
    k = Kernel(y=dram(1, 8, 8))
    sums = k.alloc([1, 8, 8])
    k.op("dma", [sums, k.y], 'cause = "output", layer = "twice"')
    with pytest.raises(SimulationError) as caught:
        simulate(flat_program(k), {})
    assert caught.value.message.startswith("npu.dma in @kernel of layer 'twice' reads bytes")
