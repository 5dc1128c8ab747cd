"""Live ranges to addresses."""

from polystage.allocation.first_fit import Buffer, DoesNotFitError, first_fit_decreasing, peak

__all__ = ["Buffer", "DoesNotFitError", "first_fit_decreasing", "peak"]
