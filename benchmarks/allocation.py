"""The allocator: hard instances, many buffers, and the buffers of our own models.

Three tables. The instances of MiniMalloc that are at hand: seconds to a solution at their capacity
(of the clock and of the processor; MiniMalloc itself takes 0.7 to 8.6 s for each), and seconds to
the least peak, proved. Then 20,000 random buffers, by heuristic. Then the arrays of every model
between its operators, and the on-chip buffers of its program for a flat scratchpad (`--flat`
compiles these: minutes): how far above the bound, which is the greatest demand, our answer is, and
those of first-fit-decreasing and best-fit. Exit code 1 if an instance takes longer than 5 s, or the
20,000 buffers longer than 60 s.

    python benchmarks/allocation.py [--flat] [--model NAME]
"""

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import models
from chain import clone, run_passes
from rich.console import Console
from rich.table import Table as TextTable
from tables import model_parser, new_table, selected

from polystage.allocation import Buffer, Memory, Problem, allocate, minimise
from polystage.allocation.first_fit import decreasing, place_in_order
from polystage.allocation.minimalloc import read_problem
from polystage.allocation.table import Table
from polystage.mlir import func, ir
from polystage.passes.lower.rotating_buffers import users_of
from polystage.passes.placement.live_ranges import allocations
from polystage.passes.tensors.normalize import NORMALIZE
from polystage.pipeline import default_pipeline, run_pipeline

INSTANCES = Path("/work/shared/data/minimalloc")
INSTANCE_SECONDS = 5.0
MANY = 20_000
MANY_SECONDS = 60.0
MINIMISE_SECONDS = 10.0
FLAT_BYTES = 1 << 20


def table_of(buffers: list[Buffer]) -> Table:
    return Table.of(buffers, [[i] for i in range(len(buffers))], Memory())


def gap(peak: int, bound: int) -> str:
    """Return by how much a peak is above the bound."""
    return f"{100 * (peak / max(bound, 1) - 1):.2f} %"


def baselines(buffers: list[Buffer]) -> tuple[int, int, int]:
    """Return the bound, and the peaks of first-fit-decreasing and best-fit-decreasing."""
    table = table_of(buffers)
    order = decreasing(table)
    first, best = (table.peak(place_in_order(table, order, best)) for best in (False, True))
    return table.bound, first, best


def instances() -> tuple[TextTable, bool]:
    """Solve every instance at its capacity, then without one."""
    text = new_table(
        "MiniMalloc's instances at 1 MiB",
        ["instance"],
        ["buffers", "solved s", "processor s", "first-fit", "best-fit", "least peak", "proved s"],
    )
    in_time = True
    for path in sorted(INSTANCES.glob("*.csv")):
        problem = read_problem(path)
        clock, processor = time.perf_counter(), time.process_time()
        allocate(problem)
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        bound, first, best = baselines(list(problem.buffers))
        start = time.perf_counter()
        least = minimise(Problem(problem.buffers), MINIMISE_SECONDS)
        proved = f"{time.perf_counter() - start:.2f}" if least.gap == 0 else "-"
        in_time &= clock < INSTANCE_SECONDS
        text.add_row(
            path.stem.partition(".")[0],
            str(len(problem.buffers)),
            f"{clock:.2f}",
            f"{processor:.2f}",
            gap(first, bound),
            gap(best, bound),
            str(least.peaks[""]),
            proved,
        )
    return text, in_time


