"""Marks the operations of resident groups in the IR."""

from __future__ import annotations

from dataclasses import dataclass

from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import VIEW_OPS, defining_op
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.lower.marks import GROUP
from polystage.passes.lower.physical_layout import PARTITION
from polystage.passes.lower.resident.boundary import saved_ns
from polystage.passes.lower.resident.collapse_heads import collapse_heads
from polystage.passes.lower.resident.crossing import first_overtaken, obstacle_at_border
from polystage.passes.lower.resident.groups import (
    ResidentGroup,
    possible_operators,
    resident_groups,
)
from polystage.passes.lower.resident.lanes.operators import Across, Lanes
from polystage.passes.lower.resident.operators import Other, ResidentOperator, Sum
from polystage.passes.lower.resident.recognise import recognise
from polystage.passes.lower.resident.split_folds import split_folds

RESIDENT = "npu.resident"
"""Attribute of an allocation: the numbers of the groups that make the array on chip."""

PART = "npu.part"
"""Attribute of an operation: how much of a batch its group does at a time."""


@dataclass(frozen=True)
class Marked:
    """How many operations run in how many groups, and why others do not."""

    groups: int
    operations: int
    remarks: tuple[tuple[ir.Operation, str], ...]


def mark_resident(function: func.FuncOp, target: Target) -> Marked:
    """Mark the operations of a program that run in resident groups, and the arrays between them.

    linalg.generic                    ->  linalg.generic {npu.group = 0 : i64}
    %a = memref.alloc() : memref<..>  ->  %a = memref.alloc() {npu.resident = [0]} : memref<..>

    Where a group does its batch part by part, its operations have `npu.part`, the size of one.
    """
    collapse_heads(computing_operations(function))
    split_folds(computing_operations(function), target)
    operators = recognise(computing_operations(function), target)
    possible = possible_operators(operators, target)
    found = resident_groups(possible, target)
    obstacles = {group.operators: _obstacle(group, target) for group in found}
    groups = [group for group in found if obstacles[group.operators] is None]
    while overtaken := first_overtaken([group.operators for group in groups]):
        group = groups.pop(overtaken[0])
        obstacles[group.operators] = (
            "an operation outside of its group has to run between those in it"
        )
    operations = 0
    for number, group in enumerate(groups):
        for operator in group.operators:
            operations += len(operator.ops)
            _mark(operator, group, number)
            for op in operator.ops:
                for value in op.operands:
                    if isinstance(value.type, ir.MemRefType):
                        _store_as_it_is(value)
    remarks = [(o.ops[-1], o.reason) for o in possible if isinstance(o, Other) and o.reason]
    remarks += [(run[-1].ops[-1], text) for run, text in obstacles.items() if text is not None]
    return Marked(len(groups), operations, tuple(remarks))


def _obstacle(group: ResidentGroup, target: Target) -> str | None:
    """Return why a group that fits is none, or None."""
    if all(isinstance(o, Lanes | Across) or _adds(o) for o in group.operators):
        return "its group multiplies nothing: row by row it needs no array in another order"
    at_border = obstacle_at_border(group.operators)
    if at_border is not None:
        return at_border
    if saved_ns(group, target) <= 0:
        return "its group would wait longer for arrays in another order than it saves"
    return None


def _adds(operator: ResidentOperator) -> bool:
    return isinstance(operator, Sum) and not operator.products


def _mark(operator: ResidentOperator, group: ResidentGroup, number: int) -> None:
    i64 = ir.IntegerType.get_signless(64)
    for op in operator.ops:
        op.attributes[GROUP] = ir.IntegerAttr.get(i64, number)
        if group.parts is not None:
            op.attributes[PART] = ir.IntegerAttr.get(i64, group.parts.size)
    owner = defining_op(operator.output.array)
    if owner is not None and owner.name == "memref.alloc":
        earlier = list(owner.attributes[RESIDENT]) if RESIDENT in owner.attributes else []
        numbers = [*earlier, ir.IntegerAttr.get(i64, number)]
        owner.attributes[RESIDENT] = ir.ArrayAttr.get(list(dict.fromkeys(numbers)))


def _store_as_it_is(value: ir.Value) -> None:
    """Let an array that a group touches keep its order of dimensions in memory: on chip it lies as
    the group wants it."""
    owner = defining_op(value)
    while owner is not None and (owner.name in VIEW_OPS or owner.name == overlay.NAME):
        owner = defining_op(owner.operands[0])
    if owner is not None and PARTITION in owner.attributes:
        del owner.attributes[PARTITION]


def computing_operations(function: func.FuncOp) -> list[ir.Operation]:
    """Return what touches the elements of arrays, in program order; a loop is one operation."""
    idle = ("memref.alloc", "memref.get_global", "arith.constant", "func.return", overlay.NAME)
    operations = [op.operation for op in function.entry_block.operations]
    return [op for op in operations if op.name not in (*idle, *VIEW_OPS)]
