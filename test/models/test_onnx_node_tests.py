"""A sample of the ONNX backend node tests, and how the benchmark that runs all judges them."""

import os
import signal
import time

import numpy as np
import onnx_node_tests as node_tests
import pytest
from onnx_node_tests import Case, Outcome

SAMPLES = {
    "partitions": (45, node_tests.Chain()),
    "flat": (120, node_tests.Chain(target="flat", settings=("scratchpad_bytes=4096",))),
}
"""Every so many-th case is run."""


@pytest.fixture(scope="module")
def selection():
    return node_tests.select(node_tests.load_tests())


@pytest.mark.parametrize(("every", "chain"), SAMPLES.values(), ids=SAMPLES)
def test_sampled_cases_pass_or_are_declined_with_a_reason(selection, every, chain):
    outcomes = {c.name: node_tests.run_case(c, chain) for c in selection.cases[::every]}
    assert {n: o for n, o in outcomes.items() if o.status == "failed"} == {}
    assert all(o.reason for o in outcomes.values() if o.status == "declined")
    passed = sum(o.status == "passed" for o in outcomes.values())
    assert passed >= node_tests.WANTED_SHARE * len(outcomes)


def test_attention_in_half_precision_is_no_single_operator_on_a_flat_scratchpad(selection):
    """Its scores are computed in f16, but the operator keeps them in f32."""
    (case,) = (c for c in selection.cases if c.name == "test_attention_4d_fp16")
    assert node_tests.run_case(case, SAMPLES["flat"][1]).status == "passed"


def test_every_case_is_selected_or_left_out_for_a_reason(selection):
    assert len(selection.cases) + selection.left_out.total() == len(node_tests.load_tests())
    assert len({case.name for case in selection.cases}) == len(selection.cases)


def test_data_of_the_input_is_never_a_constant(selection):
    for case in selection.cases:
        constants = {w.name for w in case.model.graph.initializer} & set(case.inputs)
        assert not constants, case.name


def case_of(outputs):
    return Case("case", None, {}, outputs, rtol=1e-3, atol=1e-7, has_constants=False)


@pytest.mark.parametrize(
    ("actual", "problem"),
    [
        (np.float32([1, 2]), ""),
        (np.float32([1, 2.001]), ""),
        (np.float32([1, 2.01]), "1 of 2 values differ, by up to 0.01"),
        (np.float32([1, np.nan]), "1 of 2 values differ, by up to nan"),
        (np.float32([[1, 2]]), "'y' is float32[1, 2], expected float32[2]"),
        (np.float64([1, 2]), "'y' is float64[2], expected float32[2]"),
    ],
)
def test_difference(actual, problem):
    case = case_of({"y": np.float32([1, 2])})
    assert node_tests.difference("y", {"y": actual}, case) == problem


def fate(case, chain):
    if case.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if case.name == "hangs":
        time.sleep(60)
    return Outcome("passed")


def test_a_crash_and_a_hang_are_failures_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(node_tests, "run_case", fate)
    names = ["lives", "dies", "lives too", "hangs", "lives as well"]
    cases = [Case(n, None, {}, {}, 0, 0, has_constants=False) for n in names]
    found = {
        c.name: o for c, o in node_tests.run_all(cases, node_tests.Chain(), jobs=1, timeout=1.0)
    }
    assert found["dies"].reason == "crashed with exit code -9"
    assert found["hangs"].reason == "took more than 1 s"
    assert [found[n].status for n in names] == ["passed", "failed", "passed", "failed", "passed"]
