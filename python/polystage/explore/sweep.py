"""Compile and simulate a model for every point of a sweep.

What does not depend on the machine is done once; a program is compiled once for all points that
differ in times only (DRAM bandwidth, number of cores), whose times are then simulated with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polystage import simulator
from polystage.dialects.npu.target import ATTRIBUTE, target_attribute
from polystage.errors import PolystageError
from polystage.explore.points import Figures, Outcome, Point, figures_of
from polystage.frontends import ImportedModel, load
from polystage.machine import Target, parse_settings
from polystage.mlir import ir
from polystage.pipeline import DEFAULT_PIPELINE, run_pipeline
from polystage.pipeline_syntax import MODULE

Progress = Callable[[int, int, str], None]
"""Called with the number of finished points, that of all, and the present one in words."""

_ATTACH = "npu-attach-target"
_TIMES_ONLY = ("dram.bytes_per_ns", "device.")
"""Beginnings of the keys that a compiled program does not depend on."""


@dataclass(frozen=True)
class Options:
    """What stays the same at all points.

    `source` is a model, or its path; more than one process needs the path. `inferences` follow each
    other on each core, and their mean rate counts. `recompile` gives every point its own program.
    """

    source: str | ImportedModel
    target: str = "neuroncore_v2"
    settings: tuple[str, ...] = ()
    dtype: str = ""
    batch: int | None = None
    bind: tuple[tuple[str, int], ...] = ()
    inferences: int = 1
    recompile: bool = False
    jobs: int = 1

    def base(self) -> Target:
        """Return the machine without the changes of a point.

        Raises: TargetError.
        """
        return Target.load(self.target, parse_settings(self.settings))


def sweep(
    options: Options, points: Sequence[Point], progress: Progress | None = None
) -> list[Outcome]:
    """Return what came of every point, in order; one that cannot be compiled says why.

    Raises: PolystageError where the model cannot be imported, or the target does not exist.
    """
    base = options.base()
    outcomes: dict[int, Outcome] = {}
    groups: dict[Any, list[tuple[int, Point, Target]]] = {}
    for index, point in enumerate(points):
        try:
            target = point.target(base)
        except PolystageError as error:
            outcomes[index] = Outcome(point, reason=_reason(error))
            continue
        groups.setdefault(_program_key(target, options), []).append((index, point, target))
    for found in _run_groups(options, list(groups.values()), len(outcomes), len(points), progress):
        outcomes |= found
    return [outcomes[index] for index in range(len(points))]


Group = list[tuple[int, Point, Target]]
"""Points that share a program, each with its number."""


def _program_key(target: Target, options: Options) -> tuple[Any, ...]:
    own = () if options.recompile else _TIMES_ONLY
    return tuple((k, v) for k, v in target.values().items() if not k.startswith(own or "device."))


def _run_groups(
    options: Options, groups: Sequence[Group], done: int, count: int, progress: Progress | None
) -> Any:
    """Yield the outcomes of every group, from one process or several."""
    if options.jobs == 1:
        compiler = _Compiler(options)
        for group in groups:
            if progress:
                progress(done, count, group[0][1].text())
            done += len(group)
            yield compiler.outcomes(group)
        return
    joblib = _import_joblib()
    tasks = (joblib.delayed(_run_group)(options, group) for group in groups)
    for group in joblib.Parallel(n_jobs=options.jobs, return_as="generator_unordered")(tasks):
        done += len(group)
        if progress:
            progress(done, count, "")
        yield group


_COMPILERS: dict[Options, "_Compiler"] = {}
"""That of this process, which has imported and prepared the model."""


def _run_group(options: Options, group: Group) -> dict[int, Outcome]:
    if options not in _COMPILERS:
        _COMPILERS[options] = _Compiler(options)
    return _COMPILERS[options].outcomes(group)


def _import_joblib() -> Any:
    try:
        import joblib  # lazy: of the extra `explore`
    except ModuleNotFoundError:
        raise PolystageError(
            "more than one process needs joblib, which is not installed",
            help="pip install 'polystage[explore]'",
        ) from None
    return joblib


class _Compiler:
    """The model as the passes leave it that no machine matters to."""

    def __init__(self, options: Options) -> None:
        self.options = options
        source = options.source
        if isinstance(source, str):
            source = load(source, dict(options.bind), batch=options.batch)
        self.items = options.batch or 1
        names = [stage.passes.startswith(_ATTACH) for stage in DEFAULT_PIPELINE]
        place = names.index(True)
        base = options.base()
        self.base = base
        dtype = options.dtype or base.default_dtype
        values = {"@dtype": dtype, "@objective": "latency"}
        texts = [_with(values, stage.passes) for stage in DEFAULT_PIPELINE]
        self.rest = f"{MODULE}({','.join(texts[place + 1 :])})"
        self.prepared = _clone(source.module)
        run_pipeline(self.prepared, f"{MODULE}({','.join(texts[:place])})")

    def outcomes(self, group: Group) -> dict[int, Outcome]:
        """Return what comes of points that share a program, by their numbers."""
        try:
            program = self._compile(group[0][2])
        except PolystageError as error:
            return {index: Outcome(point, reason=_reason(error)) for index, point, _ in group}
        found: dict[int, Outcome] = {}
        for index, point, target in group:
            try:
                found[index] = Outcome(point, self._figures(program, target, point.cores))
            except PolystageError as error:
                found[index] = Outcome(point, reason=_reason(error))
        return found

    def _compile(self, target: Target) -> ir.Module:
        if not self.options.recompile:
            base = self.base
            target = target.override(
                {
                    "dram.bytes_per_ns": base.dram.bytes_per_ns,
                    "device.dram_bytes_per_ns": base.device.dram_bytes_per_ns,
                }
            )
        program = _clone(self.prepared)
        _attach(program, target)
        run_pipeline(program, self.rest)
        return program

    def _figures(self, program: ir.Module, target: Target, cores: int) -> Figures:
        _attach(program, target)
        count = self.options.inferences
        run = simulator.simulate_device([program] * cores, timing_only=True, inferences=count)
        items = cores * count * self.items
        return figures_of(target, run.cores, run.flow.total_ns, run.flow.mean_latency_ns, items)


def _attach(module: ir.Module, target: Target) -> None:
    with module.context:
        module.operation.attributes[ATTRIBUTE] = target_attribute(target)


def _clone(module: ir.Module) -> ir.Module:
    with module.context, ir.Location.unknown():
        return module.operation.clone()


def _with(values: Mapping[str, str], passes: str) -> str:
    for name, value in values.items():
        passes = passes.replace(name, value)
    return passes


def _reason(error: PolystageError) -> str:
    """Return an error in one line."""
    place = f"{error.location}: " if error.location else ""
    return place + error.message + (f" ({error.help})" if error.help else "")
