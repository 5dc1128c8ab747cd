"""Whole models on a flat scratchpad: the bytes that cross the DRAM interface over those that must.

`fused` is what the plan of `npu-fuse-operators` moves over compulsory bytes (arguments and
constants in, results out), `alone` the same with one group per operator, each at its own best
tiles. Every fused program is simulated, and moves what was planned to the byte. With `--execute` it
computes, too, at the smallest size, and is compared with the reference.

    python benchmarks/whole_models.py [--model NAME].. [--kib N].. [--execute] [--plan-only]

Exit code 1 where a program moves other bytes than planned, or computes something else.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import models
from chain import clone
from rich.console import Console
from tables import megabytes, model_parser, new_table

import polystage as ps
from polystage.dialects.npu.target import required_target
from polystage.errors import PolystageError
from polystage.frontends import ImportedModel
from polystage.mlir import ir
from polystage.pipeline import default_pipeline, run_pipeline
from polystage.pipeline_syntax import MODULE, parse_pipeline
from polystage.planner.fusion.bounds import compulsory_bytes
from polystage.planner.fusion.plan_attributes import write_plan
from polystage.planner.fusion.plan_program import plan_program
from polystage.planner.fusion.program import Program
from polystage.report.check import compare, tolerance
from polystage.report.inputs import random_inputs

FUSE = "npu-fuse-operators"

SIZES: dict[str, tuple[int, ...]] = {
    "light/resnet50": (1024, 24576),
    "light/densenet121": (1024, 24576),
    "torch/mobilenetv2": (256, 1024),
    "torch/efficientnet_b0": (256, 1024),
    "torch/bert": (1024, 4096, 24576),
    "torch/bert_128": (1024, 4096, 24576),
    "torch/bert_512": (1024, 4096, 24576),
    "torch/gpt2": (1024, 4096, 24576),
    "torch/vit_base": (1024, 4096, 24576),
    "parallel_wavenet": (256,),
}
"""KiB of scratchpad per model."""

TEXTS = ("model", "bytes", "result")
NUMBERS = (
    "KiB",
    "compulsory\nMB",
    "alone",
    "fused",
    "operators",
    "groups",
    "resident\narrays",
    "plan\ns",
    "rest\ns",
)


@dataclass(frozen=True)
class Measured:
    """One model at one size."""

    model: str
    kib: int
    compulsory: int
    alone: int
    planned: int
    operators: int
    groups: int
    resident: int
    plan_s: float
    rest_s: float
    simulated: int | None
    check: str = "-"

    @property
    def is_right(self) -> bool:
        """Whether what was planned is what happened."""
        return self.simulated in (None, self.planned) and self.check in ("-", "equal")


def stages(settings: Sequence[str]) -> tuple[str, str]:
    """Return the default pipeline for the flat preset in bf16, up to fusion and after it."""
    elements = [str(e) for e in parse_pipeline(default_pipeline("flat", "bf16", settings)).children]
    place = next(i for i, text in enumerate(elements) if text.startswith(FUSE))
    before, after = elements[:place], elements[place + 1 :]
    return f"{MODULE}({','.join(before)})", f"{MODULE}({','.join(after)})"


def prepare(model: ImportedModel, kib: int) -> ir.Module:
    """Return a model as `npu-fuse-operators` takes it."""
    module = clone(model.module)
    run_pipeline(module, stages([f"scratchpad_bytes={kib * 1024}"])[0])
    return module


def measure(name: str, kib: int, executes: bool, simulates: bool) -> Measured:
    """Plan a model fused and alone, and simulate the fused program.

    Raises: PolystageError.
    """
    model = models.load(name)
    module = prepare(model, kib)
    with module.context, ir.Location.unknown():
        program, target = Program.from_module(module), required_target(module)
        start = time.perf_counter()
        planned = plan_program(program, target)
        plan_s = time.perf_counter() - start
        alone = plan_program(program, target, max_group=1)
        write_plan(program, planned.plan)
    simulated, check, rest_s = None, "-", 0.0
    if simulates:
        start = time.perf_counter()
        simulated, check = simulate(model, module, kib, executes)
        rest_s = time.perf_counter() - start
    return Measured(
        name,
        kib,
        compulsory_bytes(program),
        alone.traffic,
        planned.traffic,
        len(program.operators),
        len(planned.plan.groups),
        len(planned.plan.resident),
        plan_s,
        rest_s,
        simulated,
        check,
    )


def simulate(model: ImportedModel, module: ir.Module, kib: int, executes: bool) -> tuple[int, str]:
    """Lower a planned module and return the bytes it moves, and how its results compare."""
    run_pipeline(module, stages([f"scratchpad_bytes={kib * 1024}"])[1])
    inputs = random_inputs(model.inputs, seed=0)
    result = ps.simulate(module, inputs, timing_only=not executes)
    moved = result.totals.dram_read_bytes + result.totals.dram_write_bytes
    if not executes:
        return moved, "-"
    expected = model.run_reference(inputs)
    allowed = tolerance("bf16", len(result.layers))
    check = compare(result.outputs, expected, model.reference, allowed)
    return moved, "equal" if check.passed else "differs"


def rows(wanted: Sequence[str], sizes: Sequence[int]) -> Iterator[tuple[str, int, bool]]:
    """Yield model, KiB, and whether that is the model's smallest size."""
    for name, usual in SIZES.items():
        if wanted and name not in wanted and name.rpartition("/")[2] not in wanted:
            continue
        for kib in sizes or usual:
            yield name, kib, kib == min(sizes or usual)


def cells(found: Measured) -> list[str]:
    """Return a row of the table."""
    same = "-" if found.simulated is None else "as planned"
    if found.simulated not in (None, found.planned):
        same = f"{found.simulated - found.planned:+d}"
    return [
        found.model,
        same,
        found.check,
        str(found.kib),
        megabytes(found.compulsory),
        f"{found.alone / found.compulsory:.3f}",
        f"{found.planned / found.compulsory:.3f}",
        str(found.operators),
        str(found.groups),
        str(found.resident),
        f"{found.plan_s:.1f}",
        f"{found.rest_s:.1f}",
    ]


def main() -> int:
    """Measure what is asked for and print the table."""
    parser = model_parser((__doc__ or "").partition("\n")[0])
    parser.add_argument("--kib", type=int, action="append", default=[], help="scratchpad size")
    parser.add_argument("--execute", action="store_true", help="compute at the smallest sizes")
    parser.add_argument("--plan-only", action="store_true", help="do not lower and simulate")
    asked = parser.parse_args()
    table = new_table("DRAM bytes over compulsory bytes, bf16, batch 1", TEXTS, NUMBERS)
    failed = False
    for name, kib, is_smallest in rows(asked.model, asked.kib):
        try:
            found = measure(name, kib, asked.execute and is_smallest, not asked.plan_only)
        except PolystageError as error:
            print(f"{name} at {kib} KiB: {error}", file=sys.stderr)
            failed = True
            continue
        failed |= not found.is_right
        table.add_row(*cells(found))
        print(*(cell.strip() for cell in cells(found)), file=sys.stderr, flush=True)
    Console(width=140).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
