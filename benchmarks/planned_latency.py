"""Planned latency and energy beside the simulated ones: whole models and the anchors.

`npu-fuse-operators` states when the whole program will be done and what energy it takes; the
simulator says what comes of it. `apart` is the largest difference allowed, 5 %.

    python benchmarks/planned_latency.py [--model NAME].. [--kib N].. [--dtype bf16|f32]
        [--objective traffic|latency|energy] [--anchors]

Exit code 1 where a latency is more than 5 % from the planned one.
"""

import sys
import time
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
from polystage.pipeline import default_pipeline, run_pipeline
from polystage.report.inputs import random_inputs

APART = 0.05
"""By which part of it a simulated latency may differ from the planned one."""

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
    """One program: nanoseconds and picojoules, planned and simulated."""

    name: str
    kib: int
    dtype: str
    planned_ns: int
    simulated_ns: float
    planned_pj: int
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


def measure(name: str, model: ImportedModel, kib: int, dtype: str, objective: str) -> Measured:
    """Compile a model for a flat scratchpad and simulate it.

    Raises: PolystageError.
    """
    module = clone(model.module)
    passes = default_pipeline("flat", dtype, (f"scratchpad_bytes={kib * 1024}",), objective)
    start = time.process_time()
    records = run_pipeline(module, passes)
    compile_s = time.process_time() - start
    planned = next(r for r in records if r.name.startswith("npu-fuse-operators")).statistics
    result = ps.simulate(module, random_inputs(model.inputs, seed=0), timing_only=True)
    totals = result.totals
    return Measured(
        name,
        kib,
        dtype,
        planned["planned nanoseconds"],
        totals.latency_ns,
        planned["planned picojoules"],
        sum(totals.energy_pj.values()),
        totals.dram_read_bytes + totals.dram_write_bytes,
        compile_s,
    )


def cases(
    wanted: list[str], sizes: list[int], dtype: str, with_anchors: bool
) -> Iterator[tuple[str, ImportedModel, int, str]]:
    """Yield name, model, KiB and arithmetic of what is asked for; the anchors are in f32."""
    if with_anchors or not wanted:
        loaded = {name: ps.load(models.anchors.MODELS[name]()) for name in anchors.ANCHORS}
        for name, size in anchors.cases([]):
            yield name, loaded[name], 2 * size // 1024, "f32"
    if wanted or not with_anchors:
        for name, kib, _ in rows(wanted, sizes):
            yield name, models.load(name), kib, dtype


def cells(found: Measured) -> list[str]:
    """Return a row of the table."""
    return [
        found.name,
        found.dtype,
        str(found.kib),
        f"{found.planned_ns / 1000:,.1f}",
        f"{found.simulated_ns / 1000:,.1f}",
        f"{found.ratio:.3f}",
        f"{found.simulated_pj / found.planned_pj:.3f}",
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
    asked = parser.parse_args()
    table = new_table("simulated over planned", TEXTS, NUMBERS)
    failed = False
    for name, model, kib, dtype in cases(asked.model, asked.kib, asked.dtype, asked.anchors):
        try:
            found = measure(name, model, kib, dtype, asked.objective)
        except PolystageError as error:
            print(f"{name} at {kib} KiB: {error}", file=sys.stderr)
            failed = True
            continue
        failed |= not found.is_near
        table.add_row(*cells(found))
        print(*cells(found), file=sys.stderr, flush=True)
    Console(width=140).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
