"""npu-schedule-instructions: the same numbers in another order, and what the scheduler keeps."""

from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from npu_programs import Kernel, Value, dram, program, random

from polystage.passes.placement.schedule_instructions import ScheduleInstructionsPass
from polystage.pipeline import run_pipeline
from polystage.planner.list_schedule import Scheduled, list_schedule, time_of_order
from polystage.planner.task_blocks import Blocks, Task
from polystage.simulator import Traced, simulate, traced
from polystage.simulator.conflicts import Meetings
from polystage.simulator.reordering import regions_that_meet


def scheduled(module):
    """Run the pass, then synchronise; return what it counted."""
    records = run_pipeline(module, "builtin.module(npu-schedule-instructions,npu-insert-sync)")
    return records[0].statistics


# --- the pass ---


def random_kernel(draw) -> Kernel:
    """Instructions of all engines; results lie over what is not needed any more, whole or in part,
    sums in two banks of psum."""
    k = Kernel(x=dram(32, 32), y=dram(32, 32))
    live = {0: k.load(k.x, 0), 256: k.load(k.x, 256)}
    banks = [k.alloc([32, 512], space="psum", address=2048 * i) for i in range(3)]

    def choose() -> Value:
        return live[draw(st.sampled_from(sorted(live)))]

    def place(*read: Value) -> Value:
        kept = [a for a, value in live.items() if value in read]
        free = [a for a in range(0, 448, 64) if all(abs(a - b) >= 128 for b in kept)]
        address = draw(st.sampled_from(free))
        for other in [a for a in live if abs(a - address) < 128]:
            del live[other]
        live[address] = k.alloc([32, 32], address=address)
        return live[address]

    for _ in range(draw(st.integers(4, 24))):
        a, b = choose(), choose()
        at = [0, 32 * draw(st.integers(0, 1))]
        bank = k.subview(banks[draw(st.integers(0, 2))], at, [32, 32])
        kind = draw(st.sampled_from(["matmul", "sum", "activate", "elementwise", "half", "dma"]))
        if kind == "matmul":
            k.matmul(a, b, bank)
            k.activate(bank, place(a), "tanh")
        elif kind == "sum":
            other = k.subview(banks[draw(st.integers(0, 2))], [0, 128], [32, 32])
            k.matmul(a, b, bank)
            k.matmul(b, a, other)
            k.matmul(b, b, bank, accumulate=True)
            k.activate(bank, place(a, b), "tanh")
            k.activate(other, a, "tanh")
        elif kind == "activate":
            k.activate(a, place(a), "tanh", 0.5)
        elif kind == "elementwise":
            k.box("elementwise", "add", [a, b, place(a, b)], [32, 32], ["d0, d1"] * 3)
        elif kind == "half":
            part = k.subview(a, [0, 16 * draw(st.integers(0, 1))], [32, 16])
            k.activate(part, part, "tanh")
        else:
            k.dma(a, place(a), "copy")
    k.dma(choose(), k.y, "output")
    return k


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_order_that_it_finds_computes_the_same(data: st.DataObject) -> None:
    kernel = random_kernel(data.draw)
    x = {"x": random(32, 32)}
    expected = simulate(program(kernel), x)
    module = program(kernel)
    with pytest.MonkeyPatch.context() as patch:  # takes the last order, whether it gains or not
        times = count(0.0, -1.0)
        patch.setattr(Traced, "end_ns", lambda *_: next(times))
        scheduled(module)
    got = simulate(module, x)
    assert got.races == ()
    np.testing.assert_array_equal(got.outputs["y"], expected.outputs["y"])


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_never_slower(data: st.DataObject) -> None:
    kernel = random_kernel(data.draw)
    before, after = program(kernel), program(kernel)
    run_pipeline(after, "builtin.module(npu-schedule-instructions)")
    times = [simulate(m, timing_only=True).totals.latency_ns for m in (before, after)]
    assert times[1] <= times[0]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_scheduler_and_the_simulator_agree_on_what_meets(data: st.DataObject) -> None:
    regions = traced(program(random_kernel(data.draw))).trace.regions
    every = range(regions.count)
    meet, (meeting, covered) = Meetings(regions), regions_that_meet(regions, every)
    assert meeting == {a: [b for b in every if meet(a, b)] for a in every}
    assert all(set(covered[a]) <= set(meeting[a]) and a in covered[a] for a in every)


def two_chains(times: int) -> Kernel:
    """Two independent chains through both engines, called one after the other."""
    k = Kernel(x=dram(128, 512), y=dram(128, 512))
    for i, array in enumerate((k.x, k.y)):
        buffer = k.alloc([128, 512], address=2048 * i)
        k.dma(k.x, buffer)
        for _ in range(times):
            k.activate(buffer, buffer, "tanh")
            k.box("elementwise", "double", [buffer, buffer], [128, 512], ["d0, d1"] * 2)
        if i:
            k.dma(buffer, array, "output")
    return k


