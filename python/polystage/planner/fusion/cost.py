"""What the search minimises: bytes, or an estimate of time or energy that follows from them.

Within a group loads, computation and stores overlap, so its time is the longer of what DRAM and
what the engines need at their peak.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from polystage.machine import Target, cost, energy
from polystage.machine.bounds import lanes_bound_ns
from polystage.planner.fusion.operators import Operator
from polystage.planner.fusion.program import Program

Objective = Literal["traffic", "latency", "energy"]


@dataclass(frozen=True)
class Price:
    """What a group costs, in the unit of the objective: bytes, nanoseconds or picojoules."""

    program: Program
    target: Target
    objective: Objective

    def of(self, operators: Iterable[Operator], traffic: int) -> float:
        """Return the price of a group that moves `traffic` bytes."""
        if self.objective == "traffic":
            return float(traffic)
        time = max(
            cost.dram_bound_ns(self.target, traffic),
            sum(self.compute_ns(operator) for operator in operators),
        )
        if self.objective == "latency":
            return time
        return energy.access_pj(self.target, "dram", traffic) + energy.static_pj(self.target, time)

    def compute_ns(self, operator: Operator) -> float:
        """Return the least time of an operator's engines."""
        lanes = lanes_bound_ns(self.target, "vector", operator.lane_operations)
        if not operator.macs:
            return lanes
        dtype = self.program.arrays[operator.reads[0].array].dtype
        return max(lanes, cost.compute_bound_ns(self.target, operator.macs, dtype))
