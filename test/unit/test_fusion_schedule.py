"""Schedules carried out element by element: nothing twice, nothing missing, bytes as said."""

import numpy as np
from fusion_programs import PRODUCT, Graph, parse, placed, together
from fusion_replay import Replay, replayed, streamed_bytes, window
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from polystage.errors import PlanError
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place, Plan
from polystage.planner.fusion.operators import OperatorKind
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
        rows = graph.flattened(source, draw(st.integers(1, 3)))
        return graph.unflattened(rows, size[1]) if draw(st.booleans()) else rows
    return graph.elementwise(source)


@st.composite
def groups(draw, program: Program) -> Group:
    count = len(program.operators)
    start = draw(st.integers(0, min(1, count - 1)))
    stop = count - draw(st.integers(0, min(1, count - start - 1)))
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
    @settings(max_examples=100, deadline=None)
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


class TestWindows:
    @staticmethod
    def chain(rows: int = 12, columns: int = 8):
        graph = Graph()
        first = graph.conv(graph.input(1, rows, columns), 2, 3, padding=1)
        return graph.program(graph.conv(first, 2, 3, padding=1))

    def test_rows_slide_and_are_computed_once(self):
        program = self.chain()
        found = replayed(program, together(program, Loop(1, 2)))
        assert found.computes[0][:, 1].tolist() == [
            [0, 3],
            [3, 5],
            [5, 7],
            [7, 9],
            [9, 11],
            [11, 12],
        ]
        middle = program.operators[0].write.array
        assert window(found, middle).shape == (2, 4, 8)
        assert window(found, "arg0").shape == (1, 4, 8)
        assert found.read_bytes["arg0"] == 12 * 8 * 4
        assert middle not in found.read_bytes and middle not in found.write_bytes

    def test_a_result_that_nobody_in_the_group_reads_follows_the_steps(self):
        graph = Graph()
        shared = graph.conv(graph.input(1, 12, 8), 2, 1)
        every_second = graph.pool(shared, 1, 2)
        program = graph.program(every_second, graph.conv(shared, 2, 3, padding=1))
        found = replayed(program, together(program, Loop(1, 1)))
        rows = found.computes[1][:, 1].tolist()
        assert rows[:5] == [[0, 1], [1, 2], [0, 0], [2, 3], [0, 0]] and rows[9] == [5, 6]
        assert window(found, program.operators[0].write.array).shape == (2, 3, 8)

    def test_a_loop_inside_of_a_sliding_one_keeps_its_axis_whole(self):
        program = self.chain()
        middle = program.operators[0].write.array
        inside = replayed(program, together(program, Loop(1, 2), Loop(2, 2)))
        assert window(inside, middle).shape == (2, 4, 8)
        outside = replayed(program, together(program, Loop(2, 2), Loop(1, 2)))
        assert window(outside, middle).shape == (2, 12, 4)

    def test_a_loop_that_shifts_nothing_keeps_tiles_apart(self):
        graph = Graph()
        first = graph.conv(graph.input(1, 6, 6), 2, 1)
        program = graph.program(graph.conv(first, 2, 1))
        found = replayed(program, together(program, Loop(1, 2), Loop(2, 3)))
        buffer = window(found, program.operators[0].write.array)
        assert buffer.shape == (2, 2, 3)
        assert buffer.operators == (0, 1)
        assert window(found, "arg1").operators == (0, 1)
        assert window(found, "arg0").operators == (0, 0)

    def test_layers_one_after_the_other_do_not_pay_for_the_sum(self):
        graph = Graph()
        value = graph.input(2, 8, 8)
        for _ in range(4):
            value = graph.conv(value, 2, 1)
        program = graph.program(value)
        found = replayed(program, together(program))
        image = 2 * 8 * 8 * 4
        assert found.bytes == 2 * image + 16
        assert [b.operators for b in found.buffers if b.array == "arg1"] == [(0, 0)]

    def test_rows_that_two_loops_number_are_computed_when_they_are_needed(self):
        graph = Graph()
        rows = graph.flattened(graph.input(2, 4, 6), 3)
        program = graph.program(graph.unflattened(rows, 6), rows)
        found = replayed(program, together(program, Loop(1, 1), Loop(2, 3)))
        assert window(found, program.operators[0].write.array).shape == (3, 3)

    def test_a_dense_block_reads_what_all_before_it_made(self):
        graph = Graph()
        value = graph.input(1, 10, 6)
        for _ in range(3):
            value = graph.twice(value, graph.conv(value, 1, 3, padding=1))
        program = graph.program(value)
        found = replayed(program, together(program, Loop(1, 1)))
        assert found.read_bytes["arg0"] == 10 * 6 * 4
        assert found.bytes < 8 * 10 * 6 * 4

    def test_an_array_used_after_the_group_is_completed_though_nobody_needs_all_of_it(self):
        graph = Graph()
        first = graph.elementwise(graph.input(1, 9, 9))
        program = graph.program(graph.conv(first, 1, 1, stride=2), first)
        found = replayed(program, together(program, Loop(1, 1)))
        assert found.write_bytes[program.operators[0].write.array] == 81 * 4


