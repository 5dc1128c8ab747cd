"""The report of a run as plain data, on which scripts rely (`polystage run --json`)."""

import math
from collections.abc import Mapping
from typing import Any

from polystage.machine import Target, energy
from polystage.report.check import Check
from polystage.simulator import Cost, Result


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
    return {
        "model": model,
        "target": result.target.name,
        "dtype": dtype,
        "check": _check(check),
        "totals": _figures(result.target, result.totals),
        "layers": [
            {"name": layer.name, "calls": layer.calls, **_figures(result.target, layer.cost)}
            for layer in result.layers
        ],
        "phases_s": dict(phases),
    }


def _figures(target: Target, cost: Cost) -> dict[str, Any]:
    """Return the figures of a layer or of the whole, with the bounds of utilisation and energy.

    The arithmetic has to be done and the compulsory bytes have to cross the DRAM interface.
    """
    bound_ns = cost.latency_bound_ns
    compulsory_pj = energy.access_pj(target, "dram", cost.compulsory_bytes)
    return {
        **cost.to_dict(),
        "utilization_bound": cost.mac_bound_ns / bound_ns if bound_ns else 0.0,
        "energy_bound_pj": cost.energy_pj["mac"] + compulsory_pj,
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
