"""Live ranges to addresses."""

from polystage.allocation.first_fit import (
    BUFFER_ALIGNMENT_BYTES,
    Buffer,
    DoesNotFitError,
    aligned,
    first_fit_decreasing,
    peak,
)

__all__ = [
    "BUFFER_ALIGNMENT_BYTES",
    "Buffer",
    "DoesNotFitError",
    "aligned",
    "first_fit_decreasing",
    "peak",
]
