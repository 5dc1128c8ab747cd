"""Points of a sweep: the machine of each, and what a model does there."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from polystage.explore.axes import AXES, Axis, Value
from polystage.machine import Target, area
from polystage.simulator import Result

Axes = Sequence[tuple[Axis, Sequence[Value]]]

LIMITED = 0.6
"""Share of the time from which an engine counts as what limits."""


@dataclass(frozen=True)
class Point:
    """A design: the sizes that differ from the target's, by axis; `axis` is the swept one."""

    axis: str
    values: Mapping[str, Value]

    @property
    def cores(self) -> int:
        """Cores that work."""
        cores = self.values.get("cores", 1)
        assert isinstance(cores, int)
        return cores

    def target(self, base: Target) -> Target:
        """Return the machine.

        Raises: TargetError where there can be none.
        """
        for name, axis in AXES.items():
            if name in self.values:
                base = base.override(axis.overrides(base, self.values[name]), f"{name} sweep")
        return base

    def text(self) -> str:
        """Return the sizes in words."""
        return ", ".join(f"{name} {AXES[name].text(v)}" for name, v in self.values.items())


def one_by_one(axes: Axes) -> Iterator[Point]:
    """Yield the points of a sweep over each axis in turn, the others fixed."""
    for axis, values in axes:
        for value in values:
            yield Point(axis.name, {axis.name: value})


def grid(axes: Axes) -> Iterator[Point]:
    """Yield all combinations, the last axis fastest."""
    for combination in itertools.product(*(values for _, values in axes)):
        names = [axis.name for axis, _ in axes]
        yield Point(names[-1], dict(zip(names, combination, strict=True)))


@dataclass(frozen=True)
class Figures:
    """What a model does on a machine; an inference is one item of the batch.

    `compute_bound_per_s` is the rate with every array at its peak, `dram_bound_per_s` that with
    every input, weight and output crossing the DRAM interface once. `busy` is the share of the time
    for which each engine works, `dram` that of the DRAM interface of the device.
    """

    latency_us: float
    inferences_per_s: float
    inferences_per_j: float
    utilization: float
    compute_bound_per_s: float
    dram_bound_per_s: float
    dram_bytes: float
    energy_pj_by_level: Mapping[str, float]
    busy: Mapping[str, float]
    peak_sbuf_bytes: int
    area_mm2: float

    @property
    def limit(self) -> str:
        """What limits: the busiest engine, or `latency` where none is busy most of the time."""
        busiest = max(self.busy, key=lambda name: self.busy[name])
        return busiest if self.busy[busiest] >= LIMITED else "latency"

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {**asdict(self), "limit": self.limit}


@dataclass(frozen=True)
class Outcome:
    """What came of a point: figures, or why there are none."""

    point: Point
    figures: Figures | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the point and its figures as plain data."""
        values = {name: AXES[name].text(value) for name, value in self.point.values.items()}
        figures = self.figures.to_dict() if self.figures else None
        return {
            "axis": self.point.axis,
            "values": values,
            "figures": figures,
            "reason": self.reason or None,
        }


def figures_of(
    target: Target, cores: Sequence[Result], total_ns: float, latency_ns: float, items: int
) -> Figures:
    """Return the figures of a run of all cores that took `total_ns` for `items` in all.

    Utilisation and busy shares are means over the cores.
    """
    totals = [core.totals for core in cores]
    seconds, count = total_ns / 1e9, len(totals)
    energy = _summed([t.energy_pj for t in totals])
    mac_ns = sum(t.mac_bound_ns for t in totals)
    compulsory = sum(t.compulsory_bytes for t in totals)
    dram_bytes = sum(t.dram_read_bytes + t.dram_write_bytes for t in totals)
    bandwidth = min(
        target.device.dram_bytes_per_ns,
        count * min(target.dram.bytes_per_ns, target.dma.bytes_per_ns),
    )
    busy = _summed([t.busy_ns for t in totals])
    return Figures(
        latency_us=latency_ns / 1e3,
        inferences_per_s=items / seconds,
        inferences_per_j=items / (sum(energy.values()) / 1e12),
        utilization=mac_ns / (total_ns * count),
        compute_bound_per_s=items / (mac_ns / count / 1e9) if mac_ns else float("inf"),
        dram_bound_per_s=items / (compulsory / bandwidth / 1e9),
        dram_bytes=dram_bytes / items,
        energy_pj_by_level={level: pj / items for level, pj in energy.items()},
        busy={
            **{name: ns / (total_ns * count) for name, ns in busy.items()},
            "dram": dram_bytes / bandwidth / total_ns,
        },
        peak_sbuf_bytes=max(t.peak_sbuf_bytes for t in totals),
        area_mm2=area.estimate(target).total_mm2 * count,
    )


def _summed(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}
