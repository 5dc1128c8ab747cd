"""How long a plan takes, from its schedule: before it is lowered, and without a simulator's run."""

from polystage.planner.fusion.latency.program import Latency, latency_of

__all__ = ["Latency", "latency_of"]
