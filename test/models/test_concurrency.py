"""Models under full concurrency compute the bits of sequential execution, without a race.

All models, with what overlap is worth: benchmarks/concurrency.py. Every test that simulates a model
with numbers runs it concurrently and looks for races, too.
"""

import concurrency
import models
import pytest
from models import small_cases

import polystage as ps


def measured(name, dtype, target):
    return concurrency.measure(name, models.load(name), dtype, target)


@pytest.mark.parametrize("target", ["neuroncore_v2", "tiny"])
@pytest.mark.parametrize("name", [f"small/{name}" for name in small_cases.CASES])
def test_small_cases(name, target):
    row = measured(name, "f32", target)
    assert row.is_equal
    assert row.semaphores
    assert row.concurrent_ns <= row.sequential_ns
    assert row.bound_ns <= row.interlocked_ns


@pytest.mark.parametrize("name", ["light/shufflenet", "light/squeezenet"])
def test_light_models(name):
    row = measured(name, "bf16", "neuroncore_v2")
    assert row.is_equal
    assert row.speed_up > 1.5


def test_inferences_that_follow_each_other_do_not_race():
    model = models.load("light/resnet50")
    module = ps.compile(model.module, target="neuroncore_v2", dtype="bf16")
    result = ps.simulate(module, timing_only=True, check_races=True, inferences=3)
    assert result.order == "concurrent"
    slow = ps.simulate(module, timing_only=True, order="sequential", inferences=3)
    assert slow.totals.latency_ns > 1.5 * result.totals.latency_ns
