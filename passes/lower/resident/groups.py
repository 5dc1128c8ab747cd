"""Decides which operators run in resident groups, and marks them in the IR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

from polystage.allocation import aligned
from polystage.dialects.npu.views import defining_op
from polystage.dtypes import byte_width
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.lower.resident.layout import Layout, widen_layouts
from polystage.passes.lower.resident.operators import (
    Fold,
    Other,
    Product,
    ResidentOperator,
    Sum,
)
from polystage.passes.lower.resident.recognise import recognise
from polystage.planner.residency import Operator, plan_groups

GROUP = "npu.group"
"""Attribute of an operation: the number of the group that it runs in."""

RESIDENT = "npu.resident"
"""Attribute of an allocation: the array is on chip while its group runs."""

FEW_CHANNELS = 4
"""A contraction with taps and this many times fewer channels than the array has rows runs better
alone, with taps beside the channels on the partitions."""

SPARE = 16
"""One part in so many of the scratchpad is left for what lies between buffers."""


@dataclass(frozen=True)
class Marked:
    """How many operations run in how many groups, and why others do not."""

    groups: int
    operations: int
    remarks: tuple[tuple[ir.Operation, str], ...]


@dataclass(frozen=True)
class ResidentGroup:
    """Operators that run together: how their arrays lie, and before which operator the weights of
    each start to load."""

    operators: tuple[ResidentOperator, ...]
    layouts: Mapping[ir.Value, Layout]
    loads: tuple[int, ...]


def mark_resident(function: func.FuncOp, target: Target) -> Marked:
    """Mark the operations of a program that run in resident groups, and the arrays between them.

    linalg.generic                    ->  linalg.generic {npu.group = 0 : i64}
    %a = memref.alloc() : memref<..>  ->  %a = memref.alloc() {npu.resident} : memref<..>
    """
    operators = recognise(computing_operations(function), target)
    possible = possible_operators(operators, target)
    groups = resident_groups(possible, target)
    i64 = ir.IntegerType.get_signless(64)
    operations = 0
    for number, group in enumerate(groups):
        for operator in group.operators:
            for op in operator.ops:
                op.attributes[GROUP] = ir.IntegerAttr.get(i64, number)
                operations += 1
            owner = defining_op(operator.output.array)
            if owner is not None:
                owner.attributes[RESIDENT] = ir.UnitAttr.get()
    remarks = tuple((o.ops[-1], o.reason) for o in possible if isinstance(o, Other))
    return Marked(len(groups), operations, remarks)


def computing_operations(function: func.FuncOp) -> list[ir.Operation]:
    """Return what a program computes outside of loops, in program order."""
    names = ("linalg.generic", "memref.copy")
    return [op.operation for op in function.entry_block.operations if op.operation.name in names]


def partitions_of(target: Target) -> int:
    """Return across how many partitions a tile of an array lies: what the array takes and gives."""
    return min(target.sbuf.partitions, target.tensor.rows, target.tensor.columns)


def possible_operators(
    operators: Sequence[ResidentOperator | Other], target: Target
) -> list[ResidentOperator | Other]:
    """Return the operators of a program, with those that a group cannot run as others."""
    found: list[ResidentOperator | Other] = []
    layouts: dict[ir.Value, Layout] = {}
    for operator in operators:
        if isinstance(operator, Other):
            found.append(operator)
            continue
        reason = _obstacle(operator, target)
        wider = widen_layouts(layouts, operator, partitions_of(target))
        if reason is None and wider is None:
            reason = "a border of an operand is filled with something else for another operation"
        if reason is not None:
            found.append(Other(operator.ops, reason))
        elif wider is not None:
            layouts = wider
            found.append(operator)
    return found


def resident_groups(
    possible: Sequence[ResidentOperator | Other], target: Target
) -> list[ResidentGroup]:
    """Return the groups of a program."""
    partitions = partitions_of(target)
    layouts: dict[ir.Value, Layout] = {}
    for operator in possible:
        if not isinstance(operator, Other):
            layouts = widen_layouts(layouts, operator, partitions) or layouts
    facts = [None if isinstance(o, Other) else _facts(o, partitions) for o in possible]
    sizes = {array: aligned(layout.bytes) for array, layout in layouts.items()}
    groups: list[ResidentGroup] = []
    for found in plan_groups(facts, sizes, _capacity(possible, target)):
        mine = [o for o in possible[found.first : found.last + 1] if not isinstance(o, Other)]
        loads = tuple(position - found.first for position in found.loads)
        groups.append(ResidentGroup(tuple(mine), _layouts(mine, partitions), loads))
    return groups


def _layouts(operators: Sequence[ResidentOperator], partitions: int) -> dict[ir.Value, Layout]:
    layouts: dict[ir.Value, Layout] = {}
    for operator in operators:
        layouts = widen_layouts(layouts, operator, partitions) or layouts
    return layouts


def _obstacle(operator: ResidentOperator, target: Target) -> str | None:
    """Return why a group cannot run an operator, or does not run it well."""
    types = {
        str(operator.output.element_type),
        *(str(w.element_type) for w, _, _ in operator.reads),
    }
    for type_ in sorted(types):
        if type_ not in ("f32", "bf16", "f16") or not target.tensor.supports(type_):
            return f"the array does not take {type_}"
    if isinstance(operator, Fold):
        return None
    for product in operator.products:
        if product.moving.array == operator.output.array:
            return "a contraction writes over its operand"
        if product.taps and product.channels * FEW_CHANNELS <= target.tensor.rows:
            return f"{product.channels} channels leave most of the array idle"
    return None


def _facts(operator: ResidentOperator, partitions: int) -> Operator:
    reads = tuple(window.array for window, _, _ in operator.reads)
    if isinstance(operator, Fold):
        free = prod(operator.output.shape) // operator.output.shape[operator.partition]
        return Operator(reads, operator.output.array, 0, aligned(4 * free))
    weights = sum(weight_bytes(product, partitions) for product in operator.products)
    return Operator(reads, operator.output.array, weights)


def weight_bytes(product: Product, partitions: int) -> int:
    """Return the bytes of weights in each partition."""
    each = product.weight_elements * byte_width(product.moving.element_type)
    full, rest = divmod(product.channels, partitions)
    return aligned(full * each) + aligned(each if rest else 0)


def _capacity(possible: Sequence[ResidentOperator | Other], target: Target) -> int:
    """Return the bytes per partition for arrays and weights, beside biases and identities."""
    partitions = partitions_of(target)
    sums = [o for o in possible if isinstance(o, Sum) and o.shifts]
    biases = sum(4 * ceil(o.output.shape[o.partition] / partitions) for o in sums)
    room = target.sbuf.bytes_per_partition * (SPARE - 1) // SPARE
    return room - aligned(biases) - 2 * aligned(4 * partitions)
