"""The pass `npu-schedule-instructions`: the order of the instructions of a kernel without loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polystage.dialects.npu.target import required_target
from polystage.mlir import func, ir
from polystage.passes.registry import Pass, register_pass
from polystage.planner.list_schedule import Task, list_schedule
from polystage.simulator import Traced, orders_of, traced
from polystage.synchronisation import INSTRUCTIONS


@register_pass
@dataclass
class ScheduleInstructionsPass(Pass):
    """Put the instructions of kernels without loops into an order in which engines wait less.

    Every queue executes its instructions in the order of the program, so that of a norm holds up
    the matmuls behind it, which do not need it. A list scheduler takes for every queue, whenever it
    is free, the instruction with the longest way to the end of the kernel among those that could
    start; weights come in the order in which they are needed. Instructions that touch the same
    bytes, one of them writing, stay in their order, and so does an accumulation in psum, which no
    other matmul interrupts. The new order stays where the simulator says that it ends earlier.

    Addresses are given, and with them what may run at the same time. On a flat target the order is
    that of the plan and stays.
    """

    name = "npu-schedule-instructions"
    input_form = "placed"
    output_form = "placed"

    max_instructions: int = 20000
    """Kernels with more instructions keep their order."""

    def run(self, module: ir.Module) -> None:
        """Reorder every kernel that gains by it."""
        target = required_target(module)
        kernels = {
            op.name.value: instructions
            for op in module.body.operations
            if isinstance(op, func.FuncOp) and (instructions := list(_straight(op)))
        }
        if target.is_flat or not kernels or not _has_main(module):
            return
        program = traced(module)
        for kernel, call in program.calls():
            instructions = kernels.pop(kernel, [])
            if len(instructions) == len(call) <= self.max_instructions:
                self._reorder(program, kernel, call, instructions)

    def _reorder(
        self, program: Traced, kernel: str, call: range, instructions: Sequence[ir.Operation]
    ) -> None:
        numbers = np.arange(call.start, call.stop)
        order = list_schedule(_tasks(program, call), _accumulations(program, call))
        before_ns = program.end_ns(numbers)
        after_ns = before_ns if order is None else program.end_ns(numbers[order])
        where = instructions[0].parent
        if order is None or after_ns >= before_ns:
            self.remark(where, f"kernel '{kernel}' keeps its order, which takes {before_ns:.0f} ns")
            return
        terminator = instructions[0].block.operations[-1].operation
        for i in order:
            instructions[i].move_before(terminator)
        self.count("kernels reordered")
        self.count("nanoseconds saved", round(before_ns - after_ns))
        self.remark(where, f"kernel '{kernel}': {before_ns:.0f} ns become {after_ns:.0f} ns")


def _straight(function: func.FuncOp) -> Iterator[ir.Operation]:
    """Yield the instructions of a kernel; none where it has a loop."""
    if "npu.kernel" not in function.attributes:
        return
    operations = [view.operation for view in function.entry_block.operations]
    if any(len(op.regions) for op in operations):
        return
    yield from (op for op in operations if op.name in INSTRUCTIONS)


def _has_main(module: ir.Module) -> bool:
    functions = (op for op in module.body.operations if isinstance(op, func.FuncOp))
    return any(op.name.value == "main" for op in functions)


def _tasks(program: Traced, call: range) -> list[Task]:
    """Return the instructions of a call as the scheduler sees them."""
    trace, span = program.trace, slice(call.start, call.stop)
    op = trace.op[span]
    stationary = trace.region[trace.access_start[span]]
    held = np.where(program.is_matmul()[span], stationary, -1)
    moves = np.array([name.startswith("dma") for name in trace.queues])[trace.queue[span]]
    columns = (
        trace.queue[span],
        program.times(op, "changed", "busy_ns"),
        program.times(op, "changed", "latency_ns"),
        trace.ports[span],
        held,
        program.times(op, "held", "busy_ns"),
        np.where(moves, program.rates.dma_startup_ns, 0.0),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        Task(queue, busy, latency, before.after, before.waits, *rest)
        for before, (queue, busy, latency, *rest) in zip(orders_of(trace, call), rows, strict=True)
    ]


def _accumulations(program: Traced, call: range) -> list[list[int]]:
    """Return the runs of matmuls that must not be interrupted: from where an accumulation begins,
    perhaps together with others, to where all of them have ended."""
    trace, is_matmul = program.trace, program.is_matmul()
    spans: list[list[int]] = []
    matmuls = [i for i in call if is_matmul[i]]
    span_of: dict[int, list[int]] = {}
    for place, i in enumerate(matmuls):
        psum = int(trace.region[trace.access_start[i + 1] - 1])
        if not trace.value[i] or psum not in span_of:
            span_of[psum] = [place, place]
            spans.append(span_of[psum])
        span_of[psum][1] = place
    found: list[list[int]] = []
    end = -1
    for first, stop in sorted(spans):
        if first > end:
            found.append([])
        new = range(max(first, end + 1), stop + 1)
        found[-1] += [matmuls[place] - call.start for place in new]
        end = max(end, stop)
    return [run for run in found if len(run) > 1]
