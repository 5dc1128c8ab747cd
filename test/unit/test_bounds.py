"""Lower bounds: what they are for hand-made counts, and that no instruction is faster."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystage.machine import Target, bounds, cost, energy

V2 = Target.load("neuroncore_v2")
TINY = Target.load("tiny")
OS = Target.load("scalesim_os")


@dataclass(frozen=True)
class Counts:
    matmuls: dict[tuple[int, int, int, str], int] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    compulsory_bytes: int = 0
    dram_read_bytes: int = 0
    dram_write_bytes: int = 0


def test_nothing_takes_no_time() -> None:
    found = bounds.bounds_of(V2, Counts())
    assert (found.program_ns, found.energy_pj) == (0, 0)


def test_types_have_their_rates() -> None:
    counts = Counts(matmuls={(128, 128, 512, "f32"): 1, (128, 128, 512, "i8"): 2})
    found = bounds.bounds_of(V2, counts)
    assert found.compute_ns * 2.8 == pytest.approx(4 * 512 + 2 * 256)
    assert found.array_ns == pytest.approx(found.compute_ns)


def test_what_a_matmul_leaves_empty_bounds_the_program_only() -> None:
    counts = Counts(matmuls={(64, 32, 16, "bf16"): 3})
    found = bounds.bounds_of(V2, counts)
    assert found.compute_ns * 2.8 == pytest.approx(3 * 64 * 32 * 16 / 128**2)
    assert found.array_ns * 2.8 == pytest.approx(3 * 64)  # issue interval
    assert found.problem_ns == found.compute_ns
    assert found.program_ns == found.array_ns


def test_an_output_stationary_array_streams_the_contraction() -> None:
    assert bounds.array_bound_ns(OS, {(30, 1, 5, "f32"): 2}) == pytest.approx(60)


def test_lanes() -> None:
    counts = Counts(operations={"vector": 128 * 112, "gpsimd": 128 * 7, "scalar": 0})
    assert bounds.bounds_of(V2, counts).lanes_ns == pytest.approx(50)  # two operations a pass
    slow = V2.override({"vector.fused_operations": 1})
    assert bounds.bounds_of(slow, counts).lanes_ns == pytest.approx(100)
    assert bounds.lanes_bound_ns(V2, "gpsimd", 128 * 7) == pytest.approx(10)


def test_bytes() -> None:
    counts = Counts(compulsory_bytes=4100, dram_read_bytes=41000, dram_write_bytes=4100)
    found = bounds.bounds_of(V2, counts)
    assert (found.compulsory_ns, found.dram_ns) == (pytest.approx(10), pytest.approx(110))
    assert (found.problem_ns, found.program_ns) == (found.compulsory_ns, found.dram_ns)


def test_energy() -> None:
    counts = Counts(matmuls={(1, 1, 1, "bf16"): 10}, compulsory_bytes=4100)
    expected = 10 * (2.0 + 14 * 0.2) + 4100 * 160 + energy.static_pj(V2, 10)
    assert bounds.bounds_of(V2, counts).energy_pj == pytest.approx(expected)


sizes = st.integers(1, 8)


@given(sizes, sizes, st.integers(1, 16), st.sampled_from(["f32", "bf16", "i8"]), st.booleans())
def test_no_matmul_is_faster(k: int, m: int, n: int, dtype: str, changed: bool) -> None:
    for target in (TINY, V2, OS):
        one = cost.matmul(target, k, m, n, dtype, changed)
        found = bounds.bounds_of(target, Counts(matmuls={(k, m, n, dtype): 1}))
        assert found.compute_ns <= found.array_ns * (1 + 1e-12)
        assert found.program_ns <= one.busy_ns * (1 + 1e-12)


@given(st.integers(1, 5000), st.integers(1, 128), st.lists(st.integers(0, 2), min_size=1))
def test_no_lane_instruction_is_faster(elements: int, partitions: int, passes: list[int]) -> None:
    for target in (TINY, V2):
        one = cost.lanes(target, "vector", elements, partitions=partitions, passes=passes)
        done = Counts(operations={"vector": elements * partitions * len(passes)})
        assert bounds.bounds_of(target, done).lanes_ns <= one.busy_ns * (1 + 1e-12)


@given(st.integers(1, 2**20), st.integers(1, 2**16), st.integers(0, 2), st.integers(1, 40))
def test_no_transfer_is_faster(total: int, run: int, sides: int, rate: int) -> None:
    target = V2.override({"dma.engine_bytes_per_ns": float(rate)})
    one = cost.dma(target, total, run, run, dram_sides=sides)
    done = Counts(compulsory_bytes=sides * total, dram_read_bytes=sides * total)
    assert bounds.bounds_of(target, done).program_ns <= one.busy_ns * (1 + 1e-12)
