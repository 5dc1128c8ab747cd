"""The main job: load, compile, simulate, check, report."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polystage.errors import PolystageError
from polystage.frontends import ImportedModel, load
from polystage.mlir import ir
from polystage.pipeline import compile_module, default_dtype
from polystage.report.check import Check, compare, tolerance
from polystage.report.document import document
from polystage.report.inputs import load_inputs, random_inputs
from polystage.report.table import print_report
from polystage.simulator import Result, simulate
from polystage.tools.phases import Phases


@dataclass(frozen=True)
class CompilerOptions:
    """What a program is compiled for, and how."""

    target: str = "neuroncore_v2"
    settings: Sequence[str] = ()
    dtype: str | None = None
    pipeline: str = ""

    def resolved_dtype(self) -> str:
        """Return the arithmetic: the one asked for, or what the target does best."""
        return self.dtype or default_dtype(self.target, self.settings)


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
    dtype: str
    result: Result
    check: Check | None
    phases: dict[str, float] = field(default_factory=dict[str, float])

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


def load_model(path: str, bindings: Sequence[str], phases: Phases) -> ImportedModel:
    """Import a model file."""
    extents = parse_bindings(bindings)
    with phases.phase("import"):
        return load(path, bind=extents)


def compile_model(model: ImportedModel, options: CompilerOptions, phases: Phases) -> ir.Module:
    """Return the npu program of a model."""
    with phases.phase("compile"):
        return compile_module(
            model.module,
            target=options.target,
            settings=options.settings,
            dtype=options.dtype or "",
            pipeline=options.pipeline,
            before_pass=lambda name, _: phases.detail(f"compile: {name}"),
        )


def run_model(
    path: str, bindings: Sequence[str], compiler: CompilerOptions, options: RunOptions
) -> Run:
    """Load, compile, simulate and check a model.

    Raises: PolystageError; a failed check is not one.
    """
    phases = Phases()
    dtype = compiler.resolved_dtype()
    model = load_model(path, bindings, phases)
    program = compile_model(model, compiler, phases)
    inputs = (
        load_inputs(options.inputs, model.inputs)
        if options.inputs
        else random_inputs(model.inputs, options.seed)
    )
    with phases.phase("simulate"):
        result = simulate(
            program,
            inputs,
            timing_only=options.timing_only,
            progress=lambda done, total, layer: phases.detail(f"simulate {done}/{total}: {layer}"),
        )
    check = None
    if not options.timing_only:
        with phases.phase("reference"):
            expected = model.run_reference(inputs)
        allowed = tolerance(dtype, len(result.layers))
        check = compare(result.outputs, expected, model.reference, allowed)
    return Run(model, dtype, result, check, phases.seconds)
