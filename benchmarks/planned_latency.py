"""Planned latency and energy beside the simulated ones: whole models and the anchors.

For a flat scratchpad `npu-fuse-operators` states when the whole program will be done and what
energy it takes; for one with partitions (`--target`) `npu-schedule-instructions` states the time.
The simulator says what comes of it. `apart` is the largest difference allowed, 5 %.

    python benchmarks/planned_latency.py [--model NAME].. [--kib N].. [--dtype bf16|f32]
        [--objective traffic|latency|energy] [--anchors] [--target NAME]

Exit code 1 where a latency is more than 5 % from the planned one.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass

import anchors
import models
from chain import clone
from rich.console import Console
from tables import model_parser, new_table
from whole_models import rows

import polystage as ps
from polystage.errors import PolystageError
from polystage.frontends import ImportedModel
from polystage.machine import Target
from polystage.pipeline import default_pipeline, run_pipeline
from polystage.planner.fusion.plan_attributes import planned_costs
from polystage.report.inputs import random_inputs

APART = 0.05
"""By which part of it a simulated latency may differ from the planned one."""

PARTITIONED = (
    "torch/resnet50",
    "torch/bert_128",
    "torch/gpt2",
    "torch/vit_base",
    "torch/mobilenetv2",
)
"""Models that are measured on targets with partitions."""

TEXTS = ("model", "type")
NUMBERS = (
    "KiB",
    "planned\nus",
    "simulated\nus",
    "ratio",
    "energy\nratio",
    "MB",
    "plan and\nlower s",
)


@dataclass(frozen=True)
class Measured:
    """One program: nanoseconds and picojoules, planned and simulated; a target with partitions has
    no size to choose, and no planned energy."""

    name: str
    kib: int | None
    dtype: str
    planned_ns: int
    simulated_ns: float
    planned_pj: int | None
    simulated_pj: float
    dram_bytes: int
    compile_s: float

    @property
    def ratio(self) -> float:
        """Simulated over planned."""
        return self.simulated_ns / self.planned_ns

    @property
    def is_near(self) -> bool:
        """Whether the latency is what was planned."""
        return abs(self.ratio - 1.0) <= APART


def measure(
    name: str, model: ImportedModel, target: str, kib: int | None, dtype: str, objective: str
) -> Measured:
    """Compile a model and simulate it; a flat scratchpad has `kib`.

    Raises: PolystageError, also where the program has no planned latency.
    """
    module = clone(model.module)
    settings = () if kib is None else (f"scratchpad_bytes={kib * 1024}",)
    start = time.process_time()
    run_pipeline(module, default_pipeline(target, dtype, settings, objective), remarks=False)
    compile_s = time.process_time() - start
    planned = planned_costs(module)
    if planned is None:
        raise PolystageError("the program has no planned latency")
    result = ps.simulate(module, random_inputs(model.inputs, seed=0), timing_only=True)
    totals = result.totals
    return Measured(
        name,
        kib,
        dtype,
        planned["nanoseconds"],
        totals.latency_ns,
        planned.get("picojoules"),
        sum(totals.energy_pj.values()),
        totals.dram_read_bytes + totals.dram_write_bytes,
        compile_s,
    )


def cases(asked: Namespace) -> Iterator[tuple[str, ImportedModel, int | None, str]]:
    """Yield name, model, KiB and arithmetic of what is asked for; the anchors are in f32."""
    if not Target.load(asked.target).is_flat:
        for name in asked.model or PARTITIONED:
            yield name, models.load(name), None, asked.dtype
        return
    if asked.anchors or not asked.model:
        loaded = {name: ps.load(models.anchors.MODELS[name]()) for name in anchors.ANCHORS}
        for name, size in anchors.cases([]):
            yield name, loaded[name], 2 * size // 1024, "f32"
    if asked.model or not asked.anchors:
        for name, kib, _ in rows(asked.model, asked.kib):
            yield name, models.load(name), kib, asked.dtype


def cells(found: Measured) -> list[str]:
    """Return a row of the table."""
    return [
        found.name,
        found.dtype,
        "-" if found.kib is None else str(found.kib),
        f"{found.planned_ns / 1000:,.1f}",
        f"{found.simulated_ns / 1000:,.1f}",
        f"{found.ratio:.3f}",
        "-" if found.planned_pj is None else f"{found.simulated_pj / found.planned_pj:.3f}",
        f"{found.dram_bytes / 1e6:.2f}",
        f"{found.compile_s:.1f}",
    ]


def main() -> int:
    """Measure what is asked for and print the table."""
    parser = model_parser((__doc__ or "").partition("\n")[0])
    parser.add_argument("--kib", type=int, action="append", default=[], help="scratchpad size")
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "f32"))
    parser.add_argument("--objective", default="traffic", choices=("traffic", "latency", "energy"))
    parser.add_argument("--anchors", action="store_true", help="the anchors alone")
    parser.add_argument("--target", default="flat", help="flat, or one with partitions")
    asked = parser.parse_args()
    table = new_table("simulated over planned", TEXTS, NUMBERS)
    failed = False
    for name, model, kib, dtype in cases(asked):
        try:
            found = measure(name, model, asked.target, kib, dtype, asked.objective)
        except PolystageError as error:
            where = asked.target if kib is None else f"{kib} KiB"
            print(f"{name} at {where}: {error}", file=sys.stderr)
            failed = True
            continue
        failed |= not found.is_near
        table.add_row(*cells(found))
        print(*cells(found), file=sys.stderr, flush=True)
    Console(width=140).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
