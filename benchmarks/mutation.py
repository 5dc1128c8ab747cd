"""Mutants of random programs: which mistakes of synchronisation and placement go unnoticed?

Random small models (`models.random_graphs`) are compiled for `tiny` and for `neuroncore_v2` with so
small a scratchpad that loops run and buffers rotate, with one to three buffers, in f32 and bf16.

Unmutated, a program has no race and no deadlock, computes what onnxruntime does, and the same bits
in program order, with its semaphores and with an ideal scoreboard, also where every instruction
takes some other time.

Each mutant of it (`mutants`) is carried out with reads at the start and writes at the end of every
instruction, so that a race can give a wrong value. What came of it:

* `race`: reported as a race; a result bit changed, or none did (the timing was kind), or there is
  no result, because something was read that nothing or another buffer had written;
* `deadlock`, `unwritten`: reported as a deadlock, or as such a read and not as a race;
* `silent`: no report. With an unchanged result the mistake is none: what was removed was redundant
  or the program meant the same. Changed results without a report there must be none of, unless
  what was mutated is an address, where the wrong value is the report.

Exit code 1 where that is not so.

    python benchmarks/mutation.py [--programs N] [--first SEED] [--most N]
"""

import argparse
import sys
from collections import Counter, defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
from chain import clone, norm_error, run_passes
from models.random_graphs import random_model
from mutants import INSERT_SYNC, KINDS, REMOVED, Mutant, mutants
from rich.console import Console
from rich.table import Table
from tables import new_table

import polystage as ps
from polystage.dialects.npu.queues import semaphores_of
from polystage.errors import PassError, SimulationError
from polystage.mlir import ir
from polystage.pipeline import default_pipeline
from polystage.report.inputs import random_inputs
from polystage.simulator import Result
from polystage.simulator import program as simulation
from polystage.simulator.conflicts import Order, with_order
from polystage.simulator.trace import CoreTrace

INFERENCES = 2
"""The second one meets what the first left behind."""

SCRATCHPADS = {"tiny": (512, 640, 1024), "neuroncore_v2": (768, 1024, 2048)}
"""Bytes per partition."""

SCALES = {"tiny": 1, "neuroncore_v2": 6}
"""How large the extents of a model are, beside the partitions."""

FEWEST = 3
"""Semaphores of a program that is worth mutating."""

TOO_LARGE = "the smallest tile takes"
"""What the lowering says of a program for which the scratchpad is too small."""

TOLERANCE = {"f32": 1e-3, "bf16": 0.05}
"""Largest error against onnxruntime, as a norm."""

TIMINGS = (1, 2, 3, 4)
"""Seeds of other times, under which a synchronised program computes the same."""


class Missed(Exception):
    """A program is not what it must be."""


@dataclass(frozen=True)
class Settings:
    """What a program is compiled for."""

    target: str
    sbuf_bytes: int
    buffers: int
    dtype: str

    @classmethod
    def of(cls, seed: int) -> "Settings":
        """Return the settings of a random program."""
        random = Random(seed)
        target = list(SCRATCHPADS)[seed % len(SCRATCHPADS)]
        dtype = "bf16" if random.random() < 0.25 else "f32"
        return cls(target, random.choice(SCRATCHPADS[target]), random.randint(1, 3), dtype)

    @property
    def overrides(self) -> dict[str, str]:
        """How the target differs from the preset."""
        return {"sbuf.bytes_per_partition": str(self.sbuf_bytes)}

    @property
    def pipeline(self) -> str:
        """The default pipeline up to placement."""
        settings = [f"{key}={value}" for key, value in self.overrides.items()]
        text = default_pipeline(self.target, self.dtype, settings)
        text = text.replace(f",{INSERT_SYNC}", "")
        lowering = "convert-linalg-to-npu"
        return text.replace(lowering, f"{lowering}{{buffers={self.buffers}}}")


