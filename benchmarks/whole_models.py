"""Whole models on a flat scratchpad: the bytes that cross the DRAM interface over those that must.

`fused` is what the plan of `npu-fuse-operators` moves over compulsory bytes (arguments and
constants in, results out), `alone` the same with one group per operator, each at its own best
tiles. Every fused program is simulated, and moves what was planned to the byte.

With `--execute` programs compute at the smallest size. `rounded` is the largest difference from the
operators of the same module one after the other, each result rounded to the type; `f32` that of
the program in f32, with a scratchpad for as many elements, from onnxruntime or PyTorch.

    python benchmarks/whole_models.py [--model NAME].. [--kib N].. [--dtype bf16|f8] [--execute]

Exit code 1 where a program moves other bytes than planned, or computes something else.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import models
import numpy as np
from chain import clone
from rich.console import Console
from tables import megabytes, model_parser, new_table

import polystage as ps
from polystage.dialects.npu.target import required_target
from polystage.dtypes import numpy_dtype
from polystage.errors import PolystageError
from polystage.evaluator.module_evaluator import evaluate
from polystage.frontends import ImportedModel
from polystage.mlir import ir
from polystage.passes.polyhedral.flatten_buffers import flatten_buffers
from polystage.passes.polyhedral.split_wide_bodies import split_wide_bodies
from polystage.pipeline import default_pipeline, run_pipeline
from polystage.pipeline_syntax import MODULE, parse_pipeline
from polystage.planner.fusion.bounds import compulsory_bytes
from polystage.planner.fusion.plan_attributes import write_plan
from polystage.planner.fusion.plan_program import plan_program
from polystage.planner.fusion.program import Program
from polystage.reference.jit import main_function
from polystage.report.check import Arrays, Check, compare, tolerance
from polystage.report.inputs import random_inputs

FUSE = "npu-fuse-operators"

SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "bf16": {
        "light/resnet50": (1024, 24576),
        "light/densenet121": (1024, 24576),
        "torch/mobilenetv2": (256, 1024, 24576),
        "torch/efficientnet_b0": (256, 1024, 24576),
        "torch/bert_128": (1024, 4096, 24576),
        "torch/bert_512": (1024, 4096, 24576),
        "torch/gpt2": (1024, 4096, 24576),
        "torch/vit_base": (1024, 4096, 24576),
        "parallel_wavenet": (256,),
    },
    "f8": {"torch/mobilenetv2_1000": (384,), "light/densenet121": (384,)},
}
"""KiB of scratchpad per model, by arithmetic."""

BYTES = {"bf16": 2, "f8": 1}
"""Of one element, by arithmetic."""

ROUNDED = 8
"""How many roundings results may be off: f32 sums in another order round to a neighbour here and
there, which later operators pass on."""

TEXTS = ("model", "bytes", "rounded", "f32")
NUMBERS = (
    "KiB",
    "compulsory\nMB",
    "MB",
    "alone",
    "fused",
    "operators",
    "groups",
    "resident\narrays",
    "plan\ns",
    "rest\ns",
)


@dataclass(frozen=True)
class Executed:
    """How far the results of a program are from what they should be."""

    rounded: Check
    """From the operators one after the other, in the same arithmetic."""
    f32: Check
    """In f32, from the reference of the model."""

    @property
    def is_right(self) -> bool:
        """Whether both are as small as they must be."""
        return self.rounded.passed and self.f32.passed


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
    executed: Executed | None

    @property
    def is_right(self) -> bool:
        """Whether what was planned is what happened."""
        same = self.simulated in (None, self.planned)
        return same and (self.executed is None or self.executed.is_right)


def stages(settings: Sequence[str], dtype: str = "bf16") -> tuple[str, str]:
    """Return the default pipeline for the flat preset, up to fusion and after it."""
    elements = [str(e) for e in parse_pipeline(default_pipeline("flat", dtype, settings)).children]
    place = next(i for i, text in enumerate(elements) if text.startswith(FUSE))
    before, after = elements[:place], elements[place + 1 :]
    return f"{MODULE}({','.join(before)})", f"{MODULE}({','.join(after)})"


def prepare(model: ImportedModel, kib: int, dtype: str = "bf16") -> ir.Module:
    """Return a model as the planner takes it."""
    module = clone(model.module)
    run_pipeline(module, stages([f"scratchpad_bytes={kib * 1024}"], dtype)[0])
    with module.context, ir.Location.unknown():
        flatten_buffers(module)
        split_wide_bodies(module)
    return module


def measure(name: str, kib: int, dtype: str, executes: bool, simulates: bool) -> Measured:
    """Plan a model fused and alone, and simulate the fused program.

    Raises: PolystageError.
    """
    model = models.load(name)
    module = prepare(model, kib, dtype)
    inputs = random_inputs(model.inputs, seed=0)
    expected = one_by_one(module, inputs) if executes else {}
    with module.context, ir.Location.unknown():
        program, target = Program.from_module(module), required_target(module)
        start = time.perf_counter()
        planned = plan_program(program, target)
        plan_s = time.perf_counter() - start
        alone = plan_program(program, target, max_group=1)
        write_plan(program, planned.plan)
    simulated, executed, rest_s = None, None, 0.0
    if simulates:
        start = time.perf_counter()
        run_pipeline(module, stages([f"scratchpad_bytes={kib * 1024}"], dtype)[1])
        result = ps.simulate(module, inputs, timing_only=not executes)
        simulated = result.totals.dram_read_bytes + result.totals.dram_write_bytes
        rest_s = time.perf_counter() - start
        if executes:
            allowed = ROUNDED * tolerance(dtype, 1)
            rounded = compare(result.outputs, expected, "one by one", allowed)
            executed = Executed(rounded, in_f32(model, kib * 4 // BYTES[dtype], inputs))
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
        executed,
    )


def one_by_one(module: ir.Module, inputs: Arrays) -> dict[str, np.ndarray]:
    """Return what the operators of a module compute one after the other, with no target."""
    types = main_function(module).type.inputs
    arrays = [a.astype(numpy_dtype(t)) for a, t in zip(inputs.values(), types, strict=True)]
    return evaluate(module, arrays)


def in_f32(model: ImportedModel, kib: int, inputs: Arrays) -> Check:
    """Compare a model in f32 with its reference."""
    settings = [f"scratchpad_bytes={kib * 1024}"]
    program = ps.compile(model.module, target="flat", settings=settings, dtype="f32")
    result = ps.simulate(program, inputs)
    allowed = tolerance("f32", len(result.layers))
    return compare(result.outputs, model.run_reference(inputs), model.reference, allowed)


def rows(
    wanted: Sequence[str], sizes: Sequence[int], dtype: str = "bf16"
) -> Iterator[tuple[str, int, bool]]:
    """Yield model, KiB, and whether that is the model's smallest size."""
    for name, usual in SIZES[dtype].items():
        if wanted and name not in wanted and name.rpartition("/")[2] not in wanted:
            continue
        for kib in sizes or usual:
            yield name, kib, kib == min(sizes or usual)


