"""What it brings that engines work at the same time: one program per number of buffers.

Programs are of one kernel per operation (`npu-fuse-operators{max-group=1}`): groups keep results on
chip, which would hide much of what overlap is about. Every model is compiled with 1, 2 and 3 places
for each buffer that hands data from one engine to another, and with 2 whose kernels all start at
address 0 (`near`: weights of the next kernel wait for this one). `sequential` is the program of 2,
each instruction after the one before. The bound is that of the program of 2: all it does, each
engine on its own at its peak. DRAM traffic of 1 stands beside that of 2, for overlap may not cost
more of it.

Exit code 1 where 2 places are slower than 1, or than no overlap, or move noticeably more.

    python benchmarks/overlap.py [--model NAME].. [--target NAME] [--dtype TYPE]
"""

import sys
from dataclasses import dataclass

import models
from rich.console import Console
from tables import megabytes, model_parser, new_table, selected

from polystage.frontends import ImportedModel
from polystage.machine import Target
from polystage.machine.bounds import bounds_of
from polystage.mlir import ir
from polystage.pipeline import default_pipeline, run_pipeline
from polystage.simulator import Result, simulate
from polystage.simulator.result import Cost

NUMBERS = (
    "sequential\nus",
    "1 place\nus",
    "2 places\nus",
    "3 places\nus",
    "near\nus",
    "bound\nus",
    "of\nbound",
    "faster than\nsequential",
    "faster than\n1 place",
    "1 place\nMB",
    "2 places\nMB",
)

FUSE = "npu-fuse-operators{"

SLOWER = 0.01
"""Share by which more places may be slower: tiles are chosen by estimate."""

MORE_TRAFFIC = 0.01
"""Share of DRAM traffic that overlap may cost."""


@dataclass(frozen=True)
class Variant:
    """Options of `convert-linalg-to-npu` and `npu-allocate-scratchpad`."""

    buffers: int
    opposite_ends: bool = True


class Programs:
    """The programs of one model: what does not depend on buffers is done once."""

    def __init__(self, model: ImportedModel, target: str, dtype: str) -> None:
        text = default_pipeline(target, dtype).replace(FUSE, f"{FUSE}max-group=1 ")
        start = text.index("npu-attach-target")
        self.rest = text[start:-1]
        with model.module.context, ir.Location.unknown():
            self.prepared = model.module.operation.clone()
        run_pipeline(self.prepared, text[: start - 1] + ")")

    def simulated(self, variant: Variant, order: str = "") -> Result:
        """Return the timing of a variant."""
        ends = str(variant.opposite_ends).lower()
        rest = self.rest.replace(
            "convert-linalg-to-npu", f"convert-linalg-to-npu{{buffers={variant.buffers}}}"
        ).replace("npu-allocate-scratchpad", f"npu-allocate-scratchpad{{opposite-ends={ends}}}")
        with self.prepared.context, ir.Location.unknown():
            program = self.prepared.operation.clone()
        run_pipeline(program, f"builtin.module({rest})")
        return simulate(program, timing_only=True, order=order)


@dataclass(frozen=True)
class Row:
    """The runs of one model."""

    sequential: Result
    places: tuple[Result, Result, Result]
    near: Result
    bound_us: float

    @property
    def is_worse(self) -> bool:
        """Whether overlap costs time or traffic."""
        one, two, _ = (run.totals for run in self.places)
        limit = min(one.latency_ns, self.sequential.totals.latency_ns) * (1 + SLOWER)
        return two.latency_ns > limit or moved(two) > moved(one) * (1 + MORE_TRAFFIC)

    def cells(self) -> list[str]:
        """Return the figures as the table shows them."""
        one, two, three = (run.totals for run in self.places)
        sequential = self.sequential.totals
        times = (sequential, one, two, three, self.near.totals)
        return [
            *(f"{cost.latency_us:.1f}" for cost in times),
            f"{self.bound_us:.1f}",
            f"{self.bound_us / two.latency_us:.0%}",
            f"{sequential.latency_ns / two.latency_ns:.2f} x",
            f"{one.latency_ns / two.latency_ns:.2f} x",
            megabytes(moved(one)),
            megabytes(moved(two)),
        ]


def moved(cost: Cost) -> int:
    return cost.dram_read_bytes + cost.dram_write_bytes


def measure(name: str, target: str, dtype: str) -> Row:
    programs = Programs(models.load(name), target, dtype)
    one, two, three = (programs.simulated(Variant(n)) for n in (1, 2, 3))
    bound_ns = bounds_of(Target.load(target), two.totals).program_ns
    return Row(
        programs.simulated(Variant(2), "sequential"),
        (one, two, three),
        programs.simulated(Variant(2, opposite_ends=False)),
        bound_ns / 1000,
    )


def main() -> int:
    parser = model_parser((__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", default="neuroncore_v2", help="preset or file")
    parser.add_argument("--dtype", default="bf16", help="arithmetic: bf16, f16 or f32")
    arguments = parser.parse_args()
    title = f"overlap on {arguments.target}, {arguments.dtype}"
    table = new_table(title, ("model",), NUMBERS)
    worse = []
    for name in selected(arguments.model):
        row = measure(name, arguments.target, arguments.dtype)
        table.add_row(name, *row.cells())
        print(name, *row.cells(), file=sys.stderr, flush=True)
        if row.is_worse:
            worse.append(name)
    Console(width=170).print(table)
    if worse:
        print(f"2 places are no gain for {', '.join(worse)}")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
