"""Which operators of a partitioned target run with their arrays in the scratchpad, where these lie
there, and when weights come."""

from polystage.planner.residency.groups import Group, Operator, plan_groups
from polystage.planner.residency.placement import Piece

__all__ = ["Group", "Operator", "Piece", "plan_groups"]
