"""Plans of random programs, carried out on a flat target: the numbers, and the bytes that move."""

from collections import Counter

import numpy as np
import pytest
from fusion_programs import Graph
from hypothesis import event, given, settings
from hypothesis import strategies as st
from test_fusion_schedule import programs

from polystage.dialects.npu.target import target_attribute
from polystage.errors import PlanError
from polystage.evaluator.module_evaluator import evaluate
from polystage.machine import Target, parse_settings
from polystage.mlir import ir
from polystage.pipeline import run_pipeline
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place, Plan
from polystage.planner.fusion.plan_attributes import write_plan
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import resident_before, schedule
from polystage.polyhedral import Role
from polystage.simulator import simulate

SETTINGS = ("scratchpad_bytes=16777216",)
PASSES = "builtin.module(convert-linalg-to-npu,npu-allocate-scratchpad)"


@st.composite
def plans(draw, program: Program) -> Plan:
    count = len(program.operators)
    cuts = sorted(draw(st.sets(st.integers(1, count - 1))) if count > 1 else set())
    residents = {name for name in program.arrays if draw(st.integers(0, 4)) == 0}
    groups = [
        draw(groups_of(program, range(start, stop), residents))
        for start, stop in zip([0, *cuts], [*cuts, count], strict=True)
    ]
    return Plan(tuple(groups))


@st.composite
def nests_of(draw, operator) -> Nest:
    dims = draw(st.permutations(range(len(operator.extents))))[: draw(st.integers(0, 3))]
    tiles = [draw(st.integers(1, min(4, operator.extents[dim]))) for dim in dims]
    return Nest(tuple(Loop(dim, tile) for dim, tile in zip(dims, tiles, strict=True)))


@st.composite
def groups_of(draw, program: Program, members: range, residents: set[str]) -> Group:
    sink = program.operators[members[-1]]
    dims = draw(st.permutations(range(len(sink.extents))))[: draw(st.integers(0, 2))]
    loops = tuple(Loop(dim, draw(st.integers(1, min(4, sink.extents[dim])))) for dim in dims)
    nests = tuple(draw(nests_of(program.operators[index])) for index in members)
    places: dict[str, Place] = {}
    for name in dict.fromkeys(n for i in members for n in program.operators[i].arrays):
        inside = any(i in members for i in program.writers(name))
        allowed = [Place.WINDOW, Place.WHOLE]
        if not (inside and any(i in members for i in program.readers(name))):
            allowed.append(Place.STREAMED)
        places[name] = Place.RESIDENT if name in residents else draw(st.sampled_from(allowed))
    return Group(tuple(members), loops, nests, places)


def planned_bytes(program: Program, plan: Plan) -> tuple[Counter, Counter]:
    """Bytes read and written by role of the array.

    Raises: PlanError for a plan that cannot be carried out.
    """
    read, written = Counter(), Counter()
    for group, resident in zip(plan.groups, resident_before(program, plan), strict=True):
        steps = schedule(program, group, resident)
        for total, part in ((read, steps.read_bytes), (written, steps.write_bytes)):
            for name, count in part.items():
                total[str(program.arrays[name].role)] += count
    return +read, +written


def carried_out(program: Program, plan: Plan):
    """Lower, place and execute a plan; return the result and what was expected."""
    module = program.module
    rng = np.random.default_rng(0)
    with module.context, ir.Location.unknown():
        arguments = list(program.main.regions[0].blocks[0].arguments)
        inputs = {
            f"arg{i}": rng.integers(-3, 4, ir.MemRefType(v.type).shape).astype(np.float32)
            for i, v in enumerate(arguments)
        }
        names = [ir.DictAttr.get({"npu.name": ir.StringAttr.get(name)}) for name in inputs]
        program.main.attributes["arg_attrs"] = ir.ArrayAttr.get(names)
        expected = evaluate(module, {name: array.copy() for name, array in inputs.items()})
        target = Target.load("flat", parse_settings(SETTINGS))
        module.operation.attributes["npu.target"] = target_attribute(target)
        write_plan(program, plan)
    run_pipeline(module, PASSES)
    return simulate(module, inputs), expected


def check(program: Program, plan: Plan) -> None:
    read, written = planned_bytes(program, plan)
    result, expected = carried_out(program, plan)
    for name, array in expected.items():
        np.testing.assert_array_equal(result.outputs[name], array)
    assert result.totals.dram_read_by_cause == dict(read)
    assert result.totals.dram_write_by_cause == dict(written)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_plans_compute_the_program_and_move_what_was_planned(data):
    program = data.draw(programs())
    plan = data.draw(plans(program))
    try:
        planned_bytes(program, plan)
    except PlanError as error:
        event(f"refused: {error.message[-40:]}")
        return
    check(program, plan)


def sliding(program: Program, *loops: Loop) -> Plan:
    """All operators in one group, with windows of everything."""
    count = len(program.operators)
    places = dict.fromkeys(program.arrays, Place.WINDOW)
    return Plan((Group(tuple(range(count)), loops, (Nest(),) * count, places),))


@pytest.mark.parametrize("channels", [1, 3, 4, 10])
def test_a_hidden_part_of_an_array_is_not_loaded(channels):
    graph = Graph()
    shown, _ = graph.over(graph.input(4, 3, 5), graph.input(10, 3, 5))
    graph.shapes[shown] = (10, 3, 5)
    program = graph.program(graph.elementwise(shown))
    places = dict.fromkeys(program.arrays, Place.STREAMED)
    plan = Plan((Group((0,), (), (Nest((Loop(0, channels), Loop(1, 1))),), places),))
    read, _ = planned_bytes(program, plan)
    assert read == {"input": 10 * 3 * 5 * 4}
    check(program, plan)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_rows_that_a_tap_skips_at_a_border_are_not_loaded(stride):
    graph = Graph()
    program = graph.program(graph.conv(graph.input(1, 5, 4), 1, 2, stride=stride, padding=1))
    places = dict.fromkeys(program.arrays, Place.STREAMED)
    check(program, Plan((Group((0,), (), (Nest((Loop(4, 1),)),), places),)))


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_two_padded_convolutions_slide(rows):
    graph = Graph()
    first = graph.conv(graph.input(2, 11, 7), 3, 3, padding=1)
    program = graph.program(graph.conv(first, 2, 3, stride=2, padding=1))
    check(program, sliding(program, Loop(1, rows)))


@pytest.mark.parametrize(
    "loops", [(Loop(3, 2),), (Loop(3, 1), Loop(1, 2)), (Loop(1, 2), Loop(4, 1))]
)
def test_a_loop_over_a_reduction_keeps_its_sums(loops):
    graph = Graph()
    program = graph.program(graph.conv(graph.input(5, 6, 6), 3, 3))
    check(program, sliding(program, *loops))


def test_dense_connections_and_concatenation():
    graph = Graph()
    source = graph.input(2, 9, 6)
    first = graph.conv(source, 3, 3, padding=1)
    second = graph.twice(source, first)
    program = graph.program(graph.elementwise(second))
    assert any(a.role is Role.INTERMEDIATE for a in program.arrays.values())
    check(program, sliding(program, Loop(1, 2)))
