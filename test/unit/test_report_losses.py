"""The seven steps from peak to achieved: each a bound, their product the measured utilisation."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystage.machine import Target
from polystage.report.losses import (
    STEPS,
    Contraction,
    losses,
    parallel_steps_cycles,
    program_losses,
)

TINY = Target.load("tiny")
TARGETS = [TINY, Target.load("neuroncore_v2"), Target.load("scalesim_os")]
sizes = st.integers(1, 200)
contraction = st.builds(Contraction, st.integers(1, 4), sizes, sizes, sizes, st.integers(1, 3))


def tiles(nest, target, columns):
    """Return the matmuls that carry out a contraction, cut at the array's edges."""
    found = {}
    dtype = target.default_dtype
    for k in pieces(nest.k, target.tensor.rows):
        for m in pieces(nest.m, target.tensor.columns):
            for n in pieces(nest.n, columns):
                key = (k, m, n, dtype)
                found[key] = found.get(key, 0) + nest.batch * nest.count
    return found


def pieces(extent, tile):
    return [min(tile, extent - start) for start in range(0, extent, tile)]


@given(contraction, st.sampled_from(TARGETS))
def test_no_step_of_the_shape_is_below_the_one_before(nest, target):
    cycles = parallel_steps_cycles(nest, target)
    assert len(cycles) == 5
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(cycles))


@given(
    contraction, st.sampled_from(TARGETS[:2]), st.integers(1, 64), st.floats(0, 9), st.floats(1, 9)
)
def test_the_product_is_the_measured_utilisation(nest, target, columns, busy, slower):
    matmuls = tiles(nest, target, columns)
    issue = sum(
        count * max(n, target.tensor.min_issue_cycles) for (_, _, n, _), count in matmuls.items()
    )
    per_row = getattr(target.tensor.cycles_per_row, target.default_dtype)
    issue_ns = issue * per_row / target.tensor.clock_ghz
    measured = issue_ns * (1 + busy) * slower
    found = losses(target, matmuls, [nest], {"dma": issue_ns * busy}, measured)
    peak_ns = nest.macs / target.tensor.macs_per_ns(target.default_dtype)
    assert found is not None and len(found.factors) == len(STEPS) == 7
    assert math.isclose(math.prod(found.factors), peak_ns / measured, rel_tol=1e-12)
    assert math.isclose(found.utilization, peak_ns / measured, rel_tol=1e-12)
    assert all(0 < factor <= 1 + 1e-12 for factor in found.factors)
    assert found.times_ns[4] <= found.times_ns[5] * (1 + 1e-12)  # tiles cover the contraction
    assert math.isclose(found.times_ns[5], issue_ns, rel_tol=1e-12)


@given(st.lists(st.tuples(contraction, st.floats(1, 5)), min_size=1, max_size=5))
def test_the_product_of_a_program_is_its_utilisation(layers):
    parts, busy = [], 0.0
    for nest, slower in layers:
        matmuls = tiles(nest, TINY, 16)
        issue = sum(c * max(n, 4) * 4.0 for (_, _, n, _), c in matmuls.items())
        parts.append(losses(TINY, matmuls, [nest], {"tensor": issue}, issue * slower))
        busy += issue
    whole = program_losses([None, *parts], {"tensor": busy}, 1.5 * busy)
    assert whole is not None
    macs = sum(nest.macs for nest, _ in layers)
    assert math.isclose(math.prod(whole.factors), macs / 16 / (1.5 * busy), rel_tol=1e-9)
    assert all(factor <= 1 + 1e-12 for factor in whole.factors)


class TestEveryStepSaysWhatItShould:
    def of(self, nest, matmuls=None, busy=0.0, measured=0.0):
        """On the 8 x 8 array of `tiny` at 1 GHz; f32 takes 4 cycles per row."""
        matmuls = matmuls or tiles(nest, TINY, 16)
        issue = sum(c * max(n, 4) * 4.0 for (_, _, n, _), c in matmuls.items())
        found = losses(TINY, matmuls, [nest], {"dma": busy}, measured or max(issue, busy))
        return dict(zip([s.key for s in STEPS], found.factors, strict=True))

    def only(self, factors, **expected):
        assert factors == pytest.approx(dict.fromkeys(factors, 1.0) | expected)

    def test_shape(self):
        """16 multiplications for 64 PEs; one column does not fill the least issue interval, 4."""
        self.only(self.of(Contraction(1, 4, 1, 4)), shape=0.25, storage=0.25)

    def test_dataflow(self):
        self.only(self.of(Contraction(1, 4, 16, 8)), dataflow=0.5)

    def test_number_of_pes(self):
        self.only(self.of(Contraction(1, 12, 16, 8)), pes=0.75)

    def test_array_dimensions(self):
        self.only(self.of(Contraction(1, 16, 16, 4)), array=0.5)

    def test_storage(self):
        nest = Contraction(1, 8, 16, 8)
        self.only(self.of(nest, {(8, 8, 2, "f32"): 8}), storage=0.5)

    def test_bandwidth(self):
        self.only(self.of(Contraction(1, 8, 16, 8), busy=128.0), bandwidth=0.5)

    def test_stalls(self):
        self.only(self.of(Contraction(1, 8, 16, 8), measured=256.0), stalls=0.25)


def test_an_array_that_holds_the_result_streams_the_contraction():
    target = Target.load("scalesim_os")
    rows, columns = target.tensor.rows, target.tensor.columns
    full = parallel_steps_cycles(Contraction(1, m=columns, n=rows, k=1000), target)
    assert full == (1000.0,) * 5
    half = parallel_steps_cycles(Contraction(1, m=columns, n=rows // 2, k=1000), target)
    assert half == (500.0, 500.0, 1000.0, 1000.0, 1000.0)


def test_without_multiplications_there_is_nothing_to_break_down():
    assert losses(TINY, {}, [], {"vector": 5.0}, 9.0) is None
    assert program_losses([None, None], {"vector": 5.0}, 9.0) is None


def test_contractions_that_do_not_match_the_matmuls_are_not_believed():
    matmuls = {(8, 8, 16, "f32"): 2}
    wrong = losses(TINY, matmuls, [Contraction(1, 3, 3, 3)], {}, 1000.0)
    assert wrong == losses(TINY, matmuls, [], {}, 1000.0)
    assert wrong.times_ns[:2] == (128.0, 128.0)


def test_types_have_their_own_rates():
    both = {(8, 8, 16, "f32"): 1, (8, 8, 16, "bf16"): 1}
    found = losses(TINY, both, [], {}, 160.0)
    assert found.times_ns[0] == pytest.approx(16 * 4 + 16)
    assert found.utilization == pytest.approx(0.5)
