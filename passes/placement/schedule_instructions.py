"""The pass `npu-schedule-instructions`: the order of the instructions of a kernel without loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polystage.dialects.npu.target import required_target
from polystage.mlir import func, ir
from polystage.passes.placement.instruction_tasks import accumulations_of, tasks_of
from polystage.passes.placement.psum_banks import banks_of, move_to_banks
from polystage.passes.registry import Pass, register_pass
from polystage.planner.list_schedule import Scheduled, list_schedule
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
    new order stays where the simulator says that it ends earlier.

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
        where, block = instructions[0].parent, instructions[0].block
        banks = banks_of(block, program.program.target)
        lives = psum_lives(program, call) if banks else None
        before_ns = program.end_ns(np.arange(call.start, call.stop))
        after_ns, found = min(
            _orders(program, call, lives), key=lambda pair: pair[0], default=(before_ns, None)
        )
        if found is None or after_ns >= before_ns:
            self.remark(where, f"kernel '{kernel}' keeps its order, which takes {before_ns:.0f} ns")
            return
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


def _orders(program: Traced, call: range, lives: Lives | None) -> Iterator[tuple[float, Scheduled]]:
    """Yield orders with their times: results stay in their banks of psum, or take any."""
    numbers, together = np.arange(call.start, call.stop), accumulations_of(program, call)
    found = list_schedule(tasks_of(program, call), together)
    if found is not None:
        after_ns = program.end_ns(numbers[list(found.order)])
        yield after_ns, found
        if after_ns <= _NEAR * program.busiest_ns(call):
            return
    if lives is None or not lives.banks:
        return
    tasks, banks = tasks_of(program, call, lives), sorted(set(lives.banks))
    for ahead in _AHEAD:
        found = list_schedule(tasks, together, banks, ahead)
        if found is not None:
            moved = in_banks(program, call, lives, found.banks)
            yield moved.end_ns(numbers[list(found.order)]), found


_NEAR = 1.05
"""An order that takes so much longer than the busiest engine is at work needs no better one."""

_AHEAD = (24, 64)
"""How many blocks may begin results in psum: none is best for all kernels."""


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
