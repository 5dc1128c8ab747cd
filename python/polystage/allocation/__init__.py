"""Live ranges to addresses."""

from polystage.allocation.first_fit import first_fit_decreasing
from polystage.allocation.problem import (
    BUFFER_ALIGNMENT_BYTES,
    Allocation,
    AllocationError,
    Buffer,
    DoesNotFitError,
    Memory,
    Problem,
    aligned,
)
from polystage.allocation.solve import allocate

__all__ = [
    "BUFFER_ALIGNMENT_BYTES",
    "Allocation",
    "AllocationError",
    "Buffer",
    "DoesNotFitError",
    "Memory",
    "Problem",
    "aligned",
    "allocate",
    "first_fit_decreasing",
]
