"""Latency and energy planned from a schedule, beside those of the simulated program."""

import pytest
from attention_programs import AttentionProgram
from fusion_programs import Graph, parse
from hypothesis import given, settings
from hypothesis import strategies as st
from npu_programs import Kernel, chain, dram
from npu_programs import program as calls
from test_flat_lowering import plans
from test_fusion_schedule import programs

from polystage.dialects.npu.target import target_attribute
from polystage.errors import PlanError
from polystage.machine import Target
from polystage.mlir import func, ir
from polystage.passes.placement.planned_latency import EXPECTED, write_planned_latency
from polystage.pipeline import run_pipeline
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place, Plan
from polystage.planner.fusion.latency import Latency, latency_of
from polystage.planner.fusion.latency.addresses import Occupants, ProgramText
from polystage.planner.fusion.latency.pieces import Form, Iterations, Layout, refine
from polystage.planner.fusion.placement import place
from polystage.planner.fusion.plan_attributes import planned_costs, write_plan
from polystage.planner.fusion.plan_program import plan_program
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import resident_before, schedule
from polystage.simulator import simulate
from polystage.simulator.result import Cost

PASSES = "builtin.module(convert-linalg-to-npu,npu-allocate-scratchpad,npu-insert-sync)"


def flat(scratchpad_bytes: int) -> Target:
    return Target.load("flat", {"scratchpad_bytes": scratchpad_bytes})


def planned_and_simulated(program: Program, plan: Plan, target: Target) -> tuple[Latency, Cost]:
    """Return what a plan is expected to take, and what it takes.

    Raises: PlanError where it cannot be carried out.
    """
    schedules = [
        schedule(program, group, resident)
        for group, resident in zip(plan.groups, resident_before(program, plan), strict=True)
    ]
    placement = place(program, plan, schedules, target.sbuf.bytes)
    planned = latency_of(program, target, plan, schedules, placement)
    module = program.module
    with module.context, ir.Location.unknown():
        if "arg_attrs" not in program.main.attributes:
            count = len(program.main.regions[0].blocks[0].arguments)
            names = [ir.StringAttr.get(f"arg{number}") for number in range(count)]
            attributes = [ir.DictAttr.get({"npu.name": name}) for name in names]
            program.main.attributes["arg_attrs"] = ir.ArrayAttr.get(attributes)
        module.operation.attributes["npu.target"] = target_attribute(target)
        write_plan(program, plan)
    run_pipeline(module, PASSES)
    return planned, simulate(module, timing_only=True).totals


def check(program: Program, plan: Plan, target: Target, apart: float = 0.05) -> None:
    planned, simulated = planned_and_simulated(program, plan, target)
    assert simulated.latency_ns == pytest.approx(planned.total_ns, rel=apart)
    assert simulated.total_energy_pj == pytest.approx(planned.energy_pj, rel=apart)
    assert sum(planned.groups_ns) == pytest.approx(planned.total_ns)


def sliding(program: Program, *loops: Loop) -> Plan:
    """All operators in one group, with windows of everything."""
    count = len(program.operators)
    places = dict.fromkeys(program.arrays, Place.WINDOW)
    return Plan((Group(tuple(range(count)), loops, (Nest(),) * count, places),))


def matmul(m: int, k: int, n: int) -> Program:
    return parse(f"""
      func.func @main(%a: memref<{m}x{k}xf32>, %b: memref<{k}x{n}xf32>) -> memref<{m}x{n}xf32> {{
        %c = memref.alloc() : memref<{m}x{n}xf32>
        linalg.generic {{indexing_maps = [affine_map<(m, n) -> (m, n)>],
          iterator_types = ["parallel", "parallel"]}} outs(%c : memref<{m}x{n}xf32>) {{
        ^bb0(%old: f32):
          %zero = arith.constant 0.0 : f32
          linalg.yield %zero : f32
        }}
        linalg.generic {{
          indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>,
                           affine_map<(m, n, k) -> (m, n)>],
          iterator_types = ["parallel", "parallel", "reduction"]}}
          ins(%a, %b : memref<{m}x{k}xf32>, memref<{k}x{n}xf32>)
          outs(%c : memref<{m}x{n}xf32>) {{
        ^bb0(%x: f32, %y: f32, %z: f32):
          %p = arith.mulf %x, %y : f32
          %s = arith.addf %z, %p : f32
          linalg.yield %s : f32
        }}
        return %c : memref<{m}x{n}xf32>
      }}""")


