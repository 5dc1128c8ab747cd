"""Schedules carried out element by element: nothing twice, nothing missing, bytes as said."""

import numpy as np
import pytest
from fusion_programs import Graph, memref
from fusion_replay import Replay, streamed_bytes
from hypothesis import event, given, settings
from hypothesis import strategies as st

from polystage.errors import PlanError
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place, Plan
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import (
    Purpose,
    nest_buffers,
    nest_traffic,
    resident_before,
    schedule,
)


@st.composite
def programs(draw) -> Program:
    """Chains, joins and branches of a few operations."""
    graph = Graph()
    rows, columns = draw(st.integers(5, 9)), draw(st.integers(4, 6))
    values = [graph.input(draw(st.integers(1, 2)), rows, columns)]
    last = ""
    for _ in range(draw(st.integers(1, 4))):
        source = draw(st.sampled_from(values[-2:]))
        kinds = ["conv", "pool", "relu", "add", "joined", "windows", "flattened"]
        last = _add(graph, draw, draw(st.sampled_from(kinds)), source, values)
        if len(graph.shapes[last]) < 3:
            break
        values.append(last)
    results = [last]
    if len(values) > 2 and draw(st.booleans()) and values[-2] != last:
        results.append(values[-2])
    inputs = {name for name, _ in graph.inputs}
    return graph.program(*[result for result in results if result not in inputs])


def _add(graph: Graph, draw, kind: str, source: str, values: list[str]) -> str:
    depth, *size = graph.shapes[source]
    same = [v for v in values if v != source and list(graph.shapes[v][1:]) == size]
    if kind == "conv":
        kernel = draw(st.integers(1, 3))
        padding = draw(st.integers(0, kernel // 2))
        dilation = draw(st.integers(1, 2)) if min(size) > 2 * kernel else 1
        stride = draw(st.integers(1, 2))
        if min(size) + 2 * padding > dilation * (kernel - 1):
            channels = draw(st.integers(1, 3))
            return graph.conv(source, channels, kernel, stride, dilation, padding)
    if kind == "pool" and min(size) >= 3:
        return graph.pool(source, draw(st.integers(2, 3)), draw(st.integers(1, 2)))
    if kind == "add" and [v for v in same if graph.shapes[v][0] == depth]:
        return graph.elementwise(
            source, draw(st.sampled_from([v for v in same if graph.shapes[v][0] == depth]))
        )
    if kind == "joined" and same:
        return graph.twice(draw(st.sampled_from(same)), source)
    if kind == "windows":
        target = graph.alloc(depth + 2, *size)
        window = (*graph.window(target, 0, depth), target)
        graph.elementwise(source, target=window)
        graph.conv(source, 2, 1, target=(*graph.window(target, depth, 2), target))
        return target
    if kind == "flattened":
        return graph.flattened(source, draw(st.integers(1, 3)))
    return graph.elementwise(source)


@st.composite
def groups(draw, program: Program) -> Group:
    count = len(program.operators)
    start = draw(st.integers(0, count - 1))
    stop = draw(st.integers(start + 1, count))
    members = tuple(range(start, stop))
    sink = program.operators[stop - 1]
    dims = draw(st.permutations(range(len(sink.extents))))[: draw(st.integers(0, 2))]
    loops = tuple(Loop(dim, draw(st.integers(1, 4))) for dim in dims)
    nests = tuple(draw(nests_of(program.operators[index])) for index in members)
    places: dict[str, Place] = {}
    for name in dict.fromkeys(n for i in members for n in program.operators[i].arrays):
        writes = [i for i in members if i in program.writers(name)]
        reads = [i for i in members if i in program.readers(name)]
        allowed = [Place.WINDOW, Place.WHOLE, Place.RESIDENT]
        if not (writes and reads):
            allowed.append(Place.STREAMED)
        places[name] = draw(st.sampled_from(allowed))
    return Group(members, loops, nests, places)


@st.composite
def nests_of(draw, operator) -> Nest:
    dims = draw(st.permutations(range(len(operator.extents))))[: draw(st.integers(0, 3))]
    return Nest(tuple(Loop(dim, draw(st.integers(1, 4))) for dim in dims))


class TestReplay:
    @settings(max_examples=250, deadline=None)
    @given(st.data())
    def test_every_step_finds_what_it_reads_and_bytes_are_those_that_move(self, data):
        program = data.draw(programs())
        group = data.draw(groups(program))
        resident = frozenset(
            name
            for name, place in group.places.items()
            if place is Place.RESIDENT
            and not any(index in group.operators for index in program.writers(name))
            and data.draw(st.booleans())
        )
        try:
            found = schedule(program, group, resident)
        except PlanError as error:
            event(f"refused: {error.message[-40:]}")
            return
        event(f"operators {len(group.operators)}, steps {min(found.steps, 5)}")
        Replay(program, group, found, resident).run()
