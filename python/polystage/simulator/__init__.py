"""The simulator: executes an npu module on real memory images and tells what it cost."""

from polystage.simulator.program import simulate, simulate_device, traced
from polystage.simulator.psum_lives import Lives, in_banks, psum_lives
from polystage.simulator.reordering import Traced, orders_of
from polystage.simulator.result import Cost, DeviceResult, LayerResult, Result

__all__ = [
    "Cost",
    "DeviceResult",
    "LayerResult",
    "Lives",
    "Result",
    "Traced",
    "in_banks",
    "orders_of",
    "psum_lives",
    "simulate",
    "simulate_device",
    "traced",
]
