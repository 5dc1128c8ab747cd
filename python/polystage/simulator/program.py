"""Runs whole modules: decode, time, numbers, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from polystage.dialects import npu
from polystage.dialects.npu.queues import SEMAPHORES, queue_of, semaphores_of
from polystage.dialects.npu.target import target_of
from polystage.errors import SimulationError
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.simulator.accounts import compulsory_bytes
from polystage.simulator.accumulations import check_open_groups
from polystage.simulator.assemble import Assembly, CoreProgram
from polystage.simulator.conflicts import Order, with_order
from polystage.simulator.decode import Program
from polystage.simulator.findings import (
    busy_by_layer,
    flow_of,
    joined,
    latency_by_layer,
    port_conflicts_of,
    residences_of,
    schedule_of,
    spans_of,
)
from polystage.simulator.main import ENTRY, MainDecoder, bind_inputs, outputs_of
from polystage.simulator.memory import Array, ChipMemory, DramBuffer
from polystage.simulator.numerics import Numbers, Progress
from polystage.simulator.ordering import (
    check_deadlock,
    check_races,
    races_of,
)
from polystage.simulator.queues import Queues
from polystage.simulator.reordering import Traced
from polystage.simulator.result import DeviceResult, Result
from polystage.simulator.schedule import Race
from polystage.simulator.timeline import CoreTimeline, run_timeline
from polystage.simulator.trace import COMPUTE_QUEUES, Rates
from polystage.threads import one_blas_thread

Inputs = Mapping[str, Array]


@dataclass(frozen=True)
class _Options:
    """How to run, the same for all cores."""

    numerics: bool
    order: Order | Literal[""]
    inferences: int
    ignores_races: bool
    finds_races: bool
    progress: Progress | None


def simulate(
    module: ir.Module,
    inputs: Inputs | None = None,
    *,
    timing_only: bool = False,
    order: str = "",
    inferences: int = 1,
    races: str = "error",
    check_races: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Execute a placed npu module on the target that it names, and return what it computed and
    cost.

    `inputs` are the model's inputs by name. `timing_only` skips the numbers, and needs none.
    `order` is "concurrent": nothing but queues and semaphores orders the program; "interlocked":
    the machine holds every instruction until what it depends on has ended; "sequential": one
    instruction after the other. Without it, programs with `npu.semaphores` are concurrent, others
    interlocked.
    `inferences` follow each other without a pause; all have the same inputs. Races are looked for
    in concurrent order with numbers, or with `check_races`; `races` is "error" or "ignore", which
    carries them out.
    `progress(done, total, layer)` is called before every call of a kernel.

    Raises: SimulationError for an input that does not fit, for what the machine cannot do, for
    reads of what nothing wrote, for deadlocks and races.
    """
    given = None if inputs is None else [inputs]
    device = simulate_device(
        [module],
        given,
        timing_only=timing_only,
        order=order,
        inferences=inferences,
        races=races,
        check_races=check_races,
        progress=progress,
    )
    return device.cores[0]


def traced(module: ir.Module) -> Traced:
    """Return what a placed program executes, to be looked at or put into another order.

    Raises: SimulationError, as `simulate`.
    """
    core = _Core(module, 0, _options(True, "interlocked", 1, "error", False, None))
    core.prepare({})
    return Traced(core.program, core.core.trace, _rates([core.target]))


