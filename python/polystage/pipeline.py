"""The compiler on one page: which passes run, in which order, and why."""

import gc
import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from polystage.errors import FormError, PassError, PolystageError, location_text
from polystage.forms import check_form
from polystage.machine import Target, parse_settings
from polystage.mlir import ir, passmanager
from polystage.passes.registry import PASSES, Pass, Remark
from polystage.passes.tensors.normalize import NORMALIZE
from polystage.pipeline_syntax import (
    MODULE,
    Nest,
    PassCall,
    create_own_pass,
    is_own,
    parse_pipeline,
)


@dataclass(frozen=True)
class Stage:
    """Passes that take the IR from one form to the next; `@dtype`, `@target` and `@objective` are
    filled in."""

    passes: str
    gives: str
    reason: str


DEFAULT_PIPELINE: tuple[Stage, ...] = (
    Stage(NORMALIZE, "buffers", "one way to say each thing, every copy explicit"),
    Stage(
        "poly-eliminate-copies,canonicalize,cse",
        "buffers",
        "what only moves data is composed into the accesses of what computes",
    ),
    Stage("npu-set-float-type{type=@dtype}", "buffers", "arithmetic in what the target does best"),
    Stage(
        "npu-attach-target{target=@target}", "buffers", "from here on the IR says what it is for"
    ),
    Stage(
        "npu-map-banks", "buffers", "arrays lie in DRAM as the scratchpad's partitions want them"
    ),
    Stage(
        "npu-pack-weights,canonicalize,symbol-dce",
        "buffers",
        "weights in the order the array reads them, at no run-time cost",
    ),
    Stage(
        "npu-compact-strided-reads",
        "buffers",
        "on a flat scratchpad no operand takes more room than what is read of it",
    ),
    Stage(
        "npu-fuse-operators{objective=@objective}",
        "buffers",
        "operators that run together, tile by tile, so that arrays between them stay on chip",
    ),
    Stage(
        "convert-linalg-to-npu,canonicalize,cse", "npu", "loops over tiles: load, compute, store"
    ),
    Stage(
        "npu-allocate-scratchpad", "placed", "an address for every buffer, proved not to overlap"
    ),
    Stage(
        "npu-schedule-instructions", "placed", "an order in which engines wait less for each other"
    ),
    Stage("npu-insert-sync", "synchronised", "engines at work at once, ordered by semaphores"),
)


def default_pipeline(
    target: str, dtype: str, settings: Sequence[str] = (), objective: str = "traffic"
) -> str:
    """Return the textual form of `DEFAULT_PIPELINE` for a target, as `polystage-opt` takes it."""
    described = target + (f" set={','.join(settings)}" if settings else "")
    text = ",".join(stage.passes for stage in DEFAULT_PIPELINE)
    for name, value in (("@dtype", dtype), ("@target", described), ("@objective", objective)):
        text = text.replace(name, value)
    return f"{MODULE}({text})"


def compile_module(
    module: ir.Module,
    *,
    target: str = "neuroncore_v2",
    settings: Sequence[str] = (),
    dtype: str = "",
    objective: str = "",
    pipeline: str = "",
    before_pass: "Observer | None" = None,
    after_pass: "Observer | None" = None,
    explain: Callable[[str], None] | None = None,
) -> ir.Module:
    """Return the npu program of a module, which stays as it is.

    `target` is a preset or the path of a TOML file, `settings` change single values of it
    (`key=value`), `dtype` is the arithmetic (`f32`, `bf16`, `f16`, `f8`; by default what the
    target does best), `objective` is what fusion minimises (`traffic`, `latency`, `energy`; by
    default that of `npu-fuse-operators`). `pipeline` replaces the default one as a whole. `explain`
    is called with every remark on why operators run together or apart.

    Raises: PolystageError; see `run_pipeline`.
    """
    text = pipeline or default_pipeline(
        target, dtype or default_dtype(target, settings), settings, objective or "traffic"
    )
    with module.context, ir.Location.unknown():
        program = module.operation.clone()  # a ModuleOp, which does all that we ask
    records = run_pipeline(
        program,
        text,
        remarks=explain is not None,
        before_pass=before_pass,
        after_pass=after_pass,
    )
    if explain:
        fusion = (r for r in records if r.name.startswith("npu-fuse-operators"))
        for remark in (remark for record in fusion for remark in record.remarks):
            explain(remark.text)
    return program