@pytest.mark.parametrize("scratchpad_bytes", [14_000, 1 << 20])
@pytest.mark.parametrize(
    "chunks", [(), ((0, 16), (1, 16)), ((0, 32), (2, 8)), ((2, 4), (0, 8)), ((0, 1), (1, 30))]
)
def test_a_matmul_chunk_by_chunk(chunks, scratchpad_bytes):
    """Also where loads and matmuls take turns, since there is room for one chunk."""
    program = matmul(64, 48, 80)
    if not chunks and scratchpad_bytes < 1 << 20:
        return
    nest = Nest(tuple(Loop(*chunk) for chunk in chunks))
    group = Group((0,), (), (nest,), dict.fromkeys(program.arrays, Place.STREAMED))
    check(program, Plan((group,)), flat(max(scratchpad_bytes, schedule(program, group).bytes)))


def test_of_many_chunks_a_few_are_walked_through():
    """The loop of 512 trips costs as much to plan as one of 16."""
    program = matmul(32, 4096, 32)
    nest = Nest((Loop(2, 8),))
    group = Group((0,), (), (nest,), dict.fromkeys(program.arrays, Place.STREAMED))
    check(program, Plan((group,)), flat(1 << 16))


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_padded_convolutions_slide(rows):
    graph = Graph()
    first = graph.conv(graph.input(8, 26, 24), 12, 3, padding=1)
    program = graph.program(graph.conv(first, 8, 3, stride=2, padding=1))
    check(program, sliding(program, Loop(1, rows)), flat(1 << 24))


@pytest.mark.parametrize(
    "loops", [(Loop(3, 2),), (Loop(3, 1), Loop(1, 38)), (Loop(1, 6), Loop(4, 1))]
)
def test_sums_last_over_steps(loops):
    graph = Graph()
    program = graph.program(graph.conv(graph.input(5, 40, 40), 3, 3))
    check(program, sliding(program, *loops), flat(1 << 24))


def test_dense_connections_and_concatenation():
    graph = Graph()
    source = graph.input(2, 25, 20)
    first = graph.conv(source, 3, 3, padding=1)
    second = graph.twice(source, first)
    program = graph.program(graph.elementwise(second))
    check(program, sliding(program, Loop(1, 5)), flat(1 << 24))


@pytest.mark.parametrize("form", ["softmax", "late", "plain", "guarded", "none"])
def test_attention(form):
    mask = "qk" if form in ("softmax", "guarded") else ""
    text = AttentionProgram(
        heads=2, queries=64, keys=96, depth=32, form=form, mask=mask, dtype="bf16"
    ).text()
    program = parse(text)
    nest = Nest((Loop(0, 1), Loop(1, 32), Loop(2, 32)))
    group = Group((0,), (), (nest,), dict.fromkeys(program.arrays, Place.STREAMED))
    check(program, Plan((group,)), flat(1 << 20))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_plans_of_random_programs(data):
    """Tiny ones, of which every start-up is a large part."""
    program = data.draw(programs())
    plan = data.draw(plans(program))
    try:
        planned, simulated = planned_and_simulated(program, plan, flat(1 << 24))
    except PlanError:
        return
    assert simulated.latency_ns == pytest.approx(planned.total_ns, rel=0.15)


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_an_objective_is_met(objective):
    """No plan for latency or energy takes more of it than the plan for traffic."""
    program, target = matmul(64, 256, 64), flat(12_000)
    costs = {
        "latency": lambda planned: planned.latency.total_ns,
        "energy": lambda planned: planned.latency.energy_pj,
    }
    plain = plan_program(program, target)
    found = plan_program(program, target, objective)
    assert costs[objective](found) <= costs[objective](plain)
    assert plain.traffic <= found.traffic