def simulate_device(
    modules: Sequence[ir.Module],
    inputs: Sequence[Inputs] | None = None,
    *,
    timing_only: bool = False,
    order: str = "",
    inferences: int = 1,
    races: str = "error",
    check_races: bool = False,
    progress: Progress | None = None,
) -> DeviceResult:
    """Execute one module per core; the cores share the bandwidth of the device's DRAM.

    The same module may run on several cores. `inputs` are those of every core; every core runs
    `inferences`. Otherwise like `simulate`.

    Raises: SimulationError, as `simulate`; also for more modules than the device has cores, and for
    modules of different devices.
    """
    options = _options(timing_only, order, inferences, races, check_races, progress)
    if not modules:
        raise SimulationError("there is no module to simulate", help="give one per core")
    if inputs is not None and len(inputs) != len(modules):
        raise SimulationError(
            f"there are inputs for {len(inputs)} cores, but {len(modules)} modules",
            help="give the inputs of every core, in the order of the modules",
        )
    for module in modules:
        _verify(module)
    cores = [_Core(module, number, options) for number, module in enumerate(modules)]
    rates = _rates([core.target for core in cores])
    with np.errstate(all="ignore"), one_blas_thread():
        for number, core in enumerate(cores):
            core.prepare({} if inputs is None else inputs[number])
        timeline = run_timeline([core.ordered for core in cores], rates)
        check_deadlock([(core.program, core.core) for core in cores], timeline)
        results = tuple(core.finish(t) for core, t in zip(cores, timeline.cores, strict=True))
    spans = [spans_of(core.core, t) for core, t in zip(cores, timeline.cores, strict=True)]
    begin, end = (np.concatenate(x) for x in zip(*spans, strict=True))
    return DeviceResult(results, joined([r.timeline for r in results]), flow_of(begin, end))


def _options(
    timing_only: bool,
    order: str,
    inferences: int,
    races: str,
    check_races: bool,
    progress: Progress | None,
) -> _Options:
    if order not in ("", "concurrent", "interlocked", "sequential"):
        raise SimulationError(
            f"order '{order}' does not exist, allowed are concurrent, interlocked, sequential"
        )
    if races not in ("error", "ignore"):
        raise SimulationError(f"races are '{races}', allowed are error, ignore")
    if inferences < 1:
        raise SimulationError(f"{inferences} inferences were asked for, at least 1 is needed")
    finds = check_races or not timing_only
    return _Options(not timing_only, order, inferences, races == "ignore", finds, progress)


def _rates(targets: Sequence[Target]) -> Rates:
    """Return what the cores of a device share.

    Raises: SimulationError for cores that are not of one device, or too many.
    """
    first = targets[0]
    for target in targets[1:]:
        if (target.device, target.dma.startup_ns) != (first.device, first.dma.startup_ns):
            raise SimulationError(
                f"'{first.name}' and '{target.name}' are cores of different devices",
                help="compile all modules for cores of one device",
            )
    if len(targets) > first.device.cores:
        raise SimulationError(
            f"there are {len(targets)} modules, but the device of '{first.name}' has "
            f"{first.device.cores} cores",
            help="run fewer modules, or set device.cores",
        )
    return Rates(first.dma.startup_ns, first.device.dram_bytes_per_ns)


