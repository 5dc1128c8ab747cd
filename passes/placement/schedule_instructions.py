"""The pass `npu-schedule-instructions`: the order of the instructions of a kernel without loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from polystage.dialects.npu.target import required_target
from polystage.mlir import func, ir
from polystage.passes.placement.instruction_tasks import accumulations_of, tasks_of
from polystage.passes.placement.planned_latency import EXPECTED, write_planned_latency
from polystage.passes.placement.psum_banks import banks_of, move_to_banks
from polystage.passes.registry import Pass, register_pass
from polystage.planner.forward_backward import schedules
from polystage.planner.list_schedule import Scheduled, time_of_order
from polystage.planner.task_blocks import Blocks
from polystage.simulator import Lives, Traced, in_banks, psum_lives, traced
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
    other matmul interrupts. Where every bank of psum is one buffer, a result may lie in any. The
    new order stays where the simulator says that it ends earlier. The attribute `npu.expected_ns`
    of a kernel, with loops or without, is what the scheduler expects it to take.

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
        if target.is_flat or not _has_main(module):
            return
        kernels = {
            op.name.value: op
            for op in module.body.operations
            if isinstance(op, func.FuncOp) and "npu.kernel" in op.attributes
        }
        if not kernels:
            return
        program = traced(module)
        chosen: dict[str, _Chosen] = {}
        expected: dict[str, float] = {}
        for name, call in program.calls():
            kernel = kernels.pop(name, None)
            if kernel is None or len(call) > self.max_instructions:
                continue
            instructions = _straight(kernel)
            found = None
            if len(instructions) == len(call):
                found = self._reorder(program, name, call, instructions)
            if found is not None:
                chosen[name] = found
            expected[name] = _own_time(program, call) if found is None else found[1].last_ns
            kernel.operation.attributes[EXPECTED] = ir.FloatAttr.get_f64(round(expected[name], 0))
        calls = [expected.get(name, 0.0) for name, _ in program.calls()]
        is_short = program.trace.count <= self.max_instructions
        overlaps = is_short and sum(calls) - max(calls) > _LITTLE * sum(calls)
        whole_ns = _whole_time(program, chosen) if overlaps else None
        if (planned_ns := write_planned_latency(module, whole_ns)) is not None:
            self.count("planned nanoseconds", planned_ns)

    def _reorder(
        self, program: Traced, kernel: str, call: range, instructions: Sequence[ir.Operation]
    ) -> _Chosen | None:
        """Put a kernel into the best order that is found, and return that; None where it keeps its
        own."""
        where, block = instructions[0].parent, instructions[0].block
        banks = banks_of(block, program.program.target)
        lives = psum_lives(program, call) if banks else None
        before_ns = program.end_ns(np.arange(call.start, call.stop))
        after_ns, found = min(
            _orders(program, call, lives), key=lambda pair: pair[0], default=(before_ns, None)
        )
        if found is None or after_ns >= before_ns:
            self.remark(where, f"kernel '{kernel}' keeps its order, which takes {before_ns:.0f} ns")
            return None
        if lives is not None and found.banks:
            for buffer in banks.values():
                buffer.owner.move_before(block.operations[0])
            parts = lives.of_instructions(program.trace, call)
            place = dict(enumerate(zip(lives.banks, found.banks, strict=True)))
            for op, part in zip(instructions, parts, strict=True):
                move_to_banks(op, dict(place[life] for life in part), banks)
        terminator = block.operations[-1].operation
        for i in found.order:
            instructions[i].move_before(terminator)
        self.count("kernels reordered")
        self.count("nanoseconds saved", round(before_ns - after_ns))
        self.remark(where, f"kernel '{kernel}': {before_ns:.0f} ns become {after_ns:.0f} ns")
        return lives, found


_Chosen = tuple[Lives | None, Scheduled]
"""The order of a kernel, and the lives that it has banks for."""


def _orders(program: Traced, call: range, lives: Lives | None) -> Iterator[tuple[float, Scheduled]]:
    """Yield orders with their times: results take any bank of psum, or stay in theirs where there
    is no order otherwise."""
    together, enough_ns = accumulations_of(program, call), _NEAR * program.busiest_ns(call)
    for chosen in [lives, None] if lives is not None and lives.banks else [None]:
        banks = [] if chosen is None else sorted(set(chosen.banks))
        shortest_ns = inf
        for found in schedules(Blocks(tasks_of(program, call, chosen), together), banks):
            moved = program if chosen is None else in_banks(program, call, chosen, found.banks)
            after_ns = moved.end_ns(call.start + np.array(found.order))
            yield after_ns, found
            shortest_ns = min(shortest_ns, after_ns)
            if shortest_ns <= enough_ns:
                return
        if shortest_ns < inf:
            return


_NEAR = 1.02
"""An order that takes so much longer than the busiest engine is at work needs no better one."""


_LITTLE = 0.01
"""The part of the time of a program that all its kernels but the longest may take for the sum of
all to be near enough."""


def _own_time(program: Traced, span: range) -> float:
    """Return what the scheduler expects instructions to take in the order that they have."""
    return time_of_order(tasks_of(program, span))


def _whole_time(program: Traced, chosen: Mapping[str, _Chosen]) -> float:
    """Return what the scheduler expects all calls together to take, some in the orders chosen."""
    order = np.arange(program.trace.count)
    calls = [(name, call) for name, call in program.calls() if name in chosen]
    for name, call in calls:
        lives, found = chosen[name]
        order[call.start : call.stop] = call.start + np.array(found.order)
        if lives is not None and found.banks:
            program = in_banks(program, call, lives, found.banks)
    return _own_time(program.reordered(order), range(len(order)))


def _straight(function: func.FuncOp) -> list[ir.Operation]:
    """Return the instructions of a kernel; none where it has a loop."""
    operations = [view.operation for view in function.entry_block.operations]
    if any(len(op.regions) for op in operations):
        return []
    return [op for op in operations if op.name in INSTRUCTIONS]


def _has_main(module: ir.Module) -> bool:
    functions = (op for op in module.body.operations if isinstance(op, func.FuncOp))
    return any(op.name.value == "main" for op in functions)
