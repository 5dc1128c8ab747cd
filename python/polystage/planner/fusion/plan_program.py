"""The planner's front door: a program and a target in, a plan and what it moves out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Literal

from polystage.allocation import DoesNotFitError, aligned
from polystage.errors import PlanError
from polystage.machine import Target
from polystage.planner.fusion.decisions import Group, Plan
from polystage.planner.fusion.latency import Latency, latency_of
from polystage.planner.fusion.placement import Placement, place
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import GroupSchedule, schedule
from polystage.planner.fusion.search.groups import WideOption
from polystage.planner.fusion.search.plans import MAX_GROUP, PlanSearch, Step
from polystage.planner.fusion.search.segments import GroupOption, Segment

Objective = Literal["traffic", "latency", "energy"]

ROOMS = (1.0, 0.75, 0.5, 0.375)
"""Parts of the scratchpad that plans are made for where not only bytes count."""

SLACK = 32
"""Which part of the scratchpad tiles leave free where they move no less for it: addresses are found
faster then."""
FEW_CHUNKS = 128
"""Chunks of a group that are few, however small they are."""
PATIENCE = 1.5
"""How many times the chunks that there are with all of the scratchpad, where these are more."""


@dataclass(frozen=True)
class Planned:
    """A plan, and what follows from it."""

    program: Program
    target: Target
    plan: Plan
    schedules: tuple[GroupSchedule, ...]
    """One per group."""
    placement: Placement
    """Where what is on chip lies."""
    search: PlanSearch = field(repr=False)
    path: tuple[Step, ...] = field(repr=False)
    """How the search came to each group."""

    @cached_property
    def traffic(self) -> int:
        """The DRAM bytes of the whole program."""
        return sum(traffic_of(steps) for steps in self.schedules)

    @cached_property
    def latency(self) -> Latency:
        """When all groups are done, and the energy that it takes."""
        return latency_of(self.program, self.target, self.plan, self.schedules, self.placement)

    @property
    def costs(self) -> dict[str, int]:
        """What the plan as a whole costs, by unit."""
        return {
            "bytes": self.traffic,
            "nanoseconds": round(self.latency.total_ns),
            "picojoules": round(self.latency.energy_pj),
        }


def traffic_of(steps: GroupSchedule) -> int:
    """Return the DRAM bytes of a group."""
    return sum(steps.read_bytes.values()) + sum(steps.write_bytes.values())


def plan_program(
    program: Program,
    target: Target,
    objective: Objective = "traffic",
    budget: int = 1,
    max_group: int = MAX_GROUP,
) -> Planned:
    """Decide how a program runs on a target with a flat scratchpad.

    `budget` scales the effort of the search, `max_group` bounds the operators of one group; 1 is
    the best that every operator can do alone.

    Bytes are what the search minimises. What is left of the scratchpad gives buffers in loops a
    second place, so that loads, computation and stores overlap. So for the other objectives it
    leaves more and more, and of these plans the one is taken that is done first, or needs least
    energy: no plan for latency takes longer than that for traffic.

    What fits in bytes need not have addresses, since what stays on chip parts what is free: where
    none are found, tiles leave a part of the scratchpad free, and if that is not enough, groups are
    planned for a little less than there is.

    Raises: PlanError where an operator fits in no way.
    """
    if objective == "traffic":
        return _fitting(program, target, target.sbuf.bytes, budget, max_group)
    found: list[Planned] = []
    for room in ROOMS:
        try:
            found.append(
                _fitting(program, target, int(target.sbuf.bytes * room), budget, max_group)
            )
        except PlanError:
            if not found:
                raise
    if objective == "latency":
        return min(found, key=lambda planned: planned.latency.total_ns)
    return min(found, key=lambda planned: planned.latency.energy_pj)


def _fitting(
    program: Program, target: Target, capacity: int, budget: int, max_group: int
) -> Planned:
    """Return the plan that moves least and has addresses, planned for `capacity` bytes or a little
    less."""
    while True:
        search = PlanSearch(program, capacity, budget, max_group)
        path = search.run().path()
        for patience in (PATIENCE, inf):
            try:
                return _planned(search, path, target, patience)
            except DoesNotFitError:
                continue
        capacity -= aligned(1 + target.sbuf.bytes // SLACK)


def _planned(search: PlanSearch, path: Sequence[Step], target: Target, patience: float) -> Planned:
    """Return the plan of a path, with large tiles.

    Raises: DoesNotFitError where it has no addresses.
    """
    groups: list[Group] = []
    schedules: list[GroupSchedule] = []
    for step in path:
        group, steps = _exact(search, step, patience)
        groups.append(group)
        schedules.append(steps)
    plan = Plan(tuple(groups))
    placement = place(search.program, plan, schedules, target.sbuf.bytes)
    return Planned(search.program, target, plan, tuple(schedules), placement, search, tuple(path))


def _exact(search: PlanSearch, step: Step, patience: float) -> tuple[Group, GroupSchedule]:
    """Return a group of a path with large tiles, and its schedule, which fits."""
    segment, option, before = step.segment, step.option, step.before
    assert segment is not None and option is not None and before is not None
    passing = search.bytes_of(before.resident - segment.span.touched)
    for wide in _wide(search, segment, option, passing, patience):
        group = segment.group(wide.option)
        steps = schedule(search.program, group, before.resident)
        if steps.bytes <= search.capacity:
            return group, steps
    group = segment.group(option)
    steps = schedule(search.program, group, before.resident)
    if steps.bytes > search.capacity:
        raise PlanError(
            f"a group that ends with '{segment.span.operators[-1].name}' needs {steps.bytes} "
            f"bytes, but was planned with {option.bytes + passing}"
        )
    return group, steps


def _wide(
    search: PlanSearch, segment: Segment, option: GroupOption, passing: int, patience: float
) -> list[WideOption]:
    """Return ways to run a group in few chunks, best first: one that leaves some of the scratchpad
    free, unless it takes `patience` times the chunks, and one that takes all there is."""
    capacity = search.capacity - passing
    roomy = search.groups.widened(segment, option, capacity - search.capacity // SLACK)
    if roomy is not None and roomy.chunks <= FEW_CHUNKS:
        return [roomy]
    full = search.groups.widened(segment, option, capacity)
    found = [wide for wide in (roomy, full) if wide is not None]
    if roomy is not None and full is not None and roomy.chunks > patience * full.chunks:
        found.reverse()
    return found