def test_room_for_second_places_makes_a_plan_faster():
    """Where a plan for traffic fills the scratchpad, loads wait for what they bring next."""
    program, target = matmul(128, 512, 128), flat(40_000)
    plain = plan_program(program, target).latency.total_ns
    found = plan_program(program, target, "latency").plan
    planned, simulated = planned_and_simulated(program, found, target)
    assert simulated.latency_ns == pytest.approx(planned.total_ns, rel=0.05)
    assert simulated.latency_ns < 0.7 * plain


# --- targets with partitions ----------------------------------------------------------------------


def two_kernels() -> ir.Module:
    """Kernels one after the other, the second of what the first makes."""
    first = Kernel("first", x=dram(128, 512), t=dram(128, 512))
    chain(first, first.x, first.t, 0, functions=6)
    second = Kernel("second", t=dram(128, 512), y=dram(128, 512))
    chain(second, second.t, second.y, 0, functions=3)
    return calls(first, second)


def test_kernels_of_a_program():
    """What the scheduler expects of them is what the simulator says."""
    module = two_kernels()
    records = run_pipeline(module, "builtin.module(npu-schedule-instructions,npu-insert-sync)")
    planned = planned_costs(module)
    assert planned == {"nanoseconds": records[0].statistics["planned nanoseconds"]}
    simulated = simulate(module, timing_only=True).totals
    assert simulated.latency_ns == pytest.approx(planned["nanoseconds"], rel=0.05)


def test_no_latency_where_a_kernel_has_none():
    module = two_kernels()
    functions = [op for op in module.body.operations if isinstance(op, func.FuncOp)]
    first, second = (f for f in functions if "npu.kernel" in f.attributes)
    with module.context:
        first.attributes[EXPECTED] = ir.FloatAttr.get_f64(700.0)
        assert write_planned_latency(module) is None
        assert planned_costs(module) is None
        second.attributes[EXPECTED] = ir.FloatAttr.get_f64(300.0)
        assert write_planned_latency(module) == 1000
    assert planned_costs(module) == {"nanoseconds": 1000}


# --- what it is made of ---------------------------------------------------------------------------


@given(
    st.integers(1, 9), st.integers(1, 5), st.integers(0, 20), st.integers(1, 3), st.integers(2, 12)
)
def test_pieces_make_up_a_box_and_do_not_wrap(rows, taps, start, stride, extent):
    """A window of `extent` rows, read at `stride * row + tap`."""
    box = Iterations((start, 0), (rows, taps))
    axes = [Form(0, ((0, stride), (1, 1)))]
    layout = Layout((1,), (extent,))
    seen = set()
    for piece, _ in refine(box, lambda part: layout.check(axes, part)):
        low, high = axes[0].ends(piece)
        assert low // extent == high // extent
        for row in range(piece.sizes[0]):
            for tap in range(piece.sizes[1]):
                point = piece.starts[0] + row, piece.starts[1] + tap
                assert point not in seen
                seen.add(point)
    assert len(seen) == rows * taps


def test_bytes_are_taken_from_whoever_had_them():
    occupants = Occupants()
    assert occupants.take(0, 10, 0) == []
    assert occupants.take(10, 20, 1) == []
    assert occupants.take(5, 15, 2) == [0, 1]
    assert occupants.take(0, 20, 3) == [0, 2, 1]


def test_a_loop_reserves_its_buffers_once():
    text = ProgramText()
    with text.loop(3) as loop:
        for trip in range(3):
            text.begin(loop)
            buffer, times = text.reserve(64, 0, is_weight=False)
            text.use(buffer, "dma0")
            text.use(buffer, "tensor")
            assert times == trip
    assert len(text.reserved) == 1
    assert text.reserved[0].places == 2