class TestSums:
    @staticmethod
    def product(dtype: str = "f32") -> Program:
        return parse(PRODUCT.replace("f32", dtype))

    def test_a_loop_over_the_sum_keeps_sums_until_the_last_step(self):
        program = self.product()
        group = Group((0,), (Loop(2, 3),), (Nest(),), placed(program))
        found = replayed(program, group)
        assert found.steps == 3
        output = program.operators[0].write.array
        assert window(found, output).shape == (6, 4)
        assert [int(np.prod(box[0, :, 1] - box[0, :, 0])) for box in found.stores[output]] == [
            0,
            0,
            24,
        ]
        assert window(found, "arg0").shape == (6, 3)

    def test_a_streamed_output_is_where_sums_last(self):
        program = self.product()
        output = program.operators[0].write.array
        places = placed(program, **{output: Place.STREAMED})
        group = Group((0,), (Loop(2, 3), Loop(0, 2)), (Nest(),), places)
        found = replayed(program, group)
        (sums,) = [b for b in found.buffers if b.array == output]
        assert (sums.purpose, sums.shape, sums.operators) == (Purpose.CHUNK, (6, 4), (0, 0))
        assert found.write_bytes == {output: 6 * 4 * 4}

    def test_a_parallel_loop_inside_of_the_sum_widens_the_accumulator(self):
        program = self.product()
        operator = program.operators[0]
        box = np.array([[(0, 6), (0, 4), (0, 7)]])
        places = placed(program, Place.STREAMED)
        for loops, shape in (
            ((Loop(0, 2), Loop(2, 3), Loop(1, 3)), (2, 4)),
            ((Loop(0, 2), Loop(1, 3), Loop(2, 3)), (2, 3)),
            ((Loop(2, 3), Loop(0, 2), Loop(1, 3)), (6, 4)),
        ):
            *_, sums = nest_buffers(program, operator, Nest(loops), box, places)
            assert (sums.array, sums.shape) == (operator.write.array, shape)


class TestNests:
    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_chunks_bring_what_running_the_loops_brings(self, data):
        program = data.draw(programs())
        operator = data.draw(st.sampled_from(program.operators))
        assume(operator.kind is not OperatorKind.ATTENTION)  # which takes some dims one by one
        nest = data.draw(nests_of(operator))
        boxes = np.array(
            [
                [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in operator.extents]
                for _ in range(2)
            ]
        )
        boxes[..., 1] = np.maximum(boxes[..., 1], boxes[..., 0] + 1)
        boxes -= np.maximum(boxes[..., 1] - np.array(operator.extents), 0)[..., None]
        places = placed(program, Place.STREAMED)
        read, written = nest_traffic(program, operator, nest, boxes, places)
        buffers = nest_buffers(program, operator, nest, boxes, places)
        chunks = {b.access: b.shape for b in buffers if b.purpose is Purpose.CHUNK}
        total: dict[str, int] = {}
        for index, access in enumerate(operator.reads):
            runs = [streamed_bytes(program, operator, nest, box, index) for box in boxes]
            count = sum(run[0] for run in runs)
            total[access.array] = total.get(access.array, 0) + count
            largest = np.max([run[1] for run in runs], axis=0)
            if largest.any() and not is_thin(access):
                assert chunks[index] == tuple(largest.tolist())
        thin = {access.array for access in operator.reads if is_thin(access)}
        for name, count in total.items():
            assert read[name] >= count if name in thin else read[name] == count
        results = (boxes[..., 1] - boxes[..., 0])[:, list(operator.parallels)]
        assert written == {operator.write.array: int(results.prod(axis=1).sum()) * 4}


def is_thin(access) -> bool:
    """Whether the access skips elements or is clipped, so that a hull may begin or end with one
    that is not touched."""
    return bool(access.where) or any("* 2" in str(expr) for expr in access.exprs)


def test_residents_live_from_the_first_group_to_the_last_that_has_them():
    program = TestWindows.chain()
    places = [{"a": Place.RESIDENT}, {"b": Place.WINDOW}, {"a": Place.RESIDENT}, {}]
    plan = Plan(tuple(Group((i,), (), (), place) for i, place in enumerate(places)))
    assert resident_before(program, plan) == (
        frozenset(),
        frozenset("a"),
        frozenset("a"),
        frozenset(),
    )
