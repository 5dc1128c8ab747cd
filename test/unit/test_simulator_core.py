"""The compiled core gives what Python gives, to the last bit; and which of them is used."""

from contextlib import contextmanager
from dataclasses import astuple, replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_traces import Builder, patient, random_trace, traces

from polystage import compiled
from polystage.errors import PolystageError
from polystage.simulator.conflicts import with_order
from polystage.simulator.races import find_races, stuck_waits, unneeded_semaphores
from polystage.simulator.timeline import run_timeline
from polystage.simulator.trace import SBUF, Rates

needs_core = pytest.mark.skipif(not compiled.BUILT, reason="the compiled core was not built")

rates = st.builds(
    Rates,
    dma_startup_ns=st.integers(0, 30).map(lambda n: n / 7),
    dram_bytes_per_ns=st.sampled_from([0.5, 3.0, 10.0, inf]),
)


@contextmanager
def choice(which):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiled.CHOICE, which)
        yield


def both(function, *arguments):
    """Return what Python and what the compiled core give."""
    with choice("python"):
        assert not compiled.uses_core()
        first = function(*arguments)
    with choice("compiled"):
        assert compiled.uses_core()
        return first, function(*arguments)


def assert_same_bits(first, second):
    if isinstance(first, np.ndarray):
        assert first.dtype == second.dtype and first.shape == second.shape
        assert first.tobytes() == second.tobytes()
    elif isinstance(first, tuple):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same_bits(a, b)
    else:
        assert first == second


@needs_core
class TestSameBits:
    @patient
    @given(traces(size=120), st.sampled_from(["concurrent", "interlocked"]))
    def test_of_dependences(self, trace, order):
        first, second = both(with_order, trace, order)
        assert_same_bits((first.after_start, first.after), (second.after_start, second.after))

    @patient
    @given(traces(size=120), st.integers(0, 5))
    def test_of_races(self, trace, limit):
        assert_same_bits(*(astuple(r) for r in both(find_races, trace, limit)))

    @patient
    @given(traces())
    def test_of_semaphores(self, trace):
        assert_same_bits(*both(stuck_waits, trace))
        assert_same_bits(*both(unneeded_semaphores, trace))

    @patient
    @given(
        st.lists(traces(size=120), max_size=3),
        rates,
        st.sampled_from([None, "concurrent", "interlocked", "sequential"]),
    )
    def test_of_times(self, cores, rates, order):
        if order:
            cores = [with_order(trace, order) for trace in cores]
        assert_same_bits(*(astuple(t) for t in both(run_timeline, cores, rates)))

    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 2**32 - 1), rates)
    def test_of_long_programs(self, seed, rates):
        trace = random_trace(2000, 0, seed)
        first, second = both(with_order, trace, "interlocked")
        assert_same_bits(first.after, second.after)
        assert_same_bits(*(astuple(t) for t in both(run_timeline, [first, trace], rates)))


def test_python_is_used_where_there_is_no_core(monkeypatch):
    monkeypatch.setattr(compiled, "BUILT", False)
    monkeypatch.delenv(compiled.CHOICE, raising=False)
    assert not compiled.uses_core()


def test_a_core_that_was_not_built_cannot_be_asked_for(monkeypatch):
    monkeypatch.setattr(compiled, "BUILT", False)
    monkeypatch.setenv(compiled.CHOICE, "compiled")
    with pytest.raises(PolystageError) as error:
        compiled.uses_core()
    assert str(error.value).startswith(
        "POLYSTAGE_CORE=compiled, but the compiled core of Polystage was not built"
    )
    assert "install a C++ compiler and Polystage again, or unset the variable" in error.value.help


def one_write():
    b = Builder([(SBUF, 0, (0, 4), (0, 1), -1, [(0, 1), (0, 1)])], [0])
    b.compute("vector", 1.0, writes=[0])
    b.signal("vector", 0)
    return b.trace()


@needs_core
@pytest.mark.parametrize(
    ("change", "function"),
    [
        ({"region": np.array([1], np.int32)}, lambda t: find_races(t)),
        ({"access_start": np.array([0, 2, 2])}, lambda t: find_races(t)),
        ({"access_start": np.array([0, 1])}, lambda t: with_order(t, "interlocked")),
        ({"queue": np.array([1, 6], np.uint8)}, lambda t: find_races(t)),
        ({"semaphore": np.array([-1, 1], np.int32)}, lambda t: find_races(t)),
        ({"semaphore": np.array([-1, -1], np.int32)}, lambda t: run_timeline([t], Rates(0.0, inf))),
        ({"after": np.array([2])}, lambda t: run_timeline([t], Rates(0.0, inf))),
        ({"kind": np.array([0, 5], np.uint8)}, lambda t: run_timeline([t], Rates(0.0, inf))),
        ({"busy_ns": np.zeros(1)}, lambda t: run_timeline([t], Rates(0.0, inf))),
    ],
)
def test_the_core_refuses_numbers_that_point_nowhere(change, function):
    trace = replace(one_write(), after_start=np.array([0, 0, 1]), after=np.array([0]))
    with choice("compiled"):
        function(trace)
        with pytest.raises((IndexError, ValueError)):
            function(replace(trace, **change))