class Program:
    """A random program, compiled."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.settings = Settings.of(seed)
        onnx_model = random_model(seed, SCALES[self.settings.target])
        model = ps.load(onnx_model)
        self.output = model.outputs[0].name
        self.inputs = random_inputs(model.inputs, seed)
        session = onnxruntime.InferenceSession(onnx_model.SerializeToString())
        self.expected = session.run(None, self.inputs)[0]
        self.placed = ps.compile(model.module, pipeline=self.settings.pipeline)
        self.module = clone(self.placed)
        run_passes(self.module, INSERT_SYNC)

    @property
    def semaphores(self) -> int:
        """How many there are."""
        return len(semaphores_of(self.module.operation) or ())

    @cached_property
    def reference(self) -> bytes:
        """What it computes, one instruction after the other."""
        return self.run(self.module, order="sequential").tobytes()

    def run(self, module: ir.Module, **options: str) -> np.ndarray:
        """Return what a module computes."""
        return self.simulated(module, **options).outputs[self.output]

    def simulated(self, module: ir.Module, **options: str) -> Result:
        """Run a module."""
        return ps.simulate(module, self.inputs, inferences=INFERENCES, **options)

    def check(self) -> None:
        """Hold the unmutated program to what it must be.

        Raises: Missed; SimulationError for a race, deadlock or unwritten read.
        """
        found = self.run(self.module, order="sequential").astype(np.float32)
        if norm_error(found, self.expected) > TOLERANCE[self.settings.dtype]:
            raise Missed(f"error {norm_error(found, self.expected):.1e} against onnxruntime")
        for options in ({"races": "error"}, {"order": "interlocked"}):
            if self.run(self.module, **options).tobytes() != self.reference:
                raise Missed(f"other bits with {options}")
        if self.run(self.module, races="ignore").tobytes() != self.reference:
            raise Missed("other bits where reads and writes overlap")
        for seed in TIMINGS:
            with other_times(seed):
                outputs = self.run(self.module, races="ignore")
            if outputs.tobytes() != self.reference:
                raise Missed(f"other bits with times {seed}")


def other_times(seed: int) -> AbstractContextManager[Any]:
    """Let instructions take up to 30 times longer or shorter while this is entered.

    The tensor engine does so as a whole, since its results leave the array in order.
    """
    generator = np.random.default_rng(seed)

    def changed(core: CoreTrace) -> CoreTrace:
        factors = 30 ** generator.uniform(-1, 1, core.count)
        tensor = core.queue == core.queues.index("tensor")
        factors[tensor] = 30 ** generator.uniform(-1, 1)
        columns = {name: getattr(core, name) * factors for name in ("busy_ns", "latency_ns")}
        return replace(core, **columns, form_ns=core.form_ns * factors)

    def with_other_times(core: CoreTrace, order: Order) -> CoreTrace:
        return with_order(changed(core), order)  # which leaves out what these times make sure

    return mock.patch.object(simulation, "with_order", with_other_times)


# --- verdicts ---

REPORTS = {
    "deadlock:": "deadlock",
    "has written over it": "unwritten",
    "of which not everything has been written": "unwritten",
    "of which not all was written": "unwritten",
}
"""What messages of the simulator say."""


@dataclass(frozen=True)
class Verdict:
    """What came of a mutant: `race`, `deadlock`, `unwritten`, `illegal` or `silent`, and whether
    its result was another (None: there is no result)."""

    report: str
    changed: bool | None


def judge(program: Program, mutant: ir.Module) -> Verdict:
    """Run a mutant; one that is not reported runs with other times as well."""
    try:
        result = program.simulated(mutant, races="ignore")
        changed = result.outputs[program.output].tobytes() != program.reference
        if result.races:
            return Verdict("race", changed)
        changed |= program.run(mutant, races="error").tobytes() != program.reference
        for seed in TIMINGS:
            with other_times(seed):
                outputs = program.run(mutant, races="ignore")
            changed |= outputs.tobytes() != program.reference
        return Verdict("silent", changed)
    except SimulationError as error:
        report = _report(error.message)
    if report != "deadlock" and races_in(mutant):
        report = "race"
    return Verdict(report, None)


def _report(message: str) -> str:
    return next((report for text, report in REPORTS.items() if text in message), "illegal")


def races_in(module: ir.Module) -> bool:
    """Say whether a module is reported to have a race."""
    try:
        ps.simulate(module, timing_only=True, check_races=True, inferences=INFERENCES)
    except SimulationError as error:
        return error.message.startswith("race:")
    return False


@dataclass
class Tally:
    """Verdicts by kind of mutant, and what to look at."""

    verdicts: dict[str, Counter[Verdict]] = field(default_factory=lambda: defaultdict(Counter))
    silent: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    programs: int = 0
    with_loops: int = 0
    rotating: int = 0
    semaphores: int = 0

    def add_program(self, program: Program) -> None:
        """Count an unmutated program."""
        text = str(program.module)
        self.programs += 1
        self.with_loops += "scf.for" in text
        self.rotating += "addresses = array" in text
        self.semaphores += program.semaphores

    def add(self, program: Program, mutant: Mutant, verdict: Verdict) -> None:
        """Count a mutant."""
        self.verdicts[mutant.kind][verdict] += 1
        where = f"program {program.seed}: {mutant.kind}: {mutant.place}"
        if verdict == Verdict("silent", True) and mutant.kind != "address shifted":
            self.missed.append(f"{where}: another result, but no report")
        if verdict.report == "silent" and mutant.kind == REMOVED:
            self.silent.append(where)


def measure(seed: int, tally: Tally, most: int, most_removed: int = 0) -> bool:
    """Check a program and judge its mutants; return False for one that is of no use.

    It has too few semaphores, or does not fit on its target.
    """
    try:
        program = Program(seed)
    except PassError as error:
        if TOO_LARGE in error.message:
            return False
        raise
    if program.semaphores < FEWEST:
        return False
    tally.add_program(program)
    try:
        program.check()
    except (Missed, SimulationError) as error:
        tally.missed.append(f"program {seed}, unmutated: {error}")
        return True
    random = Random(seed)
    for mutant in mutants(program.placed, program.module, random, most, most_removed):
        tally.add(program, mutant, judge(program, mutant.module))
    return True


NUMBERS = (
    "mutants",
    "race,\nchanged",
    "race,\nunchanged",
    "race,\nno result",
    "deadlock",
    "unwritten",
    "illegal",
    "silent,\nunchanged",
    "silent,\nCHANGED",
)


def table_of(tally: Tally) -> Table:
    table = new_table("mutants", ("mutation",), NUMBERS)
    for kind in KINDS:
        counts = tally.verdicts[kind]
        stopped = [counts[Verdict(r, None)] for r in ("deadlock", "unwritten", "illegal")]
        races, silent = (
            [counts[Verdict(report, c)] for c in changed]
            for report, changed in (("race", (True, False, None)), ("silent", (False, True)))
        )
        figures = [counts.total(), *races, *stopped, *silent]
        table.add_row(kind, *(f"{n:,}" for n in figures))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutants of synchronised programs.")
    parser.add_argument("--programs", type=int, default=200, help="how many programs")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--most", type=int, default=3, help="mutants per program and kind")
    options = parser.parse_args()
    tally, console = Tally(), Console(width=130)
    done, seed = 0, options.first
    while done < options.programs:
        done += measure(seed, tally, options.most)
        seed += 1
        print(f"\r{done} programs", end="", file=sys.stderr, flush=True)
    console.print(table_of(tally))
    console.print(
        f"{tally.programs} programs, {tally.with_loops} with loops, {tally.rotating} with rotating "
        f"buffers, {tally.semaphores} semaphores"
    )
    for line in (*tally.silent, *tally.missed):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 1 if tally.missed else 0


if __name__ == "__main__":
    sys.exit(main())
