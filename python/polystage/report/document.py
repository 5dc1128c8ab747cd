"""The report of a run as plain data, on which scripts rely (`polystage run --json`)."""

import math
from collections.abc import Mapping
from typing import Any

from polystage.report.check import Check
from polystage.simulator import Result

NO_CHECK = {
    "reference": None,
    "max_abs_error": None,
    "max_rel_error": None,
    "tolerance": None,
    "passed": None,
}


def document(
    model: str, dtype: str, result: Result, check: Check | None, phases: Mapping[str, float]
) -> dict[str, Any]:
    """Return model, target, check, totals, layers and seconds per phase.

    An error that is not finite is null, since JSON has no word for it; `check` without a reference
    says that none was made.
    """
    figures = result.to_dict()
    return {
        "model": model,
        "target": figures["target"],
        "dtype": dtype,
        "check": NO_CHECK if check is None else _check(check),
        "totals": figures["totals"],
        "layers": figures["layers"],
        "phases_s": dict(phases),
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "reference": check.reference,
        "max_abs_error": _finite(check.max_abs_error),
        "max_rel_error": _finite(check.max_rel_error),
        "tolerance": check.tolerance,
        "passed": check.passed,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
