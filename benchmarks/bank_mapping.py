"""Global against local bank mapping: reshuffles, copied bytes, time; beside the exact optimum.

Every model in f32 on neuroncore_v2, after copy elimination. `local` lets each operation take what
is fastest for it alone and reshuffles on every mismatch; `global` is the default of npu-map-banks;
`optimum` is the integer program of the same problem, solved by HiGHS; `none` leaves everything
row-major, every kernel as it likes.

Planned: the objective in microseconds (what reshuffles cost, and engines lose by not taking their
fastest variant), reshuffles, bytes that are turned on chip, read or written in short runs, and
explicitly copied off chip. Simulated: copied bytes on chip and off chip, and the latency.

The paper's direction for ResNet-50 (as remembered, no source at hand): about 76 % fewer
on-chip and 37 % fewer off-chip copies.

Exit code 1 where global is more than 1 % above the optimum, or slower than none.

    python benchmarks/bank_mapping.py [--model NAME]..
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import models
from chain import ELIMINATE_COPIES, MAP_BANKS, TARGET, clone, lowering, run_passes
from rich.console import Console
from rich.table import Table
from tables import megabytes, new_table

import polystage as ps
from polystage.frontends import ImportedModel
from polystage.machine import Target
from polystage.mlir import ir
from polystage.passes.polyhedral.map_banks import storable_dims
from polystage.passes.tensors.normalize import NORMALIZE
from polystage.planner.layouts import (
    LayoutProblem,
    build_problem,
    map_globally,
    map_locally,
)
from polystage.planner.layouts import (
    Mapping as Chosen,
)
from polystage.planner.layouts.integer_program import minimise_exactly
from polystage.polyhedral import TensorProgram
from polystage.simulator.result import Cost

TOLERANCE = 0.01
"""How far global may be above the optimum."""

SLOWER = 0.002
"""Share by which a mapped program may be slower than one that is not: runs that are a few bytes
longer or shorter."""

TEXTS = ("model", "mapping")
NUMBERS = (
    "objective\nus",
    "reshuffles",
    "turned\non chip MB",
    "short runs\nMB",
    "copied\noff chip MB",
    "of\noptimum",
    "pass\ns",
    "simulated\non chip MB",
    "simulated\noff chip MB",
    "simulated\nus",
)
WIDTH = 150


MODELS: Mapping[str, Callable[[], ImportedModel]] = {
    "resnet50": lambda: models.load("light/resnet50"),
    "resnet50 batch 5": lambda: models.load("light/resnet50", batch=5),
    "densenet121": lambda: models.load("light/densenet121"),
    "shufflenet": lambda: models.load("light/shufflenet"),
    "vit_base": lambda: models.load("torch/vit_base"),
    "gpt2": lambda: models.load("torch/gpt2"),
}


@dataclass(frozen=True)
class Row:
    """One mapping of a model; what was not measured is None."""

    mapping: str
    planned: Chosen | None
    pass_s: float | None
    simulated: Cost | None


def rows(model: ImportedModel) -> list[Row]:
    """Return what none, local, global and the optimum give."""
    passes = lowering(map_banks=True)
    place = next(i for i, text in enumerate(passes) if text.startswith(MAP_BANKS))
    prepared = clone(model.module)
    run_passes(
        prepared, ",".join([f"{NORMALIZE},{ELIMINATE_COPIES},canonicalize,cse", *passes[:place]])
    )
    problem = problem_of(prepared)
    planned = {"none": None, "local": map_locally(problem), "global": map_globally(problem)}
    found: list[Row] = []
    for mapping, plan in planned.items():
        module = clone(prepared)
        own = [] if plan is None else [f"{MAP_BANKS}{{mode={mapping}}}"]
        records = run_passes(module, ",".join([*own, *passes[place + 1 :]]))
        simulated = ps.simulate(module, timing_only=True).totals
        found.append(Row(mapping, plan, records[0].seconds if own else None, simulated))
    start = time.perf_counter()
    optimum = minimise_exactly(problem.graph)
    seconds = time.perf_counter() - start
    exact = problem.mapping(optimum.choices, is_exact=True)
    return [*found, Row("optimum", exact, seconds, None)]


def problem_of(module: ir.Module) -> LayoutProblem:
    program = TensorProgram.from_module(module)
    with module.context, ir.Location.unknown():
        return build_problem(program, Target.load(TARGET), storable_dims(program))


def add_model(table: Table, name: str, measured: list[Row]) -> None:
    """Add a row for each mapping, and a line below."""
    optimum = measured[-1].planned
    assert optimum is not None
    for row in measured:
        plan, cost = row.planned, row.simulated
        short = None
        if plan is not None:
            strided = (r for r in plan.reshuffles if r.charge.way == "strided")
            short = sum(r.array.size_bytes for r in strided)
        table.add_row(
            name if row is measured[0] else "",
            row.mapping,
            "-" if plan is None else f"{plan.cost_ns / 1000:.2f}",
            "-" if plan is None else f"{len(plan.reshuffles)}",
            megabytes(None if plan is None else plan.onchip_bytes),
            megabytes(short),
            megabytes(None if plan is None else plan.offchip_bytes),
            "-" if plan is None else ratio(plan.cost_ns, optimum.cost_ns),
            "-" if row.pass_s is None else f"{row.pass_s:.2f}",
            megabytes(None if cost is None else cost.onchip_copy_bytes),
            megabytes(None if cost is None else cost.offchip_copy_bytes),
            "-" if cost is None else f"{cost.latency_us:.1f}",
        )
    table.add_section()


def ratio(cost: float, optimum: float) -> str:
    if cost <= optimum * (1 + 1e-9) + 1e-6:
        return "1.000"
    return f"{cost / optimum:.3f}" if optimum else "inf"


def misses(measured: list[Row]) -> bool:
    """Return whether global is too far from the optimum, or slower than none."""
    none, _, chosen, optimum = measured
    assert chosen.planned and optimum.planned and none.simulated and chosen.simulated
    above = chosen.planned.cost_ns > optimum.planned.cost_ns * (1 + TOLERANCE) + 1e-3
    return above or chosen.simulated.latency_ns > none.simulated.latency_ns * (1 + SLOWER)


def main() -> int:
    parser = argparse.ArgumentParser(description="Global against local bank mapping.")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="only this one")
    console, missed = Console(width=WIDTH), 0
    table = new_table("bank mapping", TEXTS, NUMBERS)
    for name in parser.parse_args().model or MODELS:
        measured = rows(MODELS[name]())
        add_model(table, name, measured)
        if misses(measured):
            console.print(f"{name}: missed")
            missed += 1
    console.print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
