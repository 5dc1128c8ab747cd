"""ResNet-50 on machines that were measured: our figure, theirs, where the difference comes from.

Measured, by AWS (FACTS of the Neuron documentation; see docs/measured-machines.md):

* Inferentia, batch 5, four cores of a device: 2040 to 2207 images/s, that is 510 to 552 per core;
* Inferentia2, batch 1: 0.83 ms, 1219 inferences/s on the two cores of a device. By Little's law
  that is 1.01 inferences in flight: what was measured is the latency of one core at a time.

For each machine: the throughput of the device beside the measured one, with one and more inferences
in flight on every core (Little's law printed); then, for one core, what limits the layers that the
time goes into, and counterfactual runs: the same program on a machine without one of its limits, or
without some of its transfers (their data stays on chip, or has come before). Last, what the
parameters change that are assumed, or on which the sources disagree.

Exit code 1 where the machine is over 2 times as fast as the measured one, or would be less than
half as fast even if weights and results stayed on chip: then the rules of the machine are wrong,
whatever the compiler does.

    python benchmarks/measured_machines.py [--machine NAME] [--dtype bf16|f16]
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import light_models
from chain import clone
from rich.console import Console
from tables import new_table

import polystage as ps
from polystage.dialects.npu.target import ATTRIBUTE, target_attribute
from polystage.frontends import ImportedModel
from polystage.machine import Target, parse_settings
from polystage.mlir import ir
from polystage.simulator import Cost, DeviceResult, Result, simulate, simulate_device

FACTOR = 2.0
IN_FLIGHT = (1, 2, 4)
WIDTH = 130

NO_STARTUP = ("dma.startup_ns=0",)
NO_DRAM = (
    "dram.bytes_per_ns=1e6",
    "device.dram_bytes_per_ns=1e7",
    "dma.engine_bytes_per_ns=1e6",
    "dma.descriptor_overhead_ns=0",
)
NO_LANES = (
    "vector.clock_ghz=1e4",
    "scalar.clock_ghz=1e4",
    "gpsimd.clock_ghz=1e4",
    "sbuf.interface_clock_ghz=1e4",
    "psum.interface_clock_ghz=1e4",
)
NO_ARRAY = ("tensor.clock_ghz=1e4",)


@dataclass(frozen=True)
class Counterfactual:
    """A machine without one of its limits, or a program without the transfers of some causes."""

    name: str
    settings: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


ON_CHIP = ("intermediate", "copy")
EVERYTHING = ("weight", *ON_CHIP)
COUNTERFACTUALS = (
    Counterfactual("as compiled"),
    Counterfactual("no start-up of a DMA", NO_STARTUP),
    Counterfactual("weights are on chip already", without=("weight",)),
    Counterfactual("results stay on chip between layers", without=ON_CHIP),
    Counterfactual("both", without=EVERYTHING),
    Counterfactual("both, and no start-up", NO_STARTUP, EVERYTHING),
    Counterfactual("DRAM and DMA engines of any speed", NO_DRAM),
    Counterfactual("the same, and no start-up", (*NO_DRAM, *NO_STARTUP)),
    Counterfactual("vector, scalar and gpsimd of any speed", NO_LANES),
    Counterfactual("array of any speed", NO_ARRAY),
    Counterfactual("nothing but the array limits", (*NO_DRAM, *NO_STARTUP, *NO_LANES)),
)


@dataclass(frozen=True)
class Machine:
    """What was measured, and what is not known of the machine."""

    target: str
    batch: int
    cores: int
    """Cores that worked in the measurement."""
    measured_per_s: tuple[float, float]
    """Least and most images/s of all cores."""
    measured_ms: float | None
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


MACHINES = {
    machine.target: machine
    for machine in (
        Machine(
            "inferentia1",
            batch=5,
            cores=4,
            measured_per_s=(2040.0, 2207.0),
            measured_ms=None,
            variants={
                "array 128 x 128 at 0.5 GHz": ("tensor.columns=128", "tensor.clock_ghz=0.5"),
                "scratchpad of 8 MiB": ("sbuf.bytes_per_partition=65536",),
                "scratchpad of 16 MiB": ("sbuf.bytes_per_partition=131072",),
                "DMA engines of 4 B/ns": ("dma.engine_bytes_per_ns=4",),
                "DMA engines of 29 B/ns": ("dma.engine_bytes_per_ns=28.991029248",),
                "a DMA starts in 650 ns": ("dma.startup_ns=650",),
            },
        ),
        Machine(
            "neuroncore_v2",
            batch=1,
            cores=1,
            measured_per_s=(1219.0, 1219.0),
            measured_ms=0.83,
            variants={
                "DMA engines of 17 B/ns": ("dma.engine_bytes_per_ns=17",),
                "a DMA starts in 650 ns": ("dma.startup_ns=650",),
            },
        ),
    )
}


def load(machine: Machine) -> ImportedModel:
    return ps.load(light_models.light_path("resnet50"), batch=machine.batch)


def compiled(
    model: ImportedModel, machine: Machine, dtype: str, settings: Sequence[str] = ()
) -> ir.Module:
    return ps.compile(model.module, target=machine.target, settings=settings, dtype=dtype)


def changed(program: ir.Module, machine: Machine, change: Counterfactual) -> ir.Module:
    """Return the program on another machine, without the transfers that it can do without."""
    module = clone(program)
    target = Target.load(machine.target, parse_settings(change.settings))
    with module.context:
        module.operation.attributes[ATTRIBUTE] = target_attribute(target)
    for op in [op for op in operations(module.operation) if op.name == "npu.dma"]:
        if ir.StringAttr(op.attributes["cause"]).value in change.without:
            op.erase()
    return module


def operations(op: ir.Operation) -> Iterator[ir.Operation]:
    for region in op.regions:
        for block in region:
            for child in block:
                yield child.operation
                yield from operations(child.operation)


def run_cores(program: ir.Module, cores: int, inferences: int) -> DeviceResult:
    return simulate_device([program] * cores, timing_only=True, inferences=inferences)


def print_throughput(console: Console, machine: Machine, program: ir.Module, dtype: str) -> float:
    """Print the device beside the measurement; return the best rate."""
    least, most = machine.measured_per_s
    title = f"ResNet-50, {dtype}, batch {machine.batch}, {machine.cores} core(s): measured "
    title += f"{least:.0f}" + (f" to {most:.0f}" if most > least else "") + " images/s"
    title += f", {machine.measured_ms} ms" if machine.measured_ms else ""
    columns = ("images/s", "of measured", "latency ms", "rate x latency", "in flight")
    table = new_table(title, ("inferences per core",), columns)
    rates: list[float] = []
    for inferences in IN_FLIGHT:
        flow = run_cores(program, machine.cores, inferences).flow
        rate = flow.throughput_per_s * machine.batch
        rates.append(rate)
        by_law = flow.throughput_per_s * flow.mean_latency_ns / 1e9
        assert abs(by_law - flow.mean_in_flight) <= 1e-9 * by_law, "Little's law"
        table.add_row(
            f"{inferences} after another",
            f"{rate:.0f}",
            f"{rate / least:.2f}" + (f" to {rate / most:.2f}" if most > least else ""),
            f"{flow.mean_latency_ns / 1e6:.3f}",
            f"{by_law:.4f}",
            f"{flow.mean_in_flight:.4f}",
        )
    console.print(table)
    return max(rates)


def print_layers(console: Console, result: Result) -> None:
    """Print what the layers do that the time goes into, and what is busiest in them."""
    print_parts(console, result, "layers by what they compute", kind)
    print_parts(console, result, "layers by the engine that is busiest", busiest)


def kind(cost: Cost) -> str:
    """Return what a layer computes: contractions, reductions, or elementwise operations alone."""
    names = {"npu.matmul": "contraction", "npu.reduce": "reduction"}
    found = (name for op, name in names.items() if op in cost.instructions)
    return next(found, "elementwise, of its own")


def busiest(cost: Cost) -> str:
    """Return the engine that is busy most, and whether it is for most of the time."""
    engine = max(cost.busy_ns, key=lambda name: cost.busy_ns[name], default="none")
    waits = cost.busy_ns.get(engine, 0.0) < 0.6 * cost.latency_ns
    return f"none for 60 % of it, most: {engine}" if waits else engine


def print_parts(console: Console, result: Result, title: str, part: Callable[[Cost], str]) -> None:
    time: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for layer in result.layers:
        time[part(layer.cost)] += layer.cost.latency_ns
        count[part(layer.cost)] += 1
    table = new_table(title, ("layers",), ("number", "us", "%"))
    total = result.totals.latency_ns
    for name, ns in time.most_common():
        table.add_row(name, f"{count[name]}", f"{ns / 1e3:.1f}", f"{100 * ns / total:.1f}")
    console.print(table)


def print_bounds(console: Console, result: Result) -> None:
    """Print the busy times of a core beside its latency, and what each is made of."""
    totals = result.totals
    rows = {
        "latency": totals.latency_ns,
        "tensor engine busy": totals.busy_ns.get("tensor", 0.0),
        "  of it multiplying at peak": totals.mac_bound_ns,
        "vector engine busy": totals.busy_ns.get("vector", 0.0),
        "scalar engine busy": totals.busy_ns.get("scalar", 0.0),
        "DMA engines busy": totals.busy_ns.get("dma", 0.0),
        "all transfers at DRAM bandwidth": (totals.dram_read_bytes + totals.dram_write_bytes)
        / result.target.dram.bytes_per_ns,
        "compulsory bytes at DRAM bandwidth": totals.compulsory_bytes
        / result.target.dram.bytes_per_ns,
    }
    table = new_table("one core", ("what",), ("us", "% of latency"))
    for name, ns in rows.items():
        table.add_row(name, f"{ns / 1e3:.1f}", f"{100 * ns / totals.latency_ns:.1f}")
    console.print(table)
    read, written = (Counter(c) for c in (totals.dram_read_by_cause, totals.dram_write_by_cause))
    causes = ", ".join(f"{cause} {n / 1e6:.1f}" for cause, n in (read + written).most_common())
    console.print(f"DRAM MB by cause: {causes}\n", highlight=False)


def print_counterfactuals(console: Console, machine: Machine, program: ir.Module) -> float:
    """Print the latency of one core without each limit; return its rate with all data on chip."""
    columns = ("us", "saved us", "saved %", "array used %", "images/s")
    table = new_table("one core, one inference; the same program", ("what if",), columns)
    first, on_chip = 0.0, 0.0
    for change in COUNTERFACTUALS:
        totals = simulate(changed(program, machine, change), timing_only=True).totals
        ns = totals.latency_ns
        first = first or ns
        if change.without == EVERYTHING and not change.settings:
            on_chip = machine.batch * 1e9 / ns
        table.add_row(
            change.name,
            f"{ns / 1e3:.1f}",
            f"{(first - ns) / 1e3:.1f}",
            f"{100 * (first - ns) / first:.1f}",
            f"{100 * totals.utilization:.1f}" if "tensor" not in str(change.settings) else "-",
            f"{machine.batch * 1e9 / ns:.0f}",
        )
    console.print(table)
    return on_chip


def print_variants(console: Console, model: ImportedModel, machine: Machine, dtype: str) -> None:
    """Print what other values of unknown parameters give; each with a program of its own."""
    columns = ("latency us", "images/s", "of measured")
    table = new_table(f"other values, {machine.cores} core(s)", ("parameter",), columns)
    least, most = machine.measured_per_s
    for name, settings in {"as in the preset": (), **machine.variants}.items():
        program = compiled(model, machine, dtype, settings)
        flow = run_cores(program, machine.cores, 1).flow
        rate = flow.throughput_per_s * machine.batch
        table.add_row(
            name,
            f"{flow.mean_latency_ns / 1e3:.1f}",
            f"{rate:.0f}",
            f"{rate / least:.2f}" + (f" to {rate / most:.2f}" if most > least else ""),
        )
    console.print(table)


def measure(console: Console, machine: Machine, dtype: str) -> bool:
    """Print all of one machine; return whether its rules and the measurement agree."""
    console.rule(machine.target)
    model = load(machine)
    program = compiled(model, machine, dtype)
    rate = print_throughput(console, machine, program, dtype)
    one = simulate(program, timing_only=True)
    print_bounds(console, one)
    print_layers(console, one)
    on_chip = print_counterfactuals(console, machine, program) * machine.cores
    print_variants(console, model, machine, dtype)
    least, most = machine.measured_per_s
    return rate <= most * FACTOR and on_chip >= least / FACTOR


def main() -> int:
    parser = argparse.ArgumentParser(description="ResNet-50 beside measured machines.")
    parser.add_argument("--machine", action="append", choices=list(MACHINES), help="only this one")
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "f16", "f32"))
    options = parser.parse_args()
    console, missed = Console(width=WIDTH), 0
    for name in options.machine or MACHINES:
        if not measure(console, MACHINES[name], options.dtype):
            console.print(f"{name}: missed")
            missed += 1
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