def default_dtype(target: str, settings: Sequence[str] = ()) -> str:
    """Return the arithmetic that a target does best.

    Raises: TargetError.
    """
    return Target.load(target, parse_settings(tuple(settings))).default_dtype


def passes_in_order() -> list[type[Pass]]:
    """Return every registered pass: those of the default pipeline in its order, then the others."""
    names = re.findall(r"[\w-]+", ",".join(stage.passes for stage in DEFAULT_PIPELINE))
    place = {name: position for position, name in reversed(list(enumerate(names)))}
    return sorted(PASSES.values(), key=lambda p: (place.get(p.name, len(names)), p.name))


@dataclass(frozen=True)
class PassRecord:
    """What one element of a pipeline did."""

    name: str
    seconds: float
    statistics: dict[str, int] = field(default_factory=dict[str, int])
    remarks: tuple[Remark, ...] = ()


Observer = Callable[[str, ir.Module], None]
"""Called with the text of an element of the pipeline and the module."""


def run_pipeline(
    module: ir.Module,
    pipeline: str | Nest,
    *,
    verify_each: bool = True,
    remarks: bool = True,
    before_pass: Observer | None = None,
    after_pass: Observer | None = None,
) -> list[PassRecord]:
    """Run a textual pipeline on `module` in place and return a record per element.

    Without `remarks`, those that take time to find are left out.

    With `verify_each`, what passes make is verified after each of ours, and after the last of
    several upstream ones.

    Raises: PipelineError before anything has run; PassError or FormError from the pass that failed.
    """
    root = parse_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    records: list[PassRecord] = []
    with _no_garbage_collection(), module.context, ir.Location.unknown():
        unverified: list[str] = []
        for element, following in zip_longest(root.children, root.children[1:]):
            if before_pass:
                before_pass(str(element), module)
            records.append(_run_element(module, element, verify_each, remarks))
            unverified = [] if is_own(element) else [*unverified, str(element)]
            if verify_each and unverified and (following is None or is_own(following)):
                _verify_upstream(module, ",".join(unverified))
            if after_pass:
                after_pass(str(element), module)
    return records


@contextmanager
def _no_garbage_collection() -> Generator[None]:
    """Pause the search for cycles of objects, which takes a third of the time among as many as a
    program of 100,000 instructions has, and finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _run_element(
    module: ir.Module, element: PassCall | Nest, verify: bool, remarks: bool
) -> PassRecord:
    start = time.perf_counter()
    if isinstance(element, PassCall) and is_own(element):
        done = create_own_pass(element)
        _run_own_pass(module, done if remarks else done.without_remarks(), verify)
        seconds = time.perf_counter() - start
        return PassRecord(str(element), seconds, dict(done.statistics), tuple(done.remarks))
    _run_upstream(module, str(element))
    return PassRecord(str(element), time.perf_counter() - start)


def _run_own_pass(module: ir.Module, pass_: Pass, verify: bool) -> None:
    try:
        _check_form(module, pass_.input_form, f"{pass_.name} takes {pass_.input_form} form")
        pass_.run(module)
        if verify:
            module.operation.verify()
        _check_form(module, pass_.output_form, f"{pass_.name} left it behind")
    except ir.MLIRError as error:
        raise _pass_error(pass_.name, error) from error
    except PolystageError as error:
        if not error.message.startswith(f"{pass_.name}: "):
            error.message = f"{pass_.name}: {error.message}"
        raise


def _check_form(module: ir.Module, form: str, help: str) -> None:
    try:
        check_form(module, form)
    except FormError as error:
        error.help = help
        raise


def _verify_upstream(module: ir.Module, names: str) -> None:
    try:
        module.operation.verify()
    except ir.MLIRError as error:
        raise _pass_error(names, error) from error


def _run_upstream(module: ir.Module, text: str) -> None:
    manager = passmanager.PassManager.parse(f"{MODULE}({text})")
    manager.enable_verifier(False)
    try:
        manager.run(module.operation)
    except ir.MLIRError as error:
        raise _pass_error(text, error) from error


def _pass_error(name: str, error: ir.MLIRError) -> PassError:
    """Return upstream's diagnostics as one of our errors, at the place of the first."""
    diagnostics: Sequence[Any] = error.error_diagnostics
    if not diagnostics:
        return PassError(f"{name}: {error.message}")
    first = diagnostics[0]
    return PassError(f"{name}: {first.message}", location=location_text(first.location))