class _Core:
    """One core: its program, and what came of it."""

    def __init__(self, module: ir.Module, number: int, options: _Options) -> None:
        self.number = number
        self.options = options
        target = target_of(module.operation)
        if target is None:
            raise SimulationError(
                "the module names no target",
                help="run npu-attach-target, which sets the attribute npu.target",
            )
        self.target = target
        semaphores = _declared_semaphores(module.operation)
        self.semaphores = semaphores or []
        self.order: Order = options.order or ("interlocked" if semaphores is None else "concurrent")
        symbols = {
            ir.StringAttr(op.attributes["sym_name"]).value: op.operation
            for op in module.body.operations
            if "sym_name" in op.attributes
        }
        if ENTRY not in symbols:
            raise SimulationError(f"the module has no function @{ENTRY}")
        memories = {
            "sbuf": ChipMemory("sbuf", target.sbuf.partitions, target.sbuf.bytes_per_partition),
            "psum": ChipMemory("psum", target.psum.partitions, target.psum.bytes_per_partition),
        }
        queues = Queues(target, _engines_of(module))
        concurrent = self.order == "concurrent"
        self.program = Program(target, queues, memories, symbols, options.numerics, concurrent)
        self.main = MainDecoder(self.program, symbols[ENTRY])

    def prepare(self, inputs: Inputs) -> None:
        """Decode, bind the inputs, and look for what the order leaves open."""
        options, program = self.options, self.program
        nodes = self.main.run()
        if options.numerics:
            bind_inputs(self.main, inputs)
        self.assembly = Assembly(program)
        for node in nodes:
            node(self.assembly, ())
        self.core: CoreProgram = self.assembly.finish(self.semaphores, options.inferences)
        check_open_groups(program, self.core)
        self.ordered = with_order(self.core.trace, self.order)

    def finish(self, timeline: CoreTimeline) -> Result:
        """Compute the numbers, and return the result."""
        races = self._races()
        outputs = self._compute(timeline) if self.options.numerics else {}
        core, target, inferences = self.core, self.target, self.options.inferences
        accounts = self.assembly.accounts
        busy = busy_by_layer(core)
        buffers = [b for b in self.program.buffers if isinstance(b, DramBuffer)]
        returned = [self.main.dram(r.view) for r in self.main.results]
        compulsory = compulsory_bytes(buffers, returned, inferences)
        begin, end = spans_of(core, timeline)
        latency = latency_by_layer(core, timeline)
        return Result(
            target=target,
            outputs=outputs,
            totals=accounts.total(
                target, inferences, compulsory, float(end.max()), busy.sum(0).tolist()
            ),
            layers=accounts.results(target, inferences, latency.tolist(), busy.tolist()),
            timeline=schedule_of(self.program, core, timeline, self.number),
            flow=flow_of(begin, end),
            port_conflicts=port_conflicts_of(self.program, core, timeline),
            races=races,
            order=self.order,
            find_residences=lambda: residences_of(self.program, core, timeline, self.number),
        )

    def _races(self) -> tuple[Race, ...]:
        if self.order != "concurrent" or not self.options.finds_races:
            return ()
        races = races_of(self.program, self.core)
        if not self.options.ignores_races:
            check_races(races)
        return races

    def _compute(self, timeline: CoreTimeline) -> dict[str, Any]:
        """Carry out all instructions and return the results of the last inference."""
        for memory in self.program.memories.values():
            memory.materialise()
        for buffer in self.program.buffers:
            if isinstance(buffer, DramBuffer):
                buffer.materialise()
        numbers = Numbers(self.program, self.core, self.options.progress)
        if self.order == "concurrent" and self.options.ignores_races:
            numbers.run_overlapped(timeline)
        else:
            numbers.run_in_order(timeline)
        shift = self.assembly.lives * (self.options.inferences - 1)
        lives = {b: n + shift if n >= 0 else n for b, n in self.assembly.life.items()}
        return outputs_of(self.main, lives)


def _declared_semaphores(module: ir.Operation) -> list[int] | None:
    """Return the initial values of the module's semaphores, None where it declares none.

    Raises: SimulationError for what is no list of counts.
    """
    declared, values = module.attributes.get(SEMAPHORES, None), semaphores_of(module)
    if declared is not None and (values is None or min(values, default=0) < 0):
        raise SimulationError(
            f"{SEMAPHORES} of the module is {declared}, but must be array<i64: ..> of initial "
            "values that are not negative"
        )
    return values


def _verify(module: ir.Module) -> None:
    npu.load(module.context)
    try:
        module.operation.verify()
    except ir.MLIRError as error:
        details = "; ".join(d.message for d in error.error_diagnostics)
        raise SimulationError(f"the program is not legal: {details or error}") from error


def _engines_of(module: ir.Module) -> set[str]:
    """Return the engines that the module's instructions use."""
    used = {"tensor"}
    for op in _operations(module.operation):
        if op.name.startswith("npu.") and op.name not in ("npu.signal", "npu.wait"):
            used.add(queue_of(op) or "")
    return used & set(COMPUTE_QUEUES)


def _operations(op: ir.Operation) -> Iterator[ir.Operation]:
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                if len(inner.operation.regions):
                    yield from _operations(inner.operation)
