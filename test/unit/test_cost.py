"""Timing and energy rules against the figures that AWS documents for the NeuronCore."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystage.machine import Target, access, area, cost, energy

V2 = Target.load("neuroncore_v2")
TINY = Target.load("tiny")


# --- tensor engine ------------------------------------------------------------------------------


def tensor_cycles(k: int, m: int, n: int, dtype: str, **options: bool) -> float:
    return cost.matmul(V2, k, m, n, dtype, **options).busy_ns * V2.tensor.clock_ghz


def test_peak() -> None:
    one = cost.matmul(V2, 128, 128, 512, "bf16")
    assert 2 * 128 * 128 * 512 / one.busy_ns / 1000 == pytest.approx(91.7504)


@pytest.mark.parametrize(("n", "cycles"), [(1, 64), (64, 64), (65, 65), (512, 512)])
def test_issue_interval(n: int, cycles: int) -> None:
    assert tensor_cycles(128, 128, n, "bf16") == pytest.approx(cycles)


def test_f32_takes_four_times_as_long() -> None:
    assert tensor_cycles(128, 128, 512, "f32") == pytest.approx(4 * 512)
    assert tensor_cycles(128, 128, 1, "f32") == pytest.approx(4 * 64)


def test_rows_and_columns_do_not_matter() -> None:
    assert (
        cost.matmul(V2, 1, 1, 512, "bf16").busy_ns == cost.matmul(V2, 128, 1, 512, "bf16").busy_ns
    )


def test_load_stationary_is_four_times_faster() -> None:
    assert cost.load_stationary_cycles(V2, 128, "bf16") == 32
    assert cost.load_stationary_cycles(V2, 1, "bf16") == 16


def test_load_stationary_in_the_foreground() -> None:
    plain = V2.override({"background_load": False})
    changed = cost.matmul(plain, 128, 128, 512, "bf16")
    unchanged = cost.matmul(plain, 128, 128, 512, "bf16", changed=False)
    assert (changed.busy_ns - unchanged.busy_ns) * 2.8 == pytest.approx(32)


def test_slow_load_stationary_bounds_the_engine() -> None:
    slow = V2.override({"weight_load_speedup": 0.5})
    assert cost.matmul(slow, 128, 128, 64, "bf16").busy_ns * 2.8 == pytest.approx(256)


def test_latency_is_load_multiply_and_drain() -> None:
    one = cost.matmul(V2, 128, 128, 512, "bf16")
    assert one.latency_ns * 2.8 == pytest.approx(32 + 512 + 254 + 60)


def test_loading_the_whole_array_takes_its_rows() -> None:
    whole = V2.override({"tensor.load_whole_array": True})
    assert cost.load_stationary_cycles(whole, 1, "bf16") == 128 / 4
    assert cost.load_stationary_cycles(whole, 1, "f32") == 4 * 128 / 4


def test_an_array_that_is_not_pipelined_runs_empty() -> None:
    """Load, stream and drain add up; what finds its operand in the array prolongs the stream."""
    plain = V2.override({"tensor.pipelined": False, "background_load": False})
    first = cost.matmul(plain, 128, 128, 512, "bf16")
    second = cost.matmul(plain, 128, 128, 512, "bf16", changed=False)
    assert first.busy_ns * 2.8 == pytest.approx(32 + 512 + 254 + 60)
    assert second.busy_ns * 2.8 == pytest.approx(512)
    assert (first.latency_ns, second.latency_ns) == (first.busy_ns, second.busy_ns)


def test_background_load_hides_behind_an_array_that_is_not_pipelined() -> None:
    plain = V2.override({"tensor.pipelined": False, "weight_load_speedup": 0.1})
    assert cost.matmul(plain, 128, 128, 512, "bf16").busy_ns * 2.8 == pytest.approx(1280)


def test_an_output_stationary_array_streams_the_contraction() -> None:
    array = V2.override({"tensor.dataflow": "output_stationary", "moving_columns": 128})
    assert (cost.held(V2), cost.held(array)) == ("stationary", "result")
    assert cost.load_stationary_cycles(array, 128, "bf16") == 0
    one = cost.matmul(array, 100, 128, 64, "bf16")
    assert one.busy_ns * 2.8 == pytest.approx(100)
    assert one.latency_ns * 2.8 == pytest.approx(100 + 254 + 60)
    plain = array.override({"tensor.pipelined": False})
    assert cost.matmul(plain, 100, 1, 1, "bf16").busy_ns * 2.8 == pytest.approx(100 + 254 + 60)
    again = cost.matmul(plain, 100, 1, 1, "bf16", changed=False)
    assert again.busy_ns * 2.8 == pytest.approx(100)


def test_moving_stride_beyond_16_bytes_halves_the_rate() -> None:
    near = cost.matmul(V2, 128, 128, 512, "bf16", moving_stride_bytes=16)
    far = cost.matmul(V2, 128, 128, 512, "bf16", moving_stride_bytes=18)
    assert far.busy_ns == pytest.approx(2 * near.busy_ns)


def test_transpose_is_a_matmul_with_the_identity() -> None:
    assert cost.transpose(V2, 128, 64, "bf16") == cost.matmul(V2, 128, 64, 128, "bf16")
    assert cost.transpose(V2, 128, 64, "i32") == cost.matmul(V2, 128, 64, 128, "f32")


# --- lane engines -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [128, 512, 4096])
def test_vector_takes_n_and_2n(n: int) -> None:
    one = cost.lanes(V2, "vector", n).busy_ns * V2.vector.clock_ghz
    two = cost.lanes(V2, "vector", n, passes=(2,)).busy_ns * V2.vector.clock_ghz
    assert (one, two) == (pytest.approx(n), pytest.approx(2 * n))


def test_vector_short_and_dependent_instructions_pay_100_cycles() -> None:
    assert cost.lanes(V2, "vector", 4).busy_ns * 1.12 == pytest.approx(104)
    assert cost.lanes(V2, "vector", 1000).latency_ns * 1.12 == pytest.approx(1100)
    assert cost.lanes(V2, "vector", 1000, passes=(1, 2)).busy_ns * 1.12 == pytest.approx(3100)


def test_more_tensors_than_an_instruction_reads_take_several() -> None:
    """A selection from two tensors by a third: two instructions of two operands."""
    assert cost.lanes(V2, "vector", 512, passes=(3,)) == cost.lanes(
        V2, "vector", 512, passes=(2, 2)
    )
    three = V2.override({"vector.max_tensor_inputs": 3})
    assert cost.lanes(three, "vector", 512, passes=(3,)).busy_ns * 1.12 == pytest.approx(3 * 512)


@given(st.integers(0, 9), st.integers(2, 4))
def test_the_passes_of_an_operation_read_all_its_operands(operands: int, limit: int) -> None:
    parts = cost.split_pass(operands, limit)
    assert max(parts) <= limit
    assert sum(parts) - (len(parts) - 1) == operands


def test_number_of_partitions_does_not_matter_up_to_the_lanes() -> None:
    times = [cost.lanes(V2, "vector", 512, partitions=p).busy_ns for p in (1, 128)]
    assert times[0] == times[1]
    halved = V2.override({"vector.lanes": 64})
    assert cost.lanes(halved, "vector", 512, partitions=128).busy_ns == pytest.approx(2 * times[0])


def test_stride_beyond_16_bytes_halves_the_interface() -> None:
    """Half of 1.4 elements/ns: twice the time in the scalar engine, 1.6 in the slower vector."""
    for engine, ratio in (("scalar", 2.0), ("vector", 1.6)):
        near = cost.lanes(V2, engine, 512, stride_bytes=16).busy_ns  # type: ignore[arg-type]
        far = cost.lanes(V2, engine, 512, stride_bytes=-20).busy_ns  # type: ignore[arg-type]
        assert far / near == pytest.approx(ratio)


def test_slow_psum_interface_limits() -> None:
    slow = V2.override({"psum.interface_clock_ghz": 0.56})
    near = cost.lanes(slow, "vector", 512)
    assert cost.lanes(slow, "vector", 512, uses_psum=True).busy_ns == pytest.approx(
        2 * near.busy_ns
    )


def test_activate_costs_one_pass_and_64_cycles_to_accumulate() -> None:
    plain = cost.activate(V2, 512)
    summed = cost.activate(V2, 512, accumulates=True)
    assert plain.busy_ns * 1.4 == pytest.approx(512)
    assert (summed.busy_ns - plain.busy_ns) * 1.4 == pytest.approx(64)


def test_memset_and_iota_are_one_pass() -> None:
    assert cost.memset(V2, "vector", 512) == cost.lanes(V2, "vector", 512)
    assert cost.iota(V2, 512) == cost.lanes(V2, "gpsimd", 512)


# --- DMA ----------------------------------------------------------------------------------------


def dma_share(partition_bytes: int) -> float:
    """Return the share of the DRAM peak that a load to 128 partitions reaches."""
    total = 128 * partition_bytes
    return total / cost.dma(V2, total, total, partition_bytes).busy_ns / V2.dram.bytes_per_ns


def test_dma_curve() -> None:
    assert dma_share(64) < 0.2
    assert dma_share(255) < 0.45  # bound by overhead
    assert 0.9 < dma_share(2048) < 1.0  # approaches the peak
    assert dma_share(4096) == pytest.approx(1.0)  # saturates


@given(st.integers(1, 2**20))
def test_dma_rate_never_beyond_the_peak(partition_bytes: int) -> None:
    assert dma_share(partition_bytes) <= 1.0 + 1e-9


def test_dma_run_is_the_shorter_side() -> None:
    assert cost.dma(V2, 2**20, 64, 2**20) == cost.dma(V2, 2**20, 2**20, 64)
    assert cost.dma_descriptors(V2, 1000, 300, 400) == (4, 300)
    assert cost.dma_descriptors(V2, 2**20, 2**20, 2**20) == (16, 65536)


def test_dma_latency() -> None:
    """One descriptor uses one engine: 1300 ns, its overhead, and 32 KiB at 27 GiB/s."""
    alone = cost.dma(V2, 2**15, 2**15, 2**15)
    assert alone.latency_ns == pytest.approx(1300 + 15 + 2**15 / 28.991029248)
    assert alone.busy_ns == pytest.approx(2**15 / 410)


def test_dma_within_dram_pays_both_sides() -> None:
    size = 2**24
    both = cost.dma(V2, size, size, size, dram_sides=2)
    none = cost.dma(V2, size, size, size, dram_sides=0)
    assert both.busy_ns == pytest.approx(2 * size / 410)
    assert none.busy_ns < size / 410


def test_dma_engine_rate_is_a_parameter() -> None:
    slow = V2.override({"dma.engine_bytes_per_ns": "17", "descriptor_overhead_ns": "0"})
    assert 2**24 / cost.dma(slow, 2**24, 4096, 4096).busy_ns == pytest.approx(272)


def test_gather() -> None:
    rows = cost.gather(V2, 256, 3072, 3072)
    assert rows.gpsimd.busy_ns * 1.4 == pytest.approx(256 / 8 * 8 + 100)
    assert rows.dma == cost.dma(V2, 256 * 3072, 3072, 3072)


def test_bounds() -> None:
    assert cost.compute_bound_ns(V2, 128 * 128 * 512, "bf16") * 2.8 == pytest.approx(512)
    assert cost.dram_bound_ns(V2, 4100) == pytest.approx(10)
    slow = V2.override({"engine_bytes_per_ns": "10"})
    assert cost.dram_bound_ns(slow, 3200) == pytest.approx(10)  # 160 bytes/ns, if within DRAM


@given(
    st.integers(1, 8), st.integers(1, 8), st.integers(1, 16), st.sampled_from(["f32", "bf16", "i8"])
)
def test_nothing_beats_the_compute_bound(k: int, m: int, n: int, dtype: str) -> None:
    one = cost.matmul(TINY, k, m, n, dtype)
    assert cost.compute_bound_ns(TINY, k * m * n, dtype) <= one.busy_ns <= one.latency_ns


@given(st.integers(1, 5000), st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_a_result_is_never_there_before_the_engine_is_free(n: int, passes: list[int]) -> None:
    one = cost.lanes(V2, "vector", n, passes=passes)
    assert 0 < one.busy_ns <= one.latency_ns


# --- energy -------------------------------------------------------------------------------------


def test_energy() -> None:
    assert energy.mac_pj(V2, 10, "f32") == pytest.approx(46)
    assert energy.mac_pj(V2, 10, "i8") == pytest.approx(3)
    assert energy.mac_pj(V2, 10, "i32") == energy.mac_pj(V2, 10, "f32")
    assert energy.register_bytes(V2, "bf16") == 3 * 2 + 8
    assert energy.register_pj(V2, 10, "bf16") == pytest.approx(10 * 14 * 0.2)
    assert energy.register_pj(V2, 10, "i32") == energy.register_pj(V2, 10, "f32")
    results = V2.override({"tensor.dataflow": "output_stationary", "moving_columns": 128})
    assert energy.register_bytes(results, "i8") == 4 + 8
    assert energy.op_pj(V2, "vector", 10) == pytest.approx(46)
    assert energy.access_pj(V2, "dram", 4) == pytest.approx(640)
    assert energy.access_pj(V2, "sbuf", 4) == pytest.approx(5)
    assert energy.access_pj(V2, "psum", 4) == pytest.approx(5)
    assert energy.static_pj(V2, 2) == pytest.approx(2 * 5000)


# --- area ---------------------------------------------------------------------------------------


def test_area() -> None:
    """bf16 at full rate sets the multiplier: f32 at a quarter needs 2971, i8 at twice 838 um2."""
    found = area.estimate(V2)
    assert area.cell_um2(V2) == pytest.approx(5824 + (2 * 2 + 4) * 36.2)
    assert found.array == pytest.approx(128 * 128 * area.cell_um2(V2) / 1e6)
    assert found.sbuf == pytest.approx(24 * 2**20 * 5.9 / 1e6)
    assert found.psum == pytest.approx(2 * 2**20 * 11.8 / 1e6)
    assert found.vector == found.scalar == pytest.approx(128 * 0.023768)
    assert found.gpsimd == pytest.approx(2 * found.vector)
    assert found.dma == pytest.approx(1.6)
    assert found.dram_interface == pytest.approx(410 * 0.05)
    assert found.total_mm2 == pytest.approx(sum(found.parts_mm2.values()))


def test_area_of_an_array_is_set_by_the_type_that_needs_most() -> None:
    whole = V2.override({"tensor.cycles_per_row.f32": 1.0})
    assert area.cell_um2(whole) == pytest.approx(11884 + (2 * 4 + 4) * 36.2)
    rates = {f"tensor.cycles_per_row.{dtype}": 0.0 for dtype in ("f32", "bf16", "f16", "f8")}
    integers = V2.override({**rates, "default_dtype": "i8"})
    assert area.cell_um2(integers) == pytest.approx(2 * 419 + (2 + 4) * 36.2)


@given(st.sampled_from(["tensor.rows", "sbuf.bytes_per_partition", "psum.banks", "vector.lanes"]))
def test_less_of_a_part_takes_less_area(key: str) -> None:
    half = V2.override({key: V2.values()[key] // 2, "psum.open_groups": 1})
    assert area.estimate(half).total_mm2 < area.estimate(V2).total_mm2


# --- access patterns ----------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), max_size=5))
def test_a_dense_array_merges_to_one_dimension(shape: list[int]) -> None:
    strides = [1] * len(shape)
    for i in reversed(range(len(shape) - 1)):
        strides[i] = strides[i + 1] * shape[i + 1]
    elements = 1
    for size in shape:
        elements *= size
    assert access.contiguous_run(shape, strides) == elements
    assert len(access.merge_dims(shape, strides)) <= 1
    assert access.innermost_stride(shape, strides) == 1