def cells(found: Measured) -> list[str]:
    """Return a row of the table."""
    same = "-" if found.simulated is None else "as planned"
    if found.simulated not in (None, found.planned):
        same = f"{found.simulated - found.planned:+d}"
    checks = (found.executed.rounded, found.executed.f32) if found.executed else ()
    errors = [f"{c.max_rel_error:.1e}{'' if c.passed else ' WRONG'}" for c in checks]
    return [
        found.model,
        same,
        *(errors or ["-", "-"]),
        str(found.kib),
        megabytes(found.compulsory),
        megabytes(found.planned),
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
    parser.add_argument("--dtype", choices=list(SIZES), default="bf16", help="arithmetic")
    parser.add_argument("--execute", action="store_true", help="compute at the smallest sizes")
    parser.add_argument("--plan-only", action="store_true", help="do not lower and simulate")
    asked = parser.parse_args()
    title = f"DRAM bytes over compulsory bytes, {asked.dtype}, batch 1"
    table = new_table(title, TEXTS, NUMBERS)
    failed = False
    for name, kib, is_smallest in rows(asked.model, asked.kib, asked.dtype):
        executes = asked.execute and is_smallest
        try:
            found = measure(name, kib, asked.dtype, executes, not asked.plan_only)
        except PolystageError as error:
            print(f"{name} at {kib} KiB: {error}", file=sys.stderr)
            failed = True
            continue
        failed |= not found.is_right
        table.add_row(*cells(found))
        print(*(cell.strip() for cell in cells(found)), file=sys.stderr, flush=True)
    Console(width=160).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
