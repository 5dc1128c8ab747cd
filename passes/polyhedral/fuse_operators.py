"""The pass `npu-fuse-operators`: which operators run together, tile by tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from polystage.dialects import npu
from polystage.dialects.npu.target import required_target
from polystage.machine import Target
from polystage.mlir import ir
from polystage.passes.polyhedral.flatten_buffers import flatten_buffers
from polystage.passes.polyhedral.fuse_partitioned import Fusion, fuse_partitioned
from polystage.passes.polyhedral.split_wide_bodies import split_wide_bodies
from polystage.passes.registry import Form, Pass, register_pass
from polystage.planner.fusion.bounds import bounds_of
from polystage.planner.fusion.explain import explain
from polystage.planner.fusion.plan_attributes import write_plan
from polystage.planner.fusion.plan_program import Planned, plan_program
from polystage.planner.fusion.program import Program


@register_pass
@dataclass
class FuseOperatorsPass(Pass):
    """Choose groups of operators that run together, their tiles, and what stays on chip.

    On a target with a flat scratchpad the result is a complete plan, written as attributes that may
    be edited: on every operation the number of its group, on the function what each group is.
    `loops` run over dimensions of the group's last operator, every combination of their tiles is a
    step; `nests` cut each operator's part of a step in chunks; `places` say where arrays are:

    * `resident`: on chip from the group that makes the array, or loads it, to the last that reads
      it;
    * `whole`, `window`: on chip during the group, all of it or what its steps need;
    * `streamed`: brought chunk by chunk.

    `convert-linalg-to-npu` carries the plan out as it stands, and refuses one that does not fit.

    On a target whose scratchpad has partitions, operations that run in one kernel get the same
    `npu.group`; budget and objective say nothing there.
    """

    name: ClassVar[str] = "npu-fuse-operators"
    input_form: ClassVar[Form] = "buffers"
    output_form: ClassVar[Form] = "buffers"

    objective: Literal["traffic", "latency", "energy"] = "traffic"
    """What is minimised: bytes to and from DRAM, time, or energy."""

    budget: int = 1
    """How many times the usual effort the search takes."""

    max_group: int = 32
    """Operators of one group at most; 1 is the baseline without any fusion: every operator at its
    best tiles, with all operands in DRAM before and after."""

    def run(self, module: ir.Module) -> None:
        """Plan, and write the plan on the module."""
        npu.load(module.context)
        target = required_target(module)
        with module.context, ir.Location.unknown():
            if target.is_flat:
                self._plan(module, target)
            elif self.max_group > 1:
                self._mark(fuse_partitioned(module, target))

    def _plan(self, module: ir.Module, target: Target) -> None:
        self.count("buffers with merged dimensions", flatten_buffers(module))
        self.count("parts of wide bodies", split_wide_bodies(module))
        program = Program.from_module(module)
        planned = plan_program(program, target, self.objective, self.budget, self.max_group)
        write_plan(program, planned.plan, planned.costs)
        self._report(planned)

    def _mark(self, fusion: Fusion) -> None:
        for what, number in fusion.statistics.items():
            self.count(what, number)
        for op, text in fusion.remarks:
            self.remark(op, text)

    def _report(self, planned: Planned) -> None:
        bounds = bounds_of(planned.program, planned.target)
        self.count("operators", len(planned.program.operators))
        self.count("groups", len(planned.plan.groups))
        self.count("resident arrays", len(planned.plan.resident))
        self.count("compulsory bytes", bounds.compulsory_bytes)
        self.count("least bytes of operators alone", bounds.alone_bytes)
        self.count("least nanoseconds", round(bounds.latency_ns))
        for unit, number in planned.costs.items():
            self.count(f"planned {unit}", number)
        for note in explain(planned) if self.wants_remarks else ():
            self.remark(note.operators[-1].statements[0].op, note.text())
