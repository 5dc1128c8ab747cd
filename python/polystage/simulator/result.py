"""What a simulated run cost, next to what it must cost at least."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from polystage.machine.target import Target
from polystage.simulator.schedule import Flow, PortConflict, Race, Residence, Schedule


@dataclass(frozen=True)
class Cost:
    """The figures of a layer or of the whole program, each beside its bound.

    `latency_ns` of a layer is how much later the last instruction so far ends with the layer than
    without it. Layers overlap in time, so a layer that hides behind the ones before it has little
    or
    none; the latencies of all layers sum up to that of the program.

    `compulsory_bytes` are what must cross the DRAM interface at least: every input and constant of
    the program (of the layer: every operand) that is read once, every output written once.
    `latency_bound_ns` is the larger of the multiply-accumulates at the peak rate of their type and
    the compulsory bytes at DRAM bandwidth.

    `dram_read_bytes` and `dram_write_bytes` are by cause: input, weight, intermediate, output,
    copy.
    `offchip_copy_bytes` are those of cause copy, both directions; `onchip_copy_bytes` move within
    the scratchpad: transfers between its buffers and transposes. `sbuf_bytes` and `psum_bytes` go
    over the interfaces of these memories. `energy_pj` is by level: mac, register (of the array),
    vector (all lane engines), sbuf, psum, dram, static. `busy_ns` is by engine; `dma` is all DMA
    engines together. `instructions` are by operation, `matmuls` by (k, m, n, type), `operations`,
    on one element each, by lane engine.
    """

    latency_ns: float
    clock_ghz: float
    macs: int
    mac_bound_ns: float
    compulsory_bytes: int
    latency_bound_ns: float
    dram_read_by_cause: dict[str, int]
    dram_write_by_cause: dict[str, int]
    onchip_copy_bytes: int
    offchip_copy_bytes: int
    energy_pj: dict[str, float]
    peak_sbuf_bytes: int
    busy_ns: dict[str, float]
    instructions: dict[str, int]
    matmuls: dict[tuple[int, int, int, str], int]
    operations: dict[str, int]
    sbuf_bytes: int
    psum_bytes: int

    @property
    def cycles(self) -> int:
        """Latency in cycles of the tensor engine."""
        return round(self.latency_ns * self.clock_ghz)

    @property
    def latency_us(self) -> float:
        """Latency in microseconds."""
        return self.latency_ns / 1000.0

    @property
    def latency_bound_us(self) -> float:
        """The least latency that compute and compulsory traffic allow, in microseconds."""
        return self.latency_bound_ns / 1000.0

    @property
    def throughput_per_s(self) -> float:
        """Executions of the whole per second, one after the other."""
        return 1e9 / self.latency_ns if self.latency_ns > 0 else 0.0

    @property
    def utilization(self) -> float:
        """Share of the tensor engine's peak that was used."""
        return self.mac_bound_ns / self.latency_ns if self.latency_ns > 0 else 0.0

    @property
    def dram_read_bytes(self) -> int:
        """Bytes read from DRAM, for all causes."""
        return sum(self.dram_read_by_cause.values())

    @property
    def dram_write_bytes(self) -> int:
        """Bytes written to DRAM, for all causes."""
        return sum(self.dram_write_by_cause.values())

    @property
    def total_energy_pj(self) -> float:
        """Energy of all levels."""
        return sum(self.energy_pj.values())

    @property
    def instruction_count(self) -> int:
        """Instructions executed."""
        return sum(self.instructions.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name, as reports and the JSON output want them."""
        return {
            "cycles": self.cycles,
            "latency_us": self.latency_us,
            "latency_bound_us": self.latency_bound_us,
            "throughput_per_s": self.throughput_per_s,
            "macs": self.macs,
            "utilization": self.utilization,
            "dram_read_bytes": self.dram_read_bytes,
            "dram_write_bytes": self.dram_write_bytes,
            "dram_read_by_cause": dict(self.dram_read_by_cause),
            "dram_write_by_cause": dict(self.dram_write_by_cause),
            "compulsory_bytes": self.compulsory_bytes,
            "onchip_copy_bytes": self.onchip_copy_bytes,
            "offchip_copy_bytes": self.offchip_copy_bytes,
            "energy_pj": self.total_energy_pj,
            "energy_pj_by_level": dict(self.energy_pj),
            "peak_sbuf_bytes": self.peak_sbuf_bytes,
            "busy_us": {name: ns / 1000.0 for name, ns in self.busy_ns.items()},
            "instructions": dict(self.instructions),
            "instruction_count": self.instruction_count,
        }


@dataclass(frozen=True)
class LayerResult:
    """One layer: all calls that carry its name, in order of the first."""

    name: str
    calls: int
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Return name, calls and figures."""
        return {"name": self.name, "calls": self.calls, **self.cost.to_dict()}


@dataclass(frozen=True)
class Result:
    """What `simulate` returns; `outputs` is empty for a run without numerics.

    The outputs are those of the last inference. `races` are those found where they are no errors.
    """

    target: Target
    outputs: Mapping[str, np.ndarray]
    totals: Cost
    layers: tuple[LayerResult, ...]
    timeline: Schedule
    flow: Flow
    port_conflicts: tuple[PortConflict, ...]
    races: tuple[Race, ...]
    order: str
    find_residences: Callable[[], tuple[Residence, ...]] = field(repr=False, compare=False)

    @cached_property
    def residences(self) -> tuple[Residence, ...]:
        """Who occupied which bytes on chip, in order of time; found when first asked for."""
        return self.find_residences()

    def to_dict(self) -> dict[str, Any]:
        """Return totals, layers, flow and port conflicts as plain data."""
        return {
            "target": self.target.name,
            "order": self.order,
            "totals": self.totals.to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
            "flow": self.flow.to_dict(),
            "port_conflicts": [asdict(conflict) for conflict in self.port_conflicts],
            "races": [asdict(race) for race in self.races],
        }


@dataclass(frozen=True)
class DeviceResult:
    """What `simulate_device` returns: a result per core, and what the device does as a whole.

    `timeline` has the instructions of all cores; `flow` counts the inferences of all of them.
    """

    cores: tuple[Result, ...]
    timeline: Schedule
    flow: Flow

    def to_dict(self) -> dict[str, Any]:
        """Return cores and flow as plain data."""
        return {"cores": [core.to_dict() for core in self.cores], "flow": self.flow.to_dict()}