def random_buffers(kind: str) -> list[Buffer]:
    """Return random buffers: living shortly, for up to a fifth of the time, or one in ten long."""
    chosen = random.Random(0)
    buffers: list[Buffer] = []
    for i in range(MANY):
        start = chosen.randrange(2 * MANY)
        if kind == "mixed":
            mean = 20 if chosen.random() < 0.9 else MANY / 10
            length = 1 + int(chosen.expovariate(1 / mean))
        else:
            length = chosen.randrange(1, 200 if kind == "short" else MANY // 5)
        size = chosen.choice([1, 2, 3, 4, 7, 16]) * chosen.choice([64, 1024, 4096])
        buffers.append(Buffer(str(i), start, start + length, size))
    return buffers


def many() -> tuple[TextTable, bool]:
    """Place many buffers by the best heuristic."""
    text = new_table(
        f"{MANY} random buffers", ["lives"], ["gap", "s", "processor s", "first-fit", "best-fit"]
    )
    in_time = True
    for kind in ("short", "mixed", "long"):
        buffers = random_buffers(kind)
        clock, processor = time.perf_counter(), time.process_time()
        allocation = allocate(Problem(buffers))
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        in_time &= clock < MANY_SECONDS
        bound, first, best = baselines(buffers)
        text.add_row(
            kind,
            gap(allocation.peaks[""], bound),
            f"{clock:.1f}",
            f"{processor:.1f}",
            gap(first, bound),
            gap(best, bound),
        )
    return text, in_time


def arrays_between(module: ir.Module) -> list[Buffer]:
    """Return the arrays of a model between its operators, as DRAM would have to hold them."""
    normalised = clone(module)
    run_passes(normalised, f"{NORMALIZE},poly-eliminate-copies,canonicalize,cse")
    with normalised.context:
        functions = [op for op in normalised.body.operations if isinstance(op, func.FuncOp)]
        main = next(op for op in functions if not op.is_external and op.name.value == "main")
        operations = [view.operation for view in main.entry_block.operations]
        position = {op: i for i, op in enumerate(operations)}
        return [_array(op, position) for op in operations if op.name == "memref.alloc"]


def _array(op: ir.Operation, position: dict[ir.Operation, int]) -> Buffer:
    type_ = ir.MemRefType(op.results[0].type)
    elements = 1
    for extent in type_.shape:
        elements *= extent
    width = ir.IntegerType(type_.element_type).width if _is_integer(type_) else 32
    uses = [position[user] for user, _ in users_of(op)] or [position[op]]
    return Buffer(str(type_), min(uses), max(uses) + 1, elements * max(width // 8, 1))


def _is_integer(type_: ir.MemRefType) -> bool:
    return isinstance(type_.element_type, ir.IntegerType)


def flat_buffers(module: ir.Module) -> list[Buffer]:
    """Return the on-chip buffers of a model's program for a flat scratchpad of 1 MiB, each as long
    as its values are needed."""
    text = default_pipeline("flat", "bf16", [f"scratchpad_bytes={FLAT_BYTES}"])
    program = clone(module)
    run_pipeline(program, text.split(",npu-allocate-scratchpad")[0] + ")")
    with program.context:
        found = [
            a
            for op in program.body.operations
            if isinstance(op, func.FuncOp) and "npu.kernel" in op.attributes
            for a in allocations(op)
        ]
    return [Buffer(a.name, *a.life, a.size) for a in found]


def own_models(names: list[str], flat: bool) -> Iterator[TextTable]:
    """Compare on the buffers of our models."""
    sources = {"arrays between operators": arrays_between}
    if flat:
        sources["on-chip buffers, flat scratchpad"] = flat_buffers
    for title, source in sources.items():
        text = new_table(
            title, ["model"], ["buffers", "bound", "ours", "s", "first-fit", "best-fit"]
        )
        for name in names:
            buffers = source(models.load(name).module)
            start = time.perf_counter()
            allocation = minimise(Problem(buffers), MINIMISE_SECONDS)
            seconds = time.perf_counter() - start
            bound, first, best = baselines(buffers)
            row = (
                name,
                str(len(buffers)),
                str(allocation.bounds[""]),
                gap(allocation.peaks[""], allocation.bounds[""]),
                f"{seconds:.2f}",
                gap(first, bound),
                gap(best, bound),
            )
            print(*row, file=sys.stderr, flush=True)
            text.add_row(*row)
        yield text


def main() -> int:
    parser = model_parser(__doc__ or "")
    parser.add_argument("--flat", action="store_true", help="on-chip buffers, too: compiles all")
    options = parser.parse_args()
    console = Console(width=110)
    in_time = True
    for part in (instances, many):
        text, good = part()
        console.print(text)
        in_time &= good
    for text in own_models(selected(options.model), options.flat):
        console.print(text)
    return 0 if in_time else 1


if __name__ == "__main__":
    sys.exit(main())
