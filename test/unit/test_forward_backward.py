"""Schedules with the urgency that a schedule backwards gives."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from polystage.planner.forward_backward import schedules
from polystage.planner.list_schedule import Scheduled, list_schedule
from polystage.planner.task_blocks import Blocks, Task


def task(queue: int, busy: float, *after: int, ports: int = 0, lives: tuple[int, ...] = ()) -> Task:
    return Task(queue, busy, busy, after, after, ports=ports, lives=lives)


def end_of(found: Scheduled | None) -> float:
    assert found is not None
    return found.last_ns


def parts_of_a_layer(parts: int) -> list[Task]:
    """Every part has two products, written down one kind after the other, and then long work on
    both."""
    first = [task(0, 1.0) for _ in range(parts)]
    second = [task(0, 1.0) for _ in range(parts)]
    return [*first, *second, *(task(1, 2.0, i, parts + i) for i in range(parts))]


def test_parts_do_not_wait_for_each_other() -> None:
    """By the way to the end all parts are the same, and the work begins when half is multiplied."""
    blocks = Blocks(parts_of_a_layer(8), ())
    assert end_of(list_schedule(blocks)) == 25.0
    assert min(end_of(found) for found in schedules(blocks)) == 18.0


def test_a_queue_leaves_a_port_that_another_holds() -> None:
    """The more urgent block would keep its queue waiting, with one that needs no port."""
    holds = task(0, 4.0, ports=2)
    urgent, other = task(1, 2.0, ports=2), task(1, 3.0)
    blocks = Blocks([holds, urgent, other], ())
    waiting = list_schedule(blocks, urgency=[9.0, 8.0, 1.0])
    leaving = list_schedule(blocks, urgency=[9.0, 8.0, 1.0], leaves_ports=True)
    assert end_of(waiting) == 9.0 and end_of(leaving) == 6.0


@st.composite
def tasks(draw: st.DrawFn) -> list[Task]:
    found: list[Task] = []
    for i in range(draw(st.integers(1, 20))):
        after = sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else []
        busy = float(draw(st.integers(1, 9)))
        found.append(task(draw(st.integers(0, 2)), busy, *after, lives=(i,)))
    return found


@given(tasks(), st.sampled_from([range(0), range(3)]))
def test_whatever_it_finds_respects_what_comes_before(
    given_tasks: list[Task], banks: Sequence[int]
) -> None:
    for found in schedules(Blocks(given_tasks, ()), banks):
        place = {i: at for at, i in enumerate(found.order)}
        assert sorted(place) == list(range(len(given_tasks)))
        for i, each in enumerate(given_tasks):
            start_ns = found.end_ns[i] - each.latency_ns
            assert all(place[j] < place[i] for j in each.after)
            assert all(found.end_ns[j] <= start_ns for j in each.waits)


@given(tasks())
def test_backwards_the_longest_way_is_as_long(given_tasks: list[Task]) -> None:
    blocks = Blocks(given_tasks, ())
    assert max(blocks.backward().ways_ns()) == max(blocks.ways_ns())


def test_of_what_a_block_waits_for_the_last_is_enough() -> None:
    """A block starts once, after the last task of another that any of its tasks needs first."""
    first = [task(0, 1.0), task(0, 1.0), task(0, 1.0)]
    second = [task(1, 1.0, 0, 1), task(1, 1.0, 1), task(1, 1.0, 0, 2)]
    blocks = Blocks([*first, *second], [[0, 1, 2], [3, 4, 5]])
    assert blocks.waits[3:] == [[1], [], [2]]
