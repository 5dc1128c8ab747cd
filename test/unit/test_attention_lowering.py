"""Attention on flat targets computes what numpy computes, and moves exactly the planned bytes."""

import ml_dtypes
import numpy as np
import pytest
from attention_programs import AttentionProgram
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polystage.dialects import npu
from polystage.dialects.npu.target import target_attribute
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.flat.lowering import lower_flat
from polystage.passes.placement.allocate_scratchpad import AllocateScratchpadPass
from polystage.passes.placement.insert_sync import InsertSyncPass
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place, Plan
from polystage.planner.fusion.plan_attributes import write_plan
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import schedule
from polystage.simulator import simulate

HEADS, QUERIES, KEYS = 0, 1, 2
TOLERANCE = {"f32": 2e-6, "bf16": 2e-2}


def check(program, group, scale=1.0):
    """Run a program under a plan of one group, in a scratchpad of just what it needs; queries are
    random numbers times `scale`."""
    context = ir.Context()
    npu.load(context)
    module = ir.Module.parse(program.text(), context)
    with context, ir.Location.unknown():
        planned = Program.from_module(module)
        assert [operator.kind for operator in planned.operators] == ["attention"]
        expected = schedule(planned, group, ())
        target = Target.load("flat", {"scratchpad_bytes": expected.bytes})
        module.operation.attributes["npu.target"] = target_attribute(target)
        write_plan(planned, Plan((group,)))
        lower_flat(module, target)
        AllocateScratchpadPass().run(module)
        InsertSyncPass().run(module)
    inputs = program.inputs()
    inputs["q"] *= scale
    result = simulate(module, inputs)
    assert result.totals.dram_read_bytes == sum(expected.read_bytes.values())
    assert result.totals.dram_write_bytes == sum(expected.write_bytes.values())
    if program.dtype == "bf16":
        inputs = {n: x.astype(ml_dtypes.bfloat16).astype("f4") for n, x in inputs.items()}
    (output,) = result.outputs.values()
    difference = np.abs(output.astype("f8") - program.expected(inputs))
    assert difference.max() < TOLERANCE[program.dtype] * max(1, np.abs(output).max())
    return result, module


def group_for(program, chunks, loops=(), **places):
    """Return a group with places for exactly the arrays of a program."""
    context = ir.Context()
    npu.load(context)
    found = Program.from_module(ir.Module.parse(program.text(), context))
    nest = Nest(tuple(Loop(*chunk) for chunk in chunks))
    names = {name: places.get(name, Place.STREAMED) for name in found.arrays}
    return Group((0,), tuple(Loop(*loop) for loop in loops), (nest,), names)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("form", ["softmax", "late", "plain", "guarded", "none"])
def test_every_form(form, dtype):
    mask = "qk" if form in ("softmax", "guarded") else ""
    program = AttentionProgram(form=form, mask=mask, dtype=dtype)
    check(program, group_for(program, [(HEADS, 1), (QUERIES, 2), (KEYS, 3)]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_remainder(data):
    """Tiles that divide nothing, keys on chip or not, one query or one key."""
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    program = AttentionProgram(
        heads=draw(1, 2),
        queries=draw(2, 7),
        keys=draw(2, 8),
        depth=draw(2, 5),
        values=draw(2, 5),
        form=data.draw(st.sampled_from(["softmax", "late", "guarded", "none"])),
        transposed=data.draw(st.booleans()),
    )
    chunks = [(QUERIES, draw(1, program.queries)), (KEYS, draw(1, program.keys))]
    first = [0] if program.heads > 1 else []
    shift = 0 if program.heads > 1 else -1  # one head is no dim
    chunks = [(0, 1)] * len(first) + [(dim + shift, tile) for dim, tile in chunks]
    check(program, group_for(program, chunks))


def test_keys_stay_on_chip_where_steps_say_so():
    """Keys and values of a head come once, however many tiles of queries there are."""
    program = AttentionProgram(mask="hqk")
    loops = [(HEADS, 1), (QUERIES, 2)]
    kept = dict.fromkeys(("k", "v"), Place.WINDOW)
    result, _ = check(program, group_for(program, [(KEYS, 3)], loops, **kept))
    moved = sum(4 * int(np.prod(shape)) for shape in program.shapes().values())
    assert result.totals.dram_read_bytes == moved


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_queries_may_run_inside_of_the_keys(dtype):
    """Maxima, sums and results of all queries are under way at once; a tile of keys comes once."""
    program = AttentionProgram(queries=7, keys=8, form="guarded", mask="qk", dtype=dtype)
    chunks = [(HEADS, 1), (KEYS, 3), (QUERIES, 2)]
    check(program, group_for(program, chunks))
    stepped = group_for(program, chunks[1:], [(HEADS, 1), (QUERIES, 4)], q=Place.WINDOW)
    result, _ = check(program, stepped)
    shapes = {name: int(np.prod(shape)) for name, shape in program.shapes().items()}
    once, twice = shapes["q"] + 2 * shapes["mask"], 2 * (shapes["k"] + shapes["v"])
    assert result.totals.dram_read_bytes == (once + twice) * (4 if dtype == "f32" else 2)


def test_one_tile_of_keys_shrinks_nothing():
    """Where a tile holds all keys, neither a factor is computed nor the result scaled."""
    program = AttentionProgram()
    _, module = check(program, group_for(program, [(HEADS, 1), (QUERIES, 2)]))
    assert "@shrink" not in str(module)
    _, module = check(program, group_for(program, [(HEADS, 1), (QUERIES, 2), (KEYS, 3)]))
    assert "@shrink" in str(module)


def test_scores_far_apart_do_not_overflow():
    """exp(score) alone would be infinite."""
    program = AttentionProgram()
    check(program, group_for(program, [(HEADS, 1), (QUERIES, 2), (KEYS, 3)]), scale=1000)


def test_length_does_not_change_the_text():
    """Loops over tiles are loops: 64 times as many keys make no longer program."""
    lines = []
    for length in (64, 4096):
        program = AttentionProgram(heads=2, queries=length, keys=length)
        context = ir.Context()
        npu.load(context)
        module = ir.Module.parse(program.text(), context)
        with context, ir.Location.unknown():
            group = group_for(program, [(HEADS, 1), (QUERIES, 16), (KEYS, 16)])
            write_plan(Program.from_module(module), Plan((group,)))
            lower_flat(module, Target.load("flat"))
        lines.append(str(module).count("\n"))
    assert lines[0] == lines[1]
