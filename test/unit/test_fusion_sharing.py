"""Sums in place: an array takes the buffer of one that dies as it is made, element by element."""

import numpy as np
import pytest
from fusion_programs import Graph, together
from fusion_replay import Replay, replayed, window
from hypothesis import event, given, settings
from hypothesis import strategies as st
from test_flat_lowering import carried_out
from test_fusion_schedule import groups, programs

from polystage.errors import PlanError
from polystage.mlir import ir
from polystage.pipeline import run_pipeline
from polystage.planner.fusion import sharing
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place, Plan
from polystage.planner.fusion.placement import place
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import resident_before, schedule
from polystage.planner.fusion.sharing import successions


def narrow(program: Program) -> Program:
    """Return a program in bf16, whose sums of products run in f32 beside the output."""
    module = program.module
    with module.context, ir.Location.unknown():
        run_pipeline(module, "builtin.module(npu-set-float-type{type=bf16})")
        return Program.from_module(module)


def residual(rows: int = 12, blocks: int = 1) -> Program:
    """Two convolutions over rows and columns and the addition of what they started from."""
    graph = Graph()
    value = graph.input(2, rows, 8)
    for _ in range(blocks):
        first = graph.conv(value, 2, 3, padding=1)
        value = graph.elementwise(graph.conv(first, 2, 3, padding=1), value)
    return narrow(graph.program(value))


def made(program: Program, operator: int) -> str:
    return program.operators[operator].write.array


class TestSuccessions:
    def test_a_sum_takes_the_place_of_what_it_adds(self):
        program = residual()
        (link,) = successions(program)
        assert (link.operator, link.dying, link.made) == (1, "arg0", made(program, 1))

    def test_no_place_is_taken_of_an_array_that_is_wanted(self):
        for is_result in (True, False):
            graph = Graph()
            x = graph.pool(graph.input(2, 8, 8), 1, 1)
            y = graph.elementwise(graph.conv(graph.input(2, 8, 8), 2, 1), x)
            program = narrow(graph.program(y, x if is_result else graph.pool(x, 2, 1)))
            assert successions(program) == ()

    def test_no_place_is_taken_while_sums_are_under_way_in_it(self):
        graph = Graph()
        y = graph.elementwise(graph.conv(graph.input(2, 8, 8), 2, 1), graph.input(2, 8, 8))
        program = graph.program(y)
        assert program.operators[0].accumulator is None and successions(program) == ()

    def test_no_place_is_taken_by_other_elements(self):
        graph = Graph()
        program = narrow(graph.program(graph.conv(graph.input(2, 8, 8), 2, 1)))
        assert successions(program) == ()


class TestWindows:
    def test_rows_of_a_sum_lie_where_those_of_the_shortcut_were(self):
        program = residual()
        output = made(program, 1)
        found = replayed(program, together(program, Loop(1, 1)))
        assert found.shares == {output: "arg0"}
        assert window(found, "arg0").shape == (2, 3, 8)
        assert output not in {buffer.array for buffer in found.buffers}

    def test_blocks_in_a_row_share_one_window(self, monkeypatch):
        program = residual(blocks=3)
        group = together(program, Loop(1, 1))
        found = replayed(program, group)
        assert set(found.shares.values()) == {"arg0"} and len(found.shares) == 3
        monkeypatch.setattr(sharing, "successions", lambda _: ())
        assert replayed(program, group).bytes > found.bytes

    def test_rows_that_are_read_again_keep_their_place(self, monkeypatch):
        graph = Graph()
        x = graph.elementwise(graph.input(2, 8, 8))
        rows = graph.conv(x, 2, 3, padding=1)
        copy = graph.elementwise(x)
        program = graph.program(graph.elementwise(graph.pool(rows, 1, 1), copy))
        (dying,) = {link.dying for link in successions(program)} & {made(program, 0)}
        group = together(program, Loop(1, 1))
        assert dying not in replayed(program, group).shares.values()
        monkeypatch.setattr(sharing, "_dies_in_time", lambda *_: True)
        with pytest.raises(AssertionError, match="misses"):
            replayed(program, group)

    def test_a_window_gives_way_to_a_resident_array(self):
        program = residual()
        output = made(program, 1)
        group = together(program, Loop(1, 1), **{output: Place.RESIDENT})
        found = replayed(program, group)
        assert found.shares == {"arg0": output}
        assert "arg0" not in {buffer.array for buffer in found.buffers}


class TestReplay:
    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_nobody_misses_what_lies_in_the_place_of_another(self, data):
        program = narrow(data.draw(programs()))
        group = data.draw(groups(program))
        try:
            found = schedule(program, group)
        except PlanError:
            return
        event(f"arrays in the place of another: {len(found.shares)}")
        Replay(program, group, found, frozenset()).run()


class TestResident:
    @staticmethod
    def plan(program: Program) -> Plan:
        """Two blocks in two groups, all that lies between them resident."""
        groups = []
        for start in (0, 2):
            names = [name for i in (start, start + 1) for name in program.operators[i].arrays]
            places = dict.fromkeys(names, Place.WINDOW)
            places |= dict.fromkeys(
                ["arg0", made(program, 1), made(program, 3)] & places.keys(), Place.RESIDENT
            )
            nests = (Nest(), Nest((Loop(0, 1), Loop(1, 5))))
            groups.append(Group((start, start + 1), (Loop(1, 5),), nests, places))
        return Plan(tuple(groups))

    def test_one_place_is_counted_and_given(self, monkeypatch):
        program = residual(blocks=2)
        plan = self.plan(program)
        before = resident_before(program, plan)
        schedules = [
            schedule(program, group, resident)
            for group, resident in zip(plan.groups, before, strict=True)
        ]
        for group, steps, resident in zip(plan.groups, schedules, before, strict=True):
            Replay(program, group, steps, resident).run()
            assert len(steps.shares) == 1
        found = place(program, plan, schedules, 1 << 16)
        assert len(set(found.resident.values())) == 1 and len(found.resident) == 3
        monkeypatch.setattr(sharing, "successions", lambda _: ())
        for group, steps, resident in zip(plan.groups, schedules, before, strict=True):
            assert schedule(program, group, resident).bytes == steps.bytes + 2 * 12 * 8 * 2

    def test_programs_compute_the_same(self):
        program = residual(blocks=2)
        result, expected = carried_out(program, self.plan(program))
        for name, array in expected.items():
            np.testing.assert_array_equal(result.outputs[name], array)
        assert "intermediate" not in result.totals.dram_read_by_cause
