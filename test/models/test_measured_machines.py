"""Counterfactual runs: what is taken away is gone, and nothing gets slower by it."""

from collections import Counter

import measured_machines as measured
import numpy as np
import pytest
from onnx import helper, numpy_helper

import polystage as ps
from polystage.mlir import ir
from polystage.simulator import simulate

MACHINE = measured.Machine("tiny", batch=2, cores=1, measured_per_s=(1.0, 1.0), measured_ms=None)


@pytest.fixture(scope="module")
def program() -> ir.Module:
    """Two convolutions on arrays so large that none of them stays on chip."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(8, 4, 3, 3)), "b": rng.normal(size=(4, 8, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "b"], ["c"], "second"),
        helper.make_node("Add", ["c", "x"], ["y"], "add"),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", 1, [1, 4, 48, 48])],
        [helper.make_tensor_value_info("y", 1, [1, 4, 48, 48])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return measured.compiled(ps.load(source, batch=MACHINE.batch), MACHINE, "bf16")


def causes(module: ir.Module) -> Counter[str]:
    transfers = [op for op in measured.operations(module.operation) if op.name == "npu.dma"]
    return Counter(ir.StringAttr(op.attributes["cause"]).value for op in transfers)


def test_only_the_named_transfers_are_gone(program: ir.Module) -> None:
    before = causes(program)
    assert before["weight"] and before["intermediate"] and before["output"]
    change = measured.Counterfactual("", without=measured.ON_CHIP)
    after = causes(measured.changed(program, MACHINE, change))
    assert after == Counter({c: n for c, n in before.items() if c not in measured.ON_CHIP})
    assert causes(program) == before


def test_nothing_is_slower_without_a_limit(program: ir.Module) -> None:
    def latency(change: measured.Counterfactual) -> float:
        changed = measured.changed(program, MACHINE, change)
        return simulate(changed, timing_only=True).totals.latency_ns

    first, *others = measured.COUNTERFACTUALS
    assert latency(first) == simulate(program, timing_only=True).totals.latency_ns
    for change in others:
        assert latency(change) < latency(first), change.name


def test_machines_are_presets_with_cores_enough() -> None:
    for machine in measured.MACHINES.values():
        assert ps.Target.load(machine.target).device.cores >= machine.cores
        for settings in machine.variants.values():
            ps.Target.load(machine.target, measured.parse_settings(settings))
