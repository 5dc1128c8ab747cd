"""Steps that grow from the sink backwards are those of the schedule of each group."""

import pytest
from fusion_programs import PRODUCT, Graph, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.errors import PlanError
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import GroupSchedule, Purpose, schedule
from polystage.planner.fusion.search.steps import Steps, steps_of_sink


def residual_block() -> Program:
    graph = Graph()
    source = graph.input(2, 9, 6)
    inner = graph.conv(graph.elementwise(source), 3, 3, padding=1)
    outer = graph.conv(inner, 2, 3, padding=1)
    return graph.program(graph.elementwise(outer, source))


def strided_chain() -> Program:
    graph = Graph()
    first = graph.conv(graph.input(1, 11, 7), 2, 3, stride=2, padding=1)
    return graph.program(graph.pool(graph.conv(first, 2, 3, dilation=1, padding=1), 2, 1))


def joined_branches() -> Program:
    graph = Graph()
    source = graph.input(2, 8, 5)
    left, right = graph.conv(source, 1, 1), graph.conv(source, 2, 3, padding=1)
    return graph.program(graph.conv(graph.twice(left, right), 2, 3, padding=1))


PROGRAMS = {f.__name__: f() for f in (residual_block, strided_chain, joined_branches)}
PROGRAMS["product"] = parse(PRODUCT)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_growing_groups_have_the_steps_of_their_schedules(data) -> None:
    program = PROGRAMS[data.draw(st.sampled_from(sorted(PROGRAMS)))]
    stop = data.draw(st.integers(1, len(program.operators)))
    sink = program.operators[stop - 1]
    dims = data.draw(st.lists(st.sampled_from(range(len(sink.extents))), max_size=2, unique=True))
    loops = tuple(Loop(d, data.draw(st.integers(1, sink.extents[d]))) for d in dims)
    sums_up = any(sink.iterators[loop.dim] == "reduction" for loop in loops)
    for start, steps in steps_of_sink(program, 0, stop, loops, sums_up):
        expected = scheduled(program, range(start, stop), loops)
        assert (steps is None) == (expected is None)
        if steps is not None and expected is not None:
            check_same(steps, *expected, sums_up)


def scheduled(
    program: Program, operators: range, loops: tuple[Loop, ...]
) -> tuple[GroupSchedule, list[str]] | None:
    """Return the schedule of a group, and its arrays, or None where there is none."""
    arrays = dict.fromkeys(n for index in operators for n in program.operators[index].arrays)
    places = dict.fromkeys(arrays, Place.WINDOW)
    group = Group(tuple(operators), loops, (Nest(),) * len(operators), places)
    try:
        return schedule(program, group), list(arrays)
    except PlanError:
        return None


def check_same(steps: Steps, expected: GroupSchedule, names: list[str], sums_up: bool) -> None:
    sizes = [computes[:, :, 1] - computes[:, :, 0] for computes in expected.computes]
    assert steps.boxes == tuple(tuple(size.max(axis=0).tolist()) for size in sizes)
    assert steps.times == tuple(int((size.prod(axis=1) > 0).sum()) for size in sizes)
    for name, window in zip(names, steps.windows, strict=True):
        (buffer,) = (b for b in expected.buffers if b.array == name)
        moved = expected.read_bytes.get(name, 0) + expected.write_bytes.get(name, 0)
        lives = range(buffer.operators[0], buffer.operators[1] + 1)
        assert (window.bytes, window.operators, window.traffic) == (buffer.bytes, lives, moved)
    last = len(sizes) - 1
    sums = sum(
        buffer.bytes
        for buffer in expected.buffers
        if buffer.purpose is Purpose.ACCUMULATOR and buffer.operators[1] == last
    )
    assert not sums_up or steps.sums == sums


@pytest.mark.parametrize("start", [0, 1, 2])
def test_the_last_one_begins_where_it_was_asked_to(start: int) -> None:
    program = PROGRAMS["residual_block"]
    stop = len(program.operators)
    found = [begin for begin, _ in steps_of_sink(program, start, stop, (Loop(1, 2),), False)]
    assert found == list(range(stop - 1, start - 1, -1))
