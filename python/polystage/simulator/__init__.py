"""The simulator: executes an npu module on real memory images and tells what it cost."""

from polystage.simulator.program import simulate, simulate_device
from polystage.simulator.result import Cost, DeviceResult, LayerResult, Result

__all__ = ["Cost", "DeviceResult", "LayerResult", "Result", "simulate", "simulate_device"]
