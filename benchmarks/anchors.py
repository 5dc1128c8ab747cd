"""DRAM bytes of fused programs beside the figures of the strongest public mapper, AccelForge.

It counts every value, partial sums too, as 16 bits. So programs run in f32 throughout, with a
scratchpad of 2 S bytes, and what they move is compared with twice its figures: `fused` and
`unfused` are the best that it finds, `compulsory` is every input and output once. `ours` is what
the simulator counts in the executed program; `planned` must be equal to it, to the byte. Numbers
are compared with onnxruntime.

The last rows are sizes at which rows of the expanded image and the weights just fit: there a
sliding window moves compulsory bytes only, which that mapper does not find.

    python benchmarks/anchors.py [--workload NAME]..

Exit code 1 where planned and simulated bytes differ, or a result is wrong.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from chain import clone
from models import anchors
from rich.console import Console
from rich.table import Table
from tables import new_table

import polystage as ps
from polystage.frontends import ImportedModel
from polystage.pipeline import default_pipeline, run_pipeline
from polystage.planner.fusion.plan_attributes import read_plan
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import resident_before, schedule
from polystage.report.check import compare, tolerance
from polystage.report.inputs import random_inputs

KIB, MIB = 1 << 10, 1 << 20
SIZES = (16 * KIB, 64 * KIB, MIB, 8 * MIB)


@dataclass(frozen=True)
class Anchor:
    """MiB of 16-bit values that the public mapper moves at each of `SIZES`."""

    compulsory: float
    unfused: tuple[float, ...]
    fused: tuple[float, ...]


ANCHORS = {
    "one matmul 1024": Anchor(6, (48, 26, 10, 6), (48, 26, 10, 6)),
    "two matmuls 1024": Anchor(8, (96, 52, 20, 12), (96, 52, 16, 8)),
    "attention 1024 x 64": Anchor(0.5, (10.5, 9, 8.5, 8.5), (4.5, 1.5, 0.5, 0.5)),
    "MobileNetV2 block": Anchor(0.293, (3.62, 3.62, 3.62, 3.62), (2.215, 2.015, 0.293, 0.293)),
    "ResNet-50 bottleneck": Anchor(3.088, (8.74, 5.13, 4.57, 4.57), (7.48, 4.40, 3.09, 3.09)),
}
"""shared/ANCHORS.md, section 1."""

WINDOWS = (("MobileNetV2 block", 72 * KIB), ("ResNet-50 bottleneck", 192 * KIB))
"""Blocks, and the S at which a sliding window of them fits."""


@dataclass(frozen=True)
class Measured:
    """One workload at one size, in bytes of f32."""

    name: str
    size: int
    planned: int
    simulated: int
    latency_ns: float
    is_correct: bool


def measure(name: str, model: ImportedModel, size: int) -> Measured:
    """Compile a workload for a scratchpad of 2 `size` bytes, and execute it."""
    module = clone(model.module)
    passes = default_pipeline("flat", "f32", (f"scratchpad_bytes={2 * size}",))
    planned = 0

    def note(element: str, present: object) -> None:
        nonlocal planned
        if element.startswith("npu-fuse-operators"):
            planned = planned_bytes(module)

    run_pipeline(module, passes, after_pass=note)
    inputs = random_inputs(model.inputs, seed=0)
    result = ps.simulate(module, inputs)
    allowed = tolerance("f32", len(result.layers))
    check = compare(result.outputs, model.run_reference(inputs), model.reference, allowed)
    totals = result.totals
    moved = totals.dram_read_bytes + totals.dram_write_bytes
    return Measured(name, size, planned, moved, totals.latency_ns, check.passed)


def planned_bytes(module: object) -> int:
    """Return what the plan that a module carries moves."""
    program = Program.from_module(module)
    plan = read_plan(program)
    total = 0
    for group, resident in zip(plan.groups, resident_before(program, plan), strict=True):
        steps = schedule(program, group, resident)
        total += sum(steps.read_bytes.values()) + sum(steps.write_bytes.values())
    return total


def cases(wanted: list[str]) -> Iterator[tuple[str, int]]:
    """Yield workloads and sizes."""
    rows = [(name, size) for name in ANCHORS for size in SIZES]
    yield from ((n, s) for n, s in (*rows, *WINDOWS) if not wanted or n in wanted)


def table_of(rows: list[Measured]) -> Table:
    numbers = ("S KiB", "ours", "fused", "unfused", "compulsory", "ours/\nfused", "ours/\nleast")
    checks = ("planned", "numbers")
    table = new_table("DRAM MiB in f32 with 2 S bytes", ("workload",), (*numbers, "us", *checks))
    for row in rows:
        anchor, ours = ANCHORS[row.name], row.simulated / MIB
        place = SIZES.index(row.size) if row.size in SIZES else None
        fused = None if place is None else 2 * anchor.fused[place]
        unfused = None if place is None else 2 * anchor.unfused[place]
        table.add_row(
            row.name,
            f"{row.size // KIB:,}",
            f"{ours:.3f}",
            "-" if fused is None else f"{fused:.3f}",
            "-" if unfused is None else f"{unfused:.3f}",
            f"{2 * anchor.compulsory:.3f}",
            "-" if fused is None else f"{ours / fused:.3f}",
            f"{ours / (2 * anchor.compulsory):.3f}",
            f"{row.latency_ns / 1000:,.0f}",
            "equal" if row.planned == row.simulated else f"{row.planned / MIB:.3f}",
            "right" if row.is_correct else "WRONG",
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workload", action="append", default=[], choices=list(ANCHORS))
    wanted = parser.parse_args().workload
    models = {name: ps.load(anchors.MODELS[name]()) for name in ANCHORS}
    rows: list[Measured] = []
    for name, size in cases(wanted):
        rows.append(measure(name, models[name], size))
        print(f"\r{len(rows)} measured", end="", file=sys.stderr, flush=True)
    Console(width=160).print(table_of(rows))
    return 0 if all(r.is_correct and r.planned == r.simulated for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
