"""The main job: load, compile, simulate, check, report."""

import io
import json
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polystage.errors import PolystageError
from polystage.forms import walk
from polystage.frontends import ImportedModel, load
from polystage.mlir import ir
from polystage.pipeline import compile_module, default_dtype
from polystage.report.check import Check, compare, tolerance
from polystage.report.document import document
from polystage.report.inputs import load_inputs, random_inputs
from polystage.report.table import print_report
from polystage.simulator import Result, simulate
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
    """What is executed; random inputs where no file is given."""

    inputs: str = ""
    seed: int = 0
    timing_only: bool = False


@dataclass(frozen=True)
class Run:
    """A finished run."""

    model: ImportedModel
    dtype: str | None
    result: Result
    check: Check | str
    """The check, or why none was made."""
    phases: dict[str, float] = field(default_factory=dict[str, float])

    def failed(self) -> bool:
        """Return whether a check was made and failed."""
        return isinstance(self.check, Check) and not self.check.passed

    def print_report(self) -> None:
        """Print the table of layers and totals on standard output."""
        print_report(self.document())

    def document(self) -> dict[str, Any]:
        """Return the report as the JSON document of the command line."""
        return document(self.model.name, self.dtype, self.result, self.check, self.phases)

    def json(self) -> str:
        """Return the report as text."""
        return json.dumps(self.document(), indent=2, allow_nan=False) + "\n"

    def outputs_npz(self) -> bytes:
        """Return the outputs by name in numpy's format; narrow floats as f32."""
        if not self.result.outputs:
            raise PolystageError("there are no outputs to write", help="drop --timing-only")
        arrays: dict[str, Any] = {n: _portable(a) for n, a in self.result.outputs.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


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
        if options.target or options.settings or options.dtype or options.pipeline:
            raise PolystageError(
                f"'{model.name}' is compiled already: target, values, dtype and pipeline are fixed",
                help="change the program with polystage-opt, or compile its source again",
            )
        return model.module
    with phases.phase("compile"):
        return compile_module(
            model.module,
            target=options.resolved_target(),
            settings=options.settings,
            dtype=options.dtype or "",
            pipeline=options.pipeline,
            before_pass=lambda name, _: phases.detail(f"compile: {name}"),
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
        return Run(model, None, result, NO_REFERENCE, phases.seconds)
    if options.timing_only:
        return Run(model, dtype, result, TIMING_ONLY, phases.seconds)
    with phases.phase("reference"):
        expected = model.run_reference(inputs)
    allowed = tolerance(dtype, len(result.layers))
    check = compare(result.outputs, expected, model.reference, allowed)
    return Run(model, dtype, result, check, phases.seconds)


def _inputs(model: ImportedModel, options: RunOptions) -> dict[str, np.ndarray]:
    if options.inputs:
        return load_inputs(options.inputs, model.inputs)
    return random_inputs(model.inputs, options.seed)


def _simulate(
    program: ir.Module, inputs: dict[str, np.ndarray], options: RunOptions, phases: Phases
) -> Result:
    def show(done: int, total: int, layer: str) -> None:
        phases.detail(f"simulate {done}/{total}: {layer}")

    with phases.phase("simulate"):
        return simulate(program, inputs, timing_only=options.timing_only, progress=show)