def test_it_counts_what_it_saves() -> None:
    plain, module = program(two_chains(4)), program(two_chains(4))
    counted = scheduled(module)
    saved = (
        simulate(plain, timing_only=True).totals.latency_ns
        - simulate(module, timing_only=True, order="interlocked").totals.latency_ns
    )
    assert counted["kernels reordered"] == 1
    assert counted["nanoseconds saved"] == pytest.approx(saved, abs=1) and saved > 1000


def test_kernels_that_are_too_long_stay() -> None:
    module = program(two_chains(4))
    pass_ = ScheduleInstructionsPass(max_instructions=10)
    with module.context:
        before = str(module)
        pass_.run(module)
        assert str(module) == before


def test_a_flat_target_keeps_the_order_of_the_plan() -> None:
    module = program(two_chains(4), target="flat")
    pass_ = ScheduleInstructionsPass()
    with module.context:
        pass_.run(module)
    assert not pass_.statistics


# --- the scheduler ---


def task(queue: int, busy: float, *after: int, **more) -> Task:
    return Task(queue, busy, busy, after, after, **more)


def on_queue(tasks: list[Task], queue: int, *together: list[int]) -> list[int]:
    found = list_schedule(Blocks(tasks, together))
    assert found is not None and sorted(found.order) == list(range(len(tasks)))
    return [i for i in found.order if tasks[i].queue == queue]


def test_the_longest_way_comes_first() -> None:
    tasks = [task(0, 1.0), task(0, 1.0), task(1, 5.0, 1)]
    assert list_schedule(Blocks(tasks, [])) == Scheduled((1, 0, 2), ())


def test_what_is_ready_does_not_wait_for_what_is_not() -> None:
    tasks = [task(1, 9.0), task(0, 5.0, 0), task(0, 1.0)]
    assert on_queue(tasks, 0) == [2, 1]


def test_blocks_stay_together() -> None:
    tasks = [task(0, 1.0), task(0, 1.0, 0), task(0, 1.0), task(1, 9.0, 2)]
    assert on_queue(tasks, 0, [0, 1]) == [2, 0, 1]
    assert on_queue(tasks, 0, [0, 1, 2]) == [0, 1, 2]


def test_blocks_that_wait_for_each_other_have_no_order() -> None:
    tasks = [task(0, 1.0), task(1, 1.0, 0), task(0, 1.0, 1)]
    assert list_schedule(Blocks(tasks, [[0, 2]])) is None


def test_a_port_is_one_queue_s_at_a_time() -> None:
    long, short = task(0, 4.0, ports=2), task(1, 1.0, ports=2)
    other = task(2, 1.0, 1)
    # Both start at 0; the second waits for the port, and what needs it with it.
    assert list_schedule(Blocks([long, short, other], [])) == Scheduled((0, 1, 2), ())


def test_lives_take_the_bank_that_is_free_first() -> None:
    """Three results, each written and read; the reader of the first takes long."""
    tasks = [task(0, 1.0, lives=(0,)), task(1, 9.0, 0, lives=(0,))]
    tasks += [task(0, 1.0, lives=(1,)), task(2, 1.0, 2, lives=(1,))]
    tasks += [task(0, 1.0, lives=(2,)), task(2, 1.0, 4, lives=(2,))]
    found = list_schedule(Blocks(tasks, []), banks=range(4), ahead=9)
    assert found is not None
    assert found.banks == (0, 1, 2)


def test_what_runs_ahead_leaves_banks_to_what_comes_first() -> None:
    """The first result needs two banks at once; what is ready before it waits for its second."""
    first = [task(3, 5.0), task(0, 1.0, 0, lives=(0,)), task(0, 1.0, 1, lives=(0, 1))]
    later = [task(1, 1.0, lives=(2,)), task(1, 1.0, 2, 3, lives=(2,))]
    few = list_schedule(Blocks([*first, *later], []), banks=range(2), ahead=9)
    many = list_schedule(Blocks([*first, *later], []), banks=range(5), ahead=9)
    assert few is not None and few.order.index(3) > few.order.index(1)
    assert many is not None and many.order.index(3) < many.order.index(1)
    strict = list_schedule(Blocks([*first, *later], []), banks=range(5), ahead=0)
    assert strict is not None and strict.order.index(3) > strict.order.index(2)


def test_the_time_of_an_order() -> None:
    """The second queue waits for the first, and holds up what could start."""
    tasks = [task(0, 5.0), task(1, 1.0, 0), task(1, 3.0)]
    assert time_of_order(tasks) == 9.0
    assert time_of_order([tasks[0], tasks[2], task(1, 1.0, 0)]) == 6.0


def test_a_port_is_taken_by_time_and_not_by_the_place_in_the_order() -> None:
    tasks = [task(0, 5.0), task(1, 1.0, 0, ports=1), task(2, 4.0, ports=1)]
    assert time_of_order(tasks) == 6.0
