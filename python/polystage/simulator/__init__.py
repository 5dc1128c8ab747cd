"""The simulator: executes an npu module on real memory images and tells what it cost."""

from polystage.simulator.program import simulate, simulate_device, traced
from polystage.simulator.reordering import Traced, orders_of
from polystage.simulator.result import Cost, DeviceResult, LayerResult, Result

__all__ = [
    "Cost",
    "DeviceResult",
    "LayerResult",
    "Result",
    "Traced",
    "orders_of",
    "simulate",
    "simulate_device",
    "traced",
]
