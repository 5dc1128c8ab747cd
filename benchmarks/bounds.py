"""Every model on every target, beside its bounds: nothing achieved may be better.

Per run: the share of the measured latency that each bound explains, and what bounds it most. Exit
code 1 if a figure is better than its bound. test/models/test_bounds_of_runs.py runs the quick part.

    python benchmarks/bounds.py [--model NAME ..] [--target NAME ..] [--dtype TYPE ..]
"""

import sys
import time
from collections.abc import Iterator, Sequence

import models
import numpy as np
from rich.console import Console
from tables import model_parser, new_table, selected

import polystage as ps
from polystage.errors import PolystageError
from polystage.machine import Target
from polystage.machine.bounds import Bounds, bounds_of, lanes_bound_ns
from polystage.simulator import Result

ROUNDING = 1e-9
"""Of the figures; they are sums of many floats."""
SLOW_ON = {"tiny": ("torch/", "light/", "parallel_wavenet")}
"""A machine of 64 multipliers runs no large model in a time that anybody wants to wait."""


def violations(result: Result) -> list[str]:
    """Return everything in a run that is better than its bound."""
    return [*_total_violations(result), *_layer_violations(result)]


def _total_violations(result: Result) -> Iterator[str]:
    totals, target = result.totals, result.target
    found = bounds_of(target, totals)
    for name, bound in times(found).items():
        yield from _less(f"total: latency, against {name}", totals.latency_ns, bound)
    yield from _less("total: latency, against its own", totals.latency_ns, totals.latency_bound_ns)
    moved = totals.dram_read_bytes + totals.dram_write_bytes
    yield from _less("total: DRAM bytes", moved, totals.compulsory_bytes)
    yield from _less("total: energy", totals.total_energy_pj, found.energy_pj)
    for engine, busy in totals.busy_ns.items():
        yield from _less(f"total: latency, while {engine} is busy for", totals.latency_ns, busy)
    yield from _less("total: 1, against the utilisation", 1.0, totals.utilization)


def _layer_violations(result: Result) -> Iterator[str]:
    """Layers overlap in time, so a layer's bounds hold for its engines, and for its span."""
    target = result.target
    spans = layer_spans(result)
    for layer in result.layers:
        done, name = layer.cost, layer.name
        found = bounds_of(target, done)
        yield from _less(f"{name}: tensor busy", done.busy_ns.get("tensor", 0.0), found.array_ns)
        for engine, operations in done.operations.items():
            bound = lanes_bound_ns(target, engine, operations)
            yield from _less(f"{name}: {engine} busy", done.busy_ns.get(engine, 0.0), bound)
        yield from _less(f"{name}: DMA busy", done.busy_ns.get("dma", 0.0), found.dram_ns)
        moved = done.dram_read_bytes + done.dram_write_bytes
        yield from _less(f"{name}: DRAM bytes", moved, done.compulsory_bytes)
        dynamic = done.total_energy_pj - done.energy_pj["static"]
        yield from _less(f"{name}: energy", dynamic, found.dynamic_pj)
        yield from _less(f"{name}: span", spans.get(name, 0.0), found.program_ns)


def layer_spans(result: Result) -> dict[str, float]:
    """Return the time from the first instruction of every layer to the end of its last."""
    timeline = result.timeline
    spans: dict[str, float] = {}
    for number, name in enumerate(timeline.layers):
        own = timeline.layer == number
        if own.any():
            first, last = np.min(timeline.start_ns[own]), np.max(timeline.end_ns[own])
            spans[name] = float(last - first)
    return spans


def _less(what: str, achieved: float, bound: float) -> Iterator[str]:
    if achieved < bound * (1 - ROUNDING):
        yield f"{what}: {achieved:.9g} is better than {bound:.9g}"


def times(found: Bounds) -> dict[str, float]:
    """Return the bounds of time by name."""
    return {
        "compute": found.compute_ns,
        "compulsory": found.compulsory_ns,
        "array": found.array_ns,
        "lanes": found.lanes_ns,
        "DRAM": found.dram_ns,
    }


def main(arguments: Sequence[str]) -> int:
    """Print the table and return the exit code."""
    parser = model_parser("Every model on every target, beside its bounds")
    parser.add_argument("--target", action="append", default=[], choices=Target.presets())
    parser.add_argument("--dtype", action="append", default=[], choices=("f32", "bf16", "f16"))
    options = parser.parse_args(arguments)
    table = new_table(
        "Share of the latency that a bound explains, in %",
        ["model", "target", "type"],
        ["latency us", *times(Bounds(*[0.0] * 7)), "energy", "s"],
    )
    wrong: list[str] = []
    for name in selected(options.model):
        model = models.load(name)
        for target in options.target or Target.presets():
            if not options.target and name.startswith(SLOW_ON.get(target, ("-",))):
                continue
            for dtype in options.dtype or ("f32", "bf16", "f16"):
                start = time.perf_counter()
                try:
                    program = ps.compile(model.module, target=target, dtype=dtype)
                    result = ps.simulate(program, timing_only=True)
                except PolystageError as error:
                    wrong.append(f"{name} on {target} in {dtype}: {error.message}")
                    continue
                wrong += [f"{name} on {target} in {dtype}: {v}" for v in violations(result)]
                found, totals = bounds_of(result.target, result.totals), result.totals
                shares = [100 * bound / totals.latency_ns for bound in times(found).values()]
                energy = totals.total_energy_pj
                shares.append(100 * found.energy_pj / energy if energy else 100.0)
                table.add_row(
                    name,
                    target,
                    dtype,
                    f"{totals.latency_us:.1f}",
                    *(f"{share:.1f}" for share in shares),
                    f"{time.perf_counter() - start:.1f}",
                )
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
