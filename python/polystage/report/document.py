"""The report of a run as plain data, on which scripts rely (`polystage run --json`)."""

import math
from collections.abc import Mapping
from typing import Any

from polystage.report.check import Check
from polystage.simulator import Result


def document(
    model: str,
    dtype: str | None,
    result: Result,
    check: Check | str,
    phases: Mapping[str, float],
) -> dict[str, Any]:
    """Return model, target, check, totals, layers and seconds per phase.

    An error that is not finite is null, since JSON has no word for it. A check that was not made
    has a `reason` and nulls.
    """
    figures = result.to_dict()
    return {
        "model": model,
        "target": figures["target"],
        "dtype": dtype,
        "check": _check(check),
        "totals": figures["totals"],
        "layers": figures["layers"],
        "phases_s": dict(phases),
    }


def _check(check: Check | str) -> dict[str, Any]:
    if isinstance(check, str):
        keys = ("reference", "max_abs_error", "max_rel_error", "tolerance", "passed")
        return {**dict.fromkeys(keys), "reason": check}
    return {
        "reference": check.reference,
        "max_abs_error": _finite(check.max_abs_error),
        "max_rel_error": _finite(check.max_rel_error),
        "tolerance": check.tolerance,
        "passed": check.passed,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
