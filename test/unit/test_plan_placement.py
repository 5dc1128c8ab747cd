"""What a plan has on chip gets addresses, or the plan becomes another one."""

import pytest

from polystage.allocation import DoesNotFitError
from polystage.machine import Target
from polystage.mlir import ir
from polystage.planner.fusion import plan_program as front_door
from polystage.planner.fusion.decisions import Group, Nest, Place, Plan
from polystage.planner.fusion.placement import place
from polystage.planner.fusion.plan_program import SLACK, plan_program
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import resident_before, schedule

DOUBLINGS = """
#id = affine_map<(x) -> (x)>
#back = affine_map<(x) -> (255 - x)>
func.func @main(%x: memref<256xf32>, %y: memref<256xf32>) {
  %h = memref.alloc() : memref<256xf32>
  linalg.generic {indexing_maps = [#back, #id], iterator_types = ["parallel"]}
    ins(%x : memref<256xf32>) outs(%h : memref<256xf32>) {
  ^bb0(%p: f32, %o: f32):
    %m = arith.addf %p, %p : f32
    linalg.yield %m : f32 }
  linalg.generic {indexing_maps = [#back, #id], iterator_types = ["parallel"]}
    ins(%h : memref<256xf32>) outs(%y : memref<256xf32>) {
  ^bb0(%p: f32, %o: f32):
    %m = arith.mulf %p, %p : f32
    linalg.yield %m : f32 }
  return
}"""


@pytest.fixture
def program() -> Program:
    return Program.from_module(ir.Module.parse(DOUBLINGS, ir.Context()))


def test_resident_arrays_and_buffers_of_groups_lie_apart(program: Program) -> None:
    (hidden,) = program.arrays.keys() - {"arg0", "arg1"}
    first = Group((0,), (), (Nest(),), {"arg0": Place.WINDOW, hidden: Place.RESIDENT})
    second = Group((1,), (), (Nest(),), {hidden: Place.RESIDENT, "arg1": Place.WINDOW})
    plan = Plan((first, second))
    schedules = [
        schedule(program, group, resident)
        for group, resident in zip(plan.groups, resident_before(program, plan), strict=True)
    ]
    found = place(program, plan, schedules, 2048)
    assert found.resident.keys() == {hidden}
    assert found.groups[0] == found.groups[1]  # the output lies where the input was
    assert {*found.groups[0], found.resident[hidden]} == {0, 1024}
    with pytest.raises(DoesNotFitError, match="2048 bytes are live at once"):
        place(program, plan, schedules, 2032)


@pytest.mark.parametrize(("refused", "is_planned_again"), [(1, False), (2, True)])
def test_without_addresses_a_plan_takes_less(
    program: Program, monkeypatch: pytest.MonkeyPatch, refused: int, is_planned_again: bool
) -> None:
    refusals = [DoesNotFitError([], 4096, 4096, proven=False) for _ in range(refused)]

    def placed(*arguments: object) -> None:
        if refusals:
            raise refusals.pop()

    monkeypatch.setattr(front_door, "place", placed)
    found = plan_program(program, Target.load("flat", {"scratchpad_bytes": 4096}))
    assert max(steps.bytes for steps in found.schedules) <= 4096 - 4096 // SLACK
    assert (found.search.capacity < 4096) == is_planned_again
