"""Live ranges to addresses."""

from polystage.allocation.first_fit import first_fit_decreasing
from polystage.allocation.minimise import minimise
from polystage.allocation.problem import (
    BUFFER_ALIGNMENT_BYTES,
    Allocation,
    AllocationError,
    Buffer,
    DoesNotFitError,
    Memory,
    Problem,
    account,
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
    "account",
    "aligned",
    "allocate",
    "first_fit_decreasing",
    "minimise",
]
