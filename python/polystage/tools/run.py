"""The main job: load, compile, simulate, check, report."""

import io
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import click
import numpy as np

from polystage.dialects.npu.queues import semaphores_of
from polystage.errors import PolystageError
from polystage.forms import walk
from polystage.frontends import ImportedModel, load
from polystage.mlir import ir
from polystage.pipeline import compile_module, default_dtype
from polystage.planner.fusion.plan_attributes import planned_costs
from polystage.report.check import Check, compare, tolerance
from polystage.report.chrome_trace import chrome_trace
from polystage.report.contractions import contractions
from polystage.report.document import Subject, document, to_text
from polystage.report.html import report_page
from polystage.report.inputs import load_inputs, random_inputs
from polystage.report.table import print_report
from polystage.simulator import DeviceResult, Result, simulate, simulate_device
from polystage.tools.phases import Phases

DEFAULT_TARGET = "neuroncore_v2"

TIMING_ONLY = "numbers were not computed"
NO_REFERENCE = "a compiled program has no reference"


@dataclass(frozen=True)
class CompilerOptions:
    """What a program is compiled for, and how."""

    target: str | None = None
    settings: Sequence[str] = ()
    dtype: str | None = None
    objective: str | None = None
    explain: bool = False
    """Print on standard error why operators run together or apart."""
    pipeline: str = ""

    def resolved_target(self) -> str:
        """Return the target: the one asked for, or the default."""
        return self.target or DEFAULT_TARGET

    def resolved_dtype(self) -> str:
        """Return the arithmetic: the one asked for, or what the target does best.

        A pipeline of the user's own is taken at its word.
        """
        best = default_dtype(self.resolved_target(), self.settings)
        if self.pipeline and not self.dtype:
            chosen = re.search(r"npu-set-float-type\{[^}]*type=(\w+)", self.pipeline)
            return chosen.group(1) if chosen else "f32"
        return self.dtype or best


@dataclass(frozen=True)
class RunOptions:
    """What is executed; random inputs where no file is given.

    `order` is that of the engines, "" the program's own; each of `cores` cores executes the program
    `inferences` times.
    """

    inputs: str = ""
    seed: int = 0
    timing_only: bool = False
    order: str = ""
    inferences: int = 1
    cores: int = 1


