"""The report of a run as plain data, on which scripts rely (`polystage run --json`).

docs/report.md says what every key means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polystage.machine import Target, area
from polystage.machine.bounds import bounds_of
from polystage.report.activity import (
    dram_section,
    own_times_ns,
    residence_section,
    timeline_section,
)
from polystage.report.check import Check
from polystage.report.losses import STEPS, Contraction, Losses, losses, program_losses
from polystage.simulator import Cost, DeviceResult, Result
from polystage.simulator.schedule import PortConflict

FORMAT = "polystage-report"
VERSION = 1

ELEMENT_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f8": 1, "i8": 1}


@dataclass(frozen=True)
class Subject:
    """What was run: the model, its arithmetic and batch, the contractions of its layers, and what
    its plan was expected to cost, by unit."""

    model: str
    dtype: str | None
    batch: int | None = None
    contractions: Mapping[str, Sequence[Contraction]] = field(
        default_factory=dict[str, Sequence[Contraction]]
    )
    planned: Mapping[str, int] | None = None


def document(
    subject: Subject, result: Result | DeviceResult, check: Check | str, phases: Mapping[str, float]
) -> dict[str, Any]:
    """Return everything that tables, page and comparison are made of.

    Of several cores, which run the same model, totals and layers are those of the first; flow and
    timeline are those of the device. An error that is not finite is null, since JSON has no word
    for it. A check that was not made has a `reason` and nulls.
    """
    cores = result.cores if isinstance(result, DeviceResult) else (result,)
    first, timeline = cores[0], result.timeline
    names = [layer.name for layer in first.layers]
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": subject.model,
        "target": first.target.name,
        "dtype": subject.dtype,
        "batch": subject.batch,
        "order": first.order,
        "cores": len(cores),
        "inferences": first.flow.inferences,
        "machine": _machine(first.target, subject.dtype or first.target.default_dtype, len(cores)),
        "loss_steps": [
            {"key": s.key, "title": s.title, "explanation": s.explanation} for s in STEPS
        ],
        "check": _check(check),
        **_figures_of(subject, first),
        "planned": dict(subject.planned) if subject.planned is not None else None,
        "flow": result.flow.to_dict(),
        "port_conflicts": [_port_conflict(c) for core in cores for c in core.port_conflicts],
        "timeline": timeline_section(timeline, names),
        "dram": dram_section(timeline, result.flow.total_ns),
        "memory": residence_section([r for core in cores for r in core.residences], names),
        "phases_s": dict(phases),
    }


def to_text(document: Mapping[str, Any]) -> str:
    """Return a document as JSON with a line per entry and per layer."""
    lines = [f"{json.dumps(key)}: {_json_lines(value)}" for key, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json_lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        entries: list[Any] = value
        return "[\n  " + ",\n  ".join(json.dumps(v, allow_nan=False) for v in entries) + "\n]"
    return json.dumps(value, allow_nan=False)


def _figures_of(subject: Subject, result: Result) -> dict[str, Any]:
    """Return totals and layers."""
    target = result.target
    under_way = own_times_ns(result.timeline, target.dma.startup_ns)
    own_ns = dict(zip(result.timeline.layers, under_way.tolist(), strict=True))
    layers: list[dict[str, Any]] = []
    breakdowns: list[Losses | None] = []
    for layer in result.layers:
        cost, name = layer.cost, layer.name
        own = max(own_ns.get(name, 0.0), cost.latency_ns)
        nests = subject.contractions.get(name, ())
        breakdowns.append(losses(target, cost.matmuls, nests, cost.busy_ns, own))
        layers.append(
            {
                "name": name,
                "calls": layer.calls,
                **_figures(cost),
                "energy_bound_pj": bounds_of(target, cost).dynamic_pj,
                "own_us": own / 1000.0,
                "losses_us": _times_us(breakdowns[-1]),
            }
        )
    totals = result.totals
    whole = program_losses(breakdowns, totals.busy_ns, totals.latency_ns)
    figures = {
        **_figures(totals),
        "energy_bound_pj": bounds_of(target, totals).energy_pj,
        "losses_us": _times_us(whole),
    }
    return {"totals": figures, "layers": layers}


def _times_us(breakdown: Losses | None) -> list[float] | None:
    return [ns / 1000.0 for ns in breakdown.times_ns] if breakdown else None


def _figures(cost: Cost) -> dict[str, Any]:
    """Return the figures of a layer or of the whole, with the bound of utilisation."""
    bound_ns = cost.latency_bound_ns
    return {
        **cost.to_dict(),
        "operations": dict(cost.operations),
        "sbuf_bytes": cost.sbuf_bytes,
        "psum_bytes": cost.psum_bytes,
        "utilization_bound": cost.mac_bound_ns / bound_ns if bound_ns else 0.0,
    }


def _port_conflict(conflict: PortConflict) -> dict[str, Any]:
    return {
        "memory": conflict.memory,
        "queue": conflict.queue,
        "op": conflict.op,
        "other": conflict.other,
        "count": conflict.count,
        "stall_us": conflict.stall_ns / 1000.0,
    }


def _machine(target: Target, dtype: str, cores: int) -> dict[str, Any]:
    """Return what the roofs and axes of a page are made of."""
    array, lanes = target.tensor, ("vector", "scalar", "gpsimd")
    rate = dtype if array.supports(dtype) else target.default_dtype
    return {
        "description": target.description,
        "rows": array.rows,
        "columns": array.columns,
        "peak_macs_per_ns": array.macs_per_ns(rate),
        "lane_operations_per_ns": {name: getattr(target, name).operations_per_ns for name in lanes},
        "dram_bytes_per_ns": min(target.dram.bytes_per_ns, target.dma.bytes_per_ns),
        "device_dram_bytes_per_ns": min(
            target.device.dram_bytes_per_ns, cores * target.dma.bytes_per_ns
        ),
        "sbuf_bytes_per_ns": sbuf_bytes_per_ns(target, ELEMENT_BYTES[rate]),
        "sbuf_partitions": target.sbuf.partitions,
        "sbuf_bytes_per_partition": target.sbuf.bytes_per_partition,
        "psum_partitions": target.psum.partitions,
        "psum_bytes_per_partition": target.psum.bytes_per_partition,
        "area_mm2": area.estimate(target).parts_mm2,
    }


def sbuf_bytes_per_ns(target: Target, element_bytes: int) -> float:
    """Return what all engines together can read from and write to sbuf at most.

    The array takes in a row of the moving operand per cycle, and one of a stationary operand
    `weight_load_speedup` times as fast; every lane engine reads two operands and writes one at the
    rate of its interface; the DMA engines read or write.
    """
    array, sbuf = target.tensor, target.sbuf
    streams = array.rows * array.clock_ghz * (1.0 + array.weight_load_speedup)
    interface = sbuf.interface_elements_per_cycle * sbuf.interface_clock_ghz
    return (streams + 3 * 3 * interface) * element_bytes + 2 * target.dma.bytes_per_ns


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
