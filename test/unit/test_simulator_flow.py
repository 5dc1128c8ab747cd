"""Several inferences and several cores: counts, shared bandwidth, Little's law."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from npu_programs import Kernel, chain, dram, module_of, program, random

from polystage.errors import SimulationError
from polystage.simulator import simulate, simulate_device
from polystage.simulator.findings import flow_of


def two_layers(rows=64, columns=512, functions=1, overrides=None):
    """Two kernels with a tensor between them in DRAM, and a constant that the second adds."""
    one = Kernel("one", x=dram(rows, columns), t=dram(rows, columns))
    chain(one, one.x, one.t, 0, functions)
    two = Kernel("two", t=dram(rows, columns), w=dram(rows, columns), y=dram(rows, columns))
    t, w = two.load(two.t, 8192, "intermediate"), two.load(two.w, 16384, "weight")
    two.box("elementwise", "add", [t, w, t], [rows, columns], ["d0, d1"] * 3)
    two.dma(t, two.y, "output")
    type_ = one.x.type
    main = [
        f"%w = memref.get_global @w : {type_}",
        f"%t = memref.alloc() : {type_}",
        f"%y = memref.alloc() : {type_}",
        f'call @one(%x, %t) {{layer = "one"}} : ({type_}, {type_}) -> ()',
        f'call @two(%t, %w, %y) {{layer = "two"}} : ({type_}, {type_}, {type_}) -> ()',
        f"memref.dealloc %t : {type_}",
        f"return %y : {type_}",
    ]
    extra = f'memref.global "private" constant @w : {type_} = dense<1.5>'
    return program(one, two, main=main, extra=extra, overrides=overrides, drop_inputs=("w",))


X = {"x": random(64, 512)}
SIZE = 64 * 512 * 4


def test_inferences_follow_each_other_without_a_pause():
    module = two_layers()
    once, thrice = simulate(module, X), simulate(module, X, inferences=3)
    np.testing.assert_array_equal(thrice.outputs["y"], 2 * X["x"] + 1.5)
    total = thrice.totals
    assert total.instructions == {n: 3 * k for n, k in once.totals.instructions.items()}
    assert once.totals.latency_ns < total.latency_ns < 3 * once.totals.latency_ns
    assert total.dram_read_by_cause == {n: 3 * k for n, k in once.totals.dram_read_by_cause.items()}
    for level in ("vector", "sbuf", "dram", "mac", "register"):
        assert total.energy_pj[level] == pytest.approx(3 * once.totals.energy_pj[level])
    assert [layer.calls for layer in thrice.layers] == [3, 3]
    latencies = sum(layer.cost.latency_ns for layer in thrice.layers)
    assert latencies == pytest.approx(total.latency_ns)
    assert set(thrice.timeline.inference.tolist()) == {0, 1, 2}


def test_a_program_that_calls_nothing_takes_no_time():
    type_ = "memref<2x3xf32>"
    main = f'func.func @main(%x: {type_} {{npu.name = "x"}}) -> {type_} {{ return %x : {type_} }}'
    x = {"x": random(2, 3)}
    result = simulate(module_of(main), x, inferences=2)
    (output,) = result.outputs.values()
    np.testing.assert_array_equal(output, x["x"])
    assert (result.layers, result.totals.latency_ns) == ((), 0.0)


def test_constants_must_cross_the_interface_once_for_all_inferences():
    assert simulate(two_layers(), X).totals.compulsory_bytes == 3 * SIZE
    assert simulate(two_layers(), X, inferences=4).totals.compulsory_bytes == (4 * 2 + 1) * SIZE


def test_sequential_inferences_take_their_sum():
    module = two_layers()
    one, five = (
        simulate(module, timing_only=True, order="sequential", inferences=n) for n in (1, 5)
    )
    assert five.totals.latency_ns == pytest.approx(5 * one.totals.latency_ns)
    assert five.flow.mean_in_flight == pytest.approx(1.0)
    assert five.flow.mean_latency_ns == pytest.approx(one.totals.latency_ns)


def test_a_value_left_from_the_inference_before_is_not_written():
    """Every inference begins new lives: what only the first wrote must not serve the second."""
    k = Kernel(x=dram(8, 8), y=dram(8, 16))
    k.dma(k.load(k.x), k.subview(k.y, [0, 0], [8, 8]), "output")
    with pytest.raises(SimulationError, match="of which not all was written"):
        simulate(program(k), {"x": random(8, 8)}, inferences=2)


def test_a_global_without_a_value_is_not_written_until_something_writes_it():
    fill = Kernel("fill", t=dram(8, 8))
    zeros = fill.alloc([8, 8])
    fill.memset(zeros, 0.0)
    fill.dma(zeros, fill.t, "output")
    k = Kernel(x=dram(8, 8), s=dram(8, 8), y=dram(8, 8))
    x, s = k.load(k.x), k.load(k.s, 512)
    k.box("elementwise", "add", [x, s, s], [8, 8], ["d0, d1"] * 3)
    k.dma(s, k.s, "output")
    k.dma(s, k.y, "output")
    type_ = k.x.type
    main = [
        f"%s = memref.get_global @s : {type_}",
        f"%y = memref.alloc() : {type_}",
        f"call @kernel(%x, %s, %y) : ({type_}, {type_}, {type_}) -> ()",
        f"return %y : {type_}",
    ]
    extra = f'memref.global "private" @s : {type_}'
    x = {"x": random(8, 8)}
    with pytest.raises(SimulationError, match="of which not everything has been written"):
        simulate(program(k, main=main, extra=extra, drop_inputs=("s",)), x, inferences=2)
    main.insert(2, f"call @fill(%s) : ({type_}) -> ()")
    result = simulate(program(fill, k, main=main, extra=extra, drop_inputs=("s",)), x)
    np.testing.assert_array_equal(result.outputs["y"], x["x"])


# --- Little's law ---


def holds(flow):
    law = flow.throughput_per_s * flow.mean_latency_ns / 1e9
    assert flow.mean_in_flight == pytest.approx(law, rel=1e-9)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e9), st.floats(1, 1e6)),
        min_size=1,
        max_size=30,
    )
)
def test_littles_law_holds_for_any_inferences(spans):
    begin = np.array([b for b, _ in spans])
    end = begin + np.array([d for _, d in spans])
    flow = flow_of(begin, end)
    law = flow.throughput_per_s * flow.mean_latency_ns / 1e9
    assert flow.mean_in_flight == pytest.approx(law, rel=1e-6)
    assert flow.inferences == len(spans)


MODULES = {n: two_layers(functions=n) for n in (1, 2, 6)}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(sorted(MODULES)), min_size=1, max_size=2),
    st.integers(1, 6),
    st.sampled_from(["interlocked", "sequential"]),
)
def test_littles_law_holds_in_every_run(functions, inferences, order):
    modules = [MODULES[n] for n in functions]
    result = simulate_device(modules, timing_only=True, inferences=inferences, order=order)
    holds(result.flow)
    assert result.flow.inferences == len(modules) * inferences
    for core in result.cores:
        holds(core.flow)
        assert core.flow.total_ns == pytest.approx(core.totals.latency_ns)
        assert core.flow.mean_in_flight <= inferences + 1e-9
    assert result.flow.total_ns == max(core.flow.total_ns for core in result.cores)


# --- several cores ---


def latency(cores, **overrides):
    module = two_layers(128, 2048, overrides=overrides or None)
    return simulate_device([module] * cores, timing_only=True).flow.total_ns


def test_cores_share_the_bandwidth_of_the_device():
    narrow = {"device.dram_bytes_per_ns": 200.0, "dram.bytes_per_ns": 200.0}
    wide = {**narrow, "device.dram_bytes_per_ns": 400.0}
    assert latency(2, **wide) == pytest.approx(latency(1, **wide))
    assert latency(1, **narrow) == pytest.approx(latency(1, **wide))
    assert latency(2, **narrow) > 1.3 * latency(1, **narrow)


def test_every_core_has_its_own_inputs_and_memory():
    modules = [two_layers(), two_layers(functions=2)]
    inputs = [{"x": random(64, 512, seed=seed)} for seed in (3, 4)]
    result = simulate_device(modules, inputs)
    for core, given_inputs, factor in zip(result.cores, inputs, (2, 4), strict=True):
        np.testing.assert_array_equal(core.outputs["y"], factor * given_inputs["x"] + 1.5)
    timeline = result.timeline
    assert timeline.count == sum(core.timeline.count for core in result.cores)
    assert set(timeline.core.tolist()) == {0, 1}
    assert timeline.layers == ("one", "two")
    data = result.to_dict()
    assert len(data["cores"]) == 2 and data["flow"]["inferences"] == 2


def refuse(message, *arguments, **options):
    with pytest.raises(SimulationError, match=message) as caught:
        simulate_device(*arguments, **options)
    return caught.value


def test_invalid_devices():
    module = two_layers()
    refuse("there is no module to simulate", [])
    refuse("there are inputs for 1 cores, but 2 modules", [module] * 2, [X])
    error = refuse(
        "there are 3 modules, but the device of 'neuroncore_v2' has 2 cores",
        [module] * 3,
        timing_only=True,
    )
    assert "device.cores" in error.help
    other = two_layers(overrides={"device.cores": 4})
    refuse(
        "'neuroncore_v2' and 'neuroncore_v2' are cores of different devices",
        [module, other],
        timing_only=True,
    )
