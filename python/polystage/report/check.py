"""Compare the outputs of a run with those of an independent reference."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polystage.errors import PolystageError

Arrays = Mapping[str, np.ndarray]

F32_TOLERANCE = 1e-3
"""Largest relative error of f32 arithmetic; references sum in another order."""

UNIT_ROUNDOFF = {"bf16": 2.0**-8, "f16": 2.0**-11, "f8": 2.0**-4}
"""Largest relative error of rounding to a type."""


@dataclass(frozen=True)
class Check:
    """How far a run is from its reference, over all outputs.

    `max_rel_error` is the largest difference of an output over its largest magnitude.
    """

    reference: str
    max_abs_error: float
    max_rel_error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Return whether the error is within the tolerance; a NaN is not."""
        return self.max_rel_error <= self.tolerance


def tolerance(dtype: str, layers: int) -> float:
    """Return the relative error that arithmetic in `dtype` explains.

    f32: 1e-3. A narrower type rounds every value once per layer by at most the unit roundoff u;
    independent roundings add up like a random walk, so that after L layers the error is about
    u * sqrt(L). Twice that is allowed, and never less than for f32.

    >>> tolerance("f32", 100), tolerance("bf16", 64)
    (0.001, 0.0625)
    """
    if dtype not in UNIT_ROUNDOFF:
        return F32_TOLERANCE
    return max(F32_TOLERANCE, 2 * UNIT_ROUNDOFF[dtype] * math.sqrt(max(1, layers)))


def compare(actual: Arrays, expected: Arrays, reference: str, allowed: float) -> Check:
    """Return the errors of `actual` against `expected`, the worst output counting.

    Raises: PolystageError where an output is missing or has another shape.
    """
    errors = [_errors(name, actual, value) for name, value in expected.items()]
    absolute = max((error[0] for error in errors), default=0.0)
    relative = max((error[1] for error in errors), default=0.0)
    return Check(reference, absolute, relative, allowed)


def _errors(name: str, actual: Arrays, expected: np.ndarray) -> tuple[float, float]:
    if name not in actual or actual[name].shape != expected.shape:
        found = actual[name].shape if name in actual else "no such output"
        raise PolystageError(
            f"output '{name}' of the reference has shape {expected.shape}, the program has {found}"
        )
    a, b = actual[name].astype(np.float64), expected.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # infinities too
    with np.errstate(invalid="ignore"):
        differences = np.where(same, 0.0, np.abs(a - b))
    if not differences.size or differences.max() == 0.0:
        return 0.0, 0.0
    absolute = float(np.where(np.isnan(differences), np.inf, differences).max())
    finite = np.abs(b[np.isfinite(b)])
    largest = float(finite.max()) if finite.size else 0.0
    return absolute, absolute / largest if largest else math.inf
