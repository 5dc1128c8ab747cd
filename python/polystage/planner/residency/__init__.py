"""Which operators of a partitioned target run with their arrays in the scratchpad, and when their
weights come."""

from polystage.planner.residency.groups import Group, Operator, plan_groups
from polystage.planner.residency.prefetch import load_positions

__all__ = ["Group", "Operator", "load_positions", "plan_groups"]
