"""When a plan is done: its steps one after the other, on a model of the machine's queues.

The walk goes through groups, steps, operators and chunks in the order in which the lowering writes
them. Each load, each chunk on the array or the lanes and each store becomes one instruction, with
the time that the machine's rules give it (`work.py`), and waits for those that touch the same bytes
(`instructions.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from polystage.machine import Target
from polystage.planner.fusion.decisions import Plan
from polystage.planner.fusion.latency.group import GroupWalk
from polystage.planner.fusion.latency.record import Record
from polystage.planner.fusion.placement import Placement
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import GroupSchedule


@dataclass(frozen=True)
class Latency:
    """When a plan is done, and what it takes."""

    total_ns: float
    groups_ns: tuple[float, ...]
    """By how much each group moves the end."""
    energy_pj: float


def latency_of(
    program: Program,
    target: Target,
    plan: Plan,
    schedules: Sequence[GroupSchedule],
    placement: Placement,
) -> Latency:
    """Return the time and the energy of a plan, whose buffers lie where `placement` has them."""
    record = Record(program, target, placement)
    counts = [0]
    for group, steps, addresses in zip(plan.groups, schedules, placement.groups, strict=True):
        GroupWalk(record, group, steps, addresses).run()
        counts.append(record.instructions.count)
    done = record.done_ns(counts)
    groups = tuple(after - before for before, after in pairwise(done))
    return Latency(done[-1], groups, record.energy_pj(done[-1]))
