"""Every model under full concurrency: the bits of sequential execution, and what overlap is worth.

Each model is compiled by the default pipeline and executed twice with numbers: one instruction
after the other, and with all queues at the same time, ordered by their semaphores alone. The
outputs must be equal bit by bit, and no two accesses may race, from one inference to the next
either.

Latencies in microseconds: `sequential`, `concurrent`, and of the ideal scoreboard that holds every
instruction until just what it depends on has ended (`interlocked`). `speed-up` is sequential over
concurrent, `of ideal` interlocked over concurrent, `of bound` the bound by arithmetic and
compulsory traffic over concurrent. `orders` are those between queues that do not follow from
others, `semaphores` what keeps them.

    python benchmarks/concurrency.py [--model NAME].. [--dtype TYPE].. [--target NAME]..

Exit code 1 where outputs differ or something races.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import models
import numpy as np
from chain import clone
from rich.console import Console
from rich.table import Table
from tables import model_parser, new_table, selected

import polystage as ps
from polystage.errors import PolystageError
from polystage.frontends import ImportedModel
from polystage.pipeline import default_pipeline, run_pipeline
from polystage.report.inputs import random_inputs
from polystage.simulator import Result

DTYPES = ("bf16", "f32")
TARGETS = ("neuroncore_v2", "inferentia1")
ONLY_LIGHT = "inferentia1"
"""The target that only the light models run on, unless it is asked for."""

TEXTS = ("model", "type", "target", "outputs")
NUMBERS = (
    "orders",
    "sema-\nphores",
    "sequential\nus",
    "concurrent\nus",
    "speed-\nup",
    "interlocked\nus",
    "of\nideal",
    "of\nbound",
    "compile\ns",
    "simulate\ns",
)


@dataclass(frozen=True)
class Measured:
    """One model on one target; latencies in nanoseconds."""

    name: str
    dtype: str
    target: str
    is_equal: bool
    orders: int
    semaphores: int
    sequential_ns: float
    concurrent_ns: float
    interlocked_ns: float
    bound_ns: float
    compile_s: float
    simulate_s: float

    @property
    def speed_up(self) -> float:
        """How much faster the queues are than one instruction after the other."""
        return self.sequential_ns / self.concurrent_ns


def measure(name: str, model: ImportedModel, dtype: str, target: str) -> Measured:
    """Compile a model and execute it in all orders.

    Raises: SimulationError for a race, a deadlock or an unwritten read.
    """
    inputs = random_inputs(model.inputs, seed=0)
    module = clone(model.module)
    start = time.perf_counter()
    records = run_pipeline(module, default_pipeline(target, dtype))
    compiled = time.perf_counter()
    concurrent = ps.simulate(module, inputs)
    simulated = time.perf_counter()
    if concurrent.order != "concurrent":
        raise PolystageError(f"{name} is not synchronised")
    sequential = ps.simulate(module, inputs, order="sequential")
    ps.simulate(module, timing_only=True, check_races=True, inferences=2)
    interlocked = ps.simulate(module, timing_only=True, order="interlocked")
    found = records[-1].statistics
    return Measured(
        name,
        dtype,
        target,
        same_outputs(sequential, concurrent),
        found["orders between queues"],
        found["semaphores"],
        sequential.totals.latency_ns,
        concurrent.totals.latency_ns,
        interlocked.totals.latency_ns,
        concurrent.totals.latency_bound_ns,
        compiled - start,
        simulated - compiled,
    )


def same_outputs(a: Result, b: Result) -> bool:
    """Say whether two runs give the same bits."""
    return bool(a.outputs) and all(
        np.array_equal(value.view(np.uint8), b.outputs[name].view(np.uint8))
        for name, value in ((n, np.atleast_1d(v)) for n, v in a.outputs.items())
    )


def cases(
    names: Sequence[str], dtypes: Sequence[str], targets: Sequence[str]
) -> Iterator[tuple[str, ImportedModel, str, str]]:
    """Yield what is to be measured, each model imported once."""
    for name in names:
        model = models.load(name)
        for target in targets or TARGETS:
            if not targets and target == ONLY_LIGHT and not name.startswith("light/"):
                continue
            for dtype in dtypes or DTYPES:
                yield name, model, dtype, target


def table_of(rows: Sequence[Measured]) -> Table:
    table = new_table("concurrent and sequential execution", TEXTS, NUMBERS)
    for row in rows:
        times = (row.sequential_ns, row.concurrent_ns, row.interlocked_ns)
        sequential, concurrent, interlocked = (f"{t / 1000:,.1f}" for t in times)
        table.add_row(
            row.name,
            row.dtype,
            row.target,
            "equal" if row.is_equal else "DIFFERENT",
            f"{row.orders:,}",
            f"{row.semaphores:,}",
            sequential,
            concurrent,
            f"{row.speed_up:.2f}",
            interlocked,
            f"{row.interlocked_ns / row.concurrent_ns:.3f}",
            f"{row.bound_ns / row.concurrent_ns:.3f}",
            f"{row.compile_s:.1f}",
            f"{row.simulate_s:.1f}",
        )
    return table


def main() -> int:
    parser = model_parser("Concurrent and sequential execution of models.")
    parser.add_argument("--dtype", action="append", default=[], help="only this; may be repeated")
    parser.add_argument("--target", action="append", default=[], help="only this; may be repeated")
    options = parser.parse_args()
    rows: list[Measured] = []
    failures: list[str] = []
    console = Console(width=190)
    for case in cases(selected(options.model), options.dtype, options.target):
        name, _, dtype, target = case
        try:
            rows.append(measure(*case))
        except PolystageError as error:
            failures.append(f"{name} in {dtype} on {target}: {error}")
        status = f"\r{len(rows)} measured, {len(failures)} failed"
        print(status, end="", file=sys.stderr, flush=True)
    console.print(table_of(rows))
    for line in failures:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 1 if failures or not all(row.is_equal for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
