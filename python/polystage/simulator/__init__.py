"""The simulator: executes an npu module on real memory images and tells what it cost."""

from polystage.simulator.program import simulate
from polystage.simulator.result import Cost, LayerResult, Result

__all__ = ["Cost", "LayerResult", "Result", "simulate"]