@dataclass(frozen=True)
class Run:
    """A finished run."""

    model: ImportedModel
    program: ir.Module
    dtype: str | None
    result: Result | DeviceResult
    check: Check | str
    """The check, or why none was made."""
    phases: dict[str, float]

    @property
    def core(self) -> Result:
        """The result of the first core; the others execute the same."""
        return first_core(self.result)

    def failed(self) -> bool:
        """Return whether a check was made and failed."""
        return isinstance(self.check, Check) and not self.check.passed

    def print_report(self) -> None:
        """Print the table of layers and totals on standard output."""
        print_report(self.document)

    @cached_property
    def document(self) -> dict[str, Any]:
        """Return the report as the JSON document of the command line."""
        calls = {layer.name: layer.calls for layer in self.core.layers}
        nests = contractions(self.program, calls)
        planned = planned_costs(self.program)
        subject = Subject(self.model.name, self.dtype, batch_of(self.model), nests, planned)
        return document(subject, self.result, self.check, self.phases)

    def json(self) -> str:
        """Return the report as text."""
        return to_text(self.document)

    def html(self) -> str:
        """Return the report as a page."""
        return report_page([self.document])

    def trace(self) -> str:
        """Return the course of the run in Chrome's trace format."""
        return chrome_trace(self.result, semaphores_of(self.program.operation) or ())

    def outputs_npz(self) -> bytes:
        """Return the outputs by name in numpy's format; narrow floats as f32."""
        if not self.core.outputs:
            raise PolystageError("there are no outputs to write", help="drop --timing-only")
        arrays: dict[str, Any] = {n: _portable(a) for n, a in self.core.outputs.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def first_core(result: Result | DeviceResult) -> Result:
    """Return the result of the first core."""
    return result.cores[0] if isinstance(result, DeviceResult) else result


def batch_of(model: ImportedModel) -> int | None:
    """Return the extent that the first dimension of all inputs has, or None where they differ."""
    extents = {spec.shape[0] if spec.shape else None for spec in model.inputs}
    return extents.pop() if len(extents) == 1 else None


def _portable(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def parse_bindings(bindings: Sequence[str]) -> dict[str, int]:
    """Return the extents of `name=value` texts.

    >>> parse_bindings(["batch=1", "sequence=128"])
    {'batch': 1, 'sequence': 128}

    Raises: PolystageError.
    """
    found: dict[str, int] = {}
    for text in bindings:
        name, _, value = text.partition("=")
        if not name or not value.isdigit() or int(value) < 1:
            raise PolystageError(f"--bind: '{text}' is not NAME=VALUE with a value of at least 1")
        if found.get(name, int(value)) != int(value):
            raise PolystageError(f"--bind: '{name}' is bound to {found[name]} and to {value}")
        found[name] = int(value)
    return found


@contextmanager
def located(path: str) -> Generator[None]:
    """Name the model's file in errors whose place is in a text that was parsed from memory."""
    try:
        yield
    except PolystageError as error:
        if error.location.startswith("-:"):
            error.location = path + error.location[1:]
        raise


def load_model(
    path: str, bindings: Sequence[str], phases: Phases, batch: int | None = None
) -> ImportedModel:
    """Import a model file."""
    extents = parse_bindings(bindings)
    with phases.phase("import"):
        return load(path, bind=extents, batch=batch)


def compile_model(model: ImportedModel, options: CompilerOptions, phases: Phases) -> ir.Module:
    """Return the npu program of a model; one that is compiled already is taken as it is.

    Raises: PolystageError; also for options that a compiled program cannot follow.
    """
    if is_program(model.module):
        if options != CompilerOptions():
            raise PolystageError(
                f"'{model.name}' is compiled already: target, values, dtype, objective and "
                "pipeline are fixed",
                help="change the program with polystage-opt, or compile its source again",
            )
        return model.module
    if options.pipeline and options.objective:
        raise PolystageError(
            f"--objective {options.objective} is for the default pipeline",
            help=f"write npu-fuse-operators{{objective={options.objective}}} in yours",
        )
    with phases.phase("compile"):
        return compile_module(
            model.module,
            target=options.resolved_target(),
            settings=options.settings,
            dtype=options.dtype or "",
            objective=options.objective or "",
            pipeline=options.pipeline,
            before_pass=lambda name, _: phases.detail(f"compile: {name}"),
            explain=(lambda text: click.echo(text, err=True)) if options.explain else None,
        )


def is_program(module: ir.Module) -> bool:
    """Return whether a module is an npu program already."""
    return any(op.name.startswith("npu.") for op in walk(module.operation))


def run_model(
    path: str,
    bindings: Sequence[str],
    batch: int | None,
    compiler: CompilerOptions,
    options: RunOptions,
) -> Run:
    """Load, compile, simulate and check a model.

    Raises: PolystageError; a failed check is not one.
    """
    phases = Phases()
    dtype = compiler.resolved_dtype()  # first, since it reads the target
    with located(path):
        model = load_model(path, bindings, phases, batch)
        program = compile_model(model, compiler, phases)
        inputs = _inputs(model, options)
        result = _simulate(program, inputs, options, phases)
    if program is model.module:
        return Run(model, program, None, result, NO_REFERENCE, phases.seconds)
    if options.timing_only:
        return Run(model, program, dtype, result, TIMING_ONLY, phases.seconds)
    with phases.phase("reference"):
        expected = model.run_reference(inputs)
    core = first_core(result)
    allowed = tolerance(dtype, len(core.layers))
    check = compare(core.outputs, expected, model.reference, allowed)
    return Run(model, program, dtype, result, check, phases.seconds)


def _inputs(model: ImportedModel, options: RunOptions) -> dict[str, np.ndarray]:
    if options.inputs:
        return load_inputs(options.inputs, model.inputs)
    return random_inputs(model.inputs, options.seed)


def _simulate(
    program: ir.Module, inputs: dict[str, np.ndarray], options: RunOptions, phases: Phases
) -> Result | DeviceResult:
    def show(done: int, total: int, layer: str) -> None:
        phases.detail(f"simulate {done}/{total}: {layer}")

    with phases.phase("simulate"):
        if options.cores == 1:
            return simulate(
                program,
                inputs,
                timing_only=options.timing_only,
                order=options.order,
                inferences=options.inferences,
                progress=show,
            )
        return simulate_device(
            [program] * options.cores,
            [inputs] * options.cores,
            timing_only=options.timing_only,
            order=options.order,
            inferences=options.inferences,
            progress=show,
        )
