"""Why a plan is as it is: for every group why it ends, and what the next better choice costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from polystage.planner.fusion.bounds import read_bytes
from polystage.planner.fusion.decisions import Loop
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.plan_program import Planned, traffic_of
from polystage.planner.fusion.schedule import GroupSchedule
from polystage.planner.fusion.search.plans import PlanSearch, Step
from polystage.planner.fusion.search.segments import GroupOption, Segment, Span
from polystage.polyhedral import Role


@dataclass(frozen=True)
class GroupNote:
    """What there is to say about one group."""

    group: int
    operators: tuple[Operator, ...]
    steps: int
    loops: tuple[Loop, ...]
    bytes: int
    """On chip at the worst moment."""
    traffic: int
    excess: int
    """DRAM bytes beyond arguments, constants and results."""
    nanoseconds: int
    """By how much it moves the planned end of the program."""
    resident: tuple[str, ...]
    """Arrays that stay on chip after it, having become so here."""
    end: str
    """Why it ends where it does."""
    runner_up: str
    """The tiles that come next, and what they cost."""
    better: str
    """What would have let it move less."""

    def text(self) -> str:
        """Return the note as one line."""
        sink = self.operators[-1]
        names = self.operators[0].name
        if len(self.operators) > 1:
            names += f" to {sink.name}"
        tiles = _tiles(sink, self.loops)
        parts = [
            f"group {self.group}: {names}, {_counted(len(self.operators), 'operator')}",
            f"{_counted(self.steps, 'step')}{f' of {tiles}' if tiles else ''}",
            f"{self.bytes} bytes on chip",
            f"moves {self.traffic} bytes, {self.excess} more than it must",
            f"takes {self.nanoseconds} ns",
        ]
        if self.resident:
            parts.append(f"leaves {', '.join(self.resident)} on chip")
        return "; ".join([*parts, self.end, self.runner_up, self.better])


def explain(planned: Planned) -> list[GroupNote]:
    """Return a note for every group of a plan."""
    found: list[GroupNote] = []
    for number, (step, steps) in enumerate(zip(planned.path, planned.schedules, strict=True)):
        segment, option = step.segment, step.option
        assert segment is not None and option is not None
        traffic = traffic_of(steps)
        found.append(
            GroupNote(
                number,
                segment.span.operators,
                steps.steps,
                planned.plan.groups[number].loops,
                steps.bytes,
                traffic,
                traffic - _compulsory(planned.search, segment.span, steps),
                round(planned.latency.groups_ns[number]),
                tuple(sorted(segment.kept)),
                _why_it_ends(planned.search, step),
                _runner_up(planned.search, segment, option),
                _next_better(planned.search, step, segment, option),
            )
        )
    return found


def _compulsory(search: PlanSearch, span: Span, steps: GroupSchedule) -> int:
    """Return the bytes of arguments and constants that a group is the first to read, as far as it
    reads them, and of results that it writes."""
    program = search.program
    total = 0
    for name in span.arrays:
        array, is_written = program.arrays[name], name in span.written
        if array.is_initialized and search.first_use[name] >= span.start and not is_written:
            total += min(read_bytes(program, name), steps.read_bytes.get(name, 0))
        if array.role is Role.OUTPUT and is_written:
            total += min(array.size_bytes, steps.write_bytes.get(name, 0))
    return total


def _capacity(search: PlanSearch, step: Step, segment: Segment) -> int:
    """Return what resident arrays that a segment does not touch leave of the scratchpad."""
    assert step.before is not None
    return search.capacity - search.bytes_of(step.before.resident - segment.span.touched)


def _why_it_ends(search: PlanSearch, step: Step) -> str:
    segment, before = step.segment, step.before
    assert segment is not None and before is not None
    span = segment.span
    if span.stop == len(search.program.operators):
        return "ends with the program"
    following = search.program.operators[span.stop]
    if OperatorKind.OPAQUE in (following.kind, span.operators[-1].kind):
        return f"ends here: '{following.name}' is next, and what is opaque runs alone"
    longer = search.groups.span(span.start, span.stop + 1)
    held = before.resident & longer.touched
    kept = frozenset(n for n in segment.kept if search.last_use[n] > span.stop)
    both = Segment(longer, held, kept)
    if not search.groups.options(both):
        return f"ends here: no loop of '{following.name}' steps through all of them"
    return f"ends here: {_together(search, step, both, following.name)}"


def _together(search: PlanSearch, step: Step, both: Segment, name: str) -> str:
    capacity = _capacity(search, step, both)
    least = search.groups.options(both)[0].bytes
    if least > capacity:
        return (
            f"with '{name}' it would need {least} bytes at least, {least - capacity} more than "
            "there are"
        )
    option = search.groups.within(both, capacity)
    assert option is not None and step.before is not None
    apart = _apart(search, step, both)
    more = option.traffic - apart
    if more > 0:
        return f"with '{name}' it would move {more} bytes more"
    if more == 0:
        return f"with '{name}' it would move as much"
    return (
        f"with '{name}' it would move {-more} bytes less, but leave less room for what comes after"
    )


def _apart(search: PlanSearch, step: Step, both: Segment) -> int:
    """Return what a group and the operator after it move, each by itself."""
    assert step.option is not None
    alone = search.groups.span(both.span.stop - 1, both.span.stop)
    held = step.resident & alone.touched
    kept = frozenset(n for n in both.kept & alone.touched if n not in held)
    segment = Segment(alone, held, kept)
    capacity = search.capacity - search.bytes_of(step.resident - alone.touched)
    option = search.groups.within(segment, capacity)
    return step.option.traffic + (option.traffic if option else 0)


def _runner_up(search: PlanSearch, segment: Segment, option: GroupOption) -> str:
    """Return the tiles that move least of those that need less on chip."""
    smaller = [o for o in search.groups.options(segment) if o.bytes < option.bytes]
    if not smaller:
        return "no other tiles need less on chip"
    other, sink = smaller[-1], segment.span.operators[-1]
    steps = f"steps of {_tiles(sink, other.loops)}" if other.loops else "one step"
    chunks = _tiles(sink, other.nests[-1].chunks)
    return (
        f"the next tiles ({steps}{f', chunks of {chunks}' if chunks else ''}) would need "
        f"{option.bytes - other.bytes} bytes less on chip and move "
        f"{other.traffic - option.traffic} more"
    )


def _tiles(sink: Operator, loops: Sequence[Loop]) -> str:
    return ", ".join(f"{loop.tile} of {sink.extents[loop.dim]}" for loop in loops)


def _next_better(search: PlanSearch, step: Step, segment: Segment, option: GroupOption) -> str:
    """Return how much more scratchpad would let the group move less."""
    capacity = _capacity(search, step, segment)
    for other in search.groups.options(segment):
        if other.bytes > capacity and other.traffic < option.traffic:
            return (
                f"{other.bytes - capacity} bytes more on chip would save "
                f"{option.traffic - other.traffic}"
            )
    return "more on chip would save nothing"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
