"""Lowers resident groups: one kernel for each, in which arrays stay on chip between operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polystage.dialects.npu.views import DYNAMIC
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import func, ir, memref
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.marks import GROUP
from polystage.passes.lower.provenance import causes_of
from polystage.passes.lower.resident.batches import batch_dims
from polystage.passes.lower.resident.constants import Constants
from polystage.passes.lower.resident.crossing import (
    Reached,
    inputs_of,
    obstacle_at_border,
    outputs_of,
)
from polystage.passes.lower.resident.groups import (
    Parts,
    ResidentGroup,
    plan_parts,
    plan_run,
    possible_operators,
)
from polystage.passes.lower.resident.marked import (
    check_places,
    is_marked,
    marked_groups,
    part_of,
)
from polystage.passes.lower.resident.marking import PART, RESIDENT, computing_operations
from polystage.passes.lower.resident.operators import Other, ResidentOperator
from polystage.passes.lower.resident.recognise import recognise
from polystage.passes.lower.resident.writer import GroupOperands, GroupWriter
from polystage.passes.memref_types import window_type
from polystage.planner.residency.groups import MIN_OPERATORS


def lower_resident_groups(
    module: ir.Module,
    function: func.FuncOp,
    target: Target,
    layer_of: Callable[[ir.Operation], str],
) -> int:
    """Write the kernel of every resident group and a call of it; return how many there were.

    Raises:
        PassError: an operation of a group cannot run there, or the group does not fit.
    """
    if not is_marked(function):
        return 0
    constants = Constants(module, target)
    operators = recognise(computing_operations(function), target)
    members = marked_groups(function, operators)
    groups = {number: _planned(mine, target, number) for number, mine in members.items()}
    check_places({number: group.operators for number, group in groups.items()})
    for group in groups.values():
        _lower(module, group, target, constants, layer_of)
    return len(groups)


def _planned(
    operators: Sequence[ResidentOperator | Other], target: Target, number: int
) -> ResidentGroup:
    """Return the group that marked operators are.

    Raises: PassError where they cannot run in one group.
    """
    run: list[ResidentOperator] = []
    for operator in possible_operators(operators, target):
        if isinstance(operator, Other) and operator.reason is None:
            continue  # the last of its operations has it
        if isinstance(operator, Other):
            raise PassError(
                f"an operation of resident group {number} cannot run in it: {operator.reason}",
                op=operator.ops[-1],
                help=f"remove its '{GROUP}', and that of the operations behind it",
            )
        run.append(operator)
    if len(run) < MIN_OPERATORS:
        raise PassError(
            f"resident group {number} is one operator, but arrays stay on chip between two or more",
            op=run[0].ops[-1],
            help=f"remove its '{GROUP}', and its number from '{RESIDENT}'",
        )
    at_border = obstacle_at_border(run)
    if at_border is not None:
        raise PassError(
            f"resident group {number} cannot run: {at_border}",
            op=run[0].ops[-1],
            help=f"give what makes it and what reads it the same '{GROUP}'",
        )
    size = part_of(run, number)
    group = None if size is None else _planned_in_parts(run, target, number, size)
    groups = [group] if group is not None else plan_run(run, target)
    if len(groups) != 1 or len(groups[0].operators) != len(run):
        raise PassError(
            f"the {len(run)} operators of resident group {number} do not fit in sbuf of "
            f"'{target.name}', {target.sbuf.bytes_per_partition} bytes per partition, together",
            op=run[0].ops[-1],
            help=f"give the later ones a '{GROUP}' of their own, or a smaller '{PART}'",
        )
    return groups[0]


def _planned_in_parts(
    run: Sequence[ResidentOperator], target: Target, number: int, size: int
) -> ResidentGroup | None:
    """Return the group that does its batch part by part, or None where it does not fit."""
    dims = batch_dims(run)
    extent = run[0].output.shape[dims[run[0].output.array]] if dims is not None else 0
    if dims is None or size < 1 or extent % size:
        raise PassError(
            f"'{PART}' is {size}, but the batch of resident group {number} is {extent or 'none'}",
            op=run[0].ops[-1],
            help="choose a divisor of the batch, or remove the attribute",
        )
    return plan_parts(run, target, dims, size)


def _lower(
    module: ir.Module,
    group: ResidentGroup,
    target: Target,
    constants: Constants,
    layer_of: Callable[[ir.Operation], str],
) -> None:
    last = group.operators[-1].ops[-1]
    layers = [layer_of(_named_after(operator)) for operator in group.operators]
    with ir.InsertionPoint(last), last.location:
        operands = _operands(group, constants)
        values = operands.values()
        calls = [
            [_part(value, group.parts, number) for value in values] for number in _parts(group)
        ]
        builder = KernelBuilder(module, _free_name(module), [v.type for v in calls[0]], target)
        GroupWriter(builder, group, operands).write(layers)
        for arguments in calls:
            call = func.CallOp([], builder.name, arguments)
            call.operation.attributes["layer"] = ir.StringAttr.get(layers[0])
    for operator in group.operators:
        for op in operator.ops:
            op.erase()


def _named_after(operator: ResidentOperator) -> ir.Operation:
    """Return the operation whose name an operator has in reports: a contraction, if it has one."""
    return operator.weighted[0].op if operator.weighted else operator.ops[-1]


def _parts(group: ResidentGroup) -> range:
    return range(group.parts.count if group.parts is not None else 1)


def _part(value: ir.Value, parts: Parts | None, number: int) -> ir.Value:
    """Return a part of an array of a batch, in a type that all parts have; constants as they
    are."""
    if parts is None or value not in parts.dims:
        return value
    type_, dim = ir.MemRefType(value.type), parts.dims[value]
    starts = [number * parts.size if d == dim else 0 for d in range(type_.rank)]
    sizes = [parts.size if d == dim else n for d, n in enumerate(type_.shape)]
    steps = [1] * type_.rank
    kept = list(range(type_.rank))
    part = memref.SubViewOp(
        window_type(type_, starts, sizes, steps, kept), value, [], [], [], starts, sizes, steps
    ).result
    strides, _ = type_.get_strides_and_offset()
    layout = ir.StridedLayoutAttr.get(DYNAMIC, strides)
    anywhere = ir.MemRefType.get(sizes, type_.element_type, layout)
    return memref.CastOp(anywhere, part).result


def _free_name(module: ir.Module) -> str:
    symbols = ir.SymbolTable(module.operation)
    number = 0
    while f"resident_{number}" in symbols:
        number += 1
    return f"resident_{number}"


def _operands(group: ResidentGroup, constants: Constants) -> GroupOperands:
    columns, first_column = constants.columns([c for o in group.operators for c in o.columns])
    return GroupOperands(
        _causes(inputs_of(group.operators)),
        _causes(outputs_of(group.operators)),
        {p: constants.weights(p) for o in group.operators for p in o.weighted},
        {m: constants.table(m) for m in group.matrices},
        columns,
        first_column,
    )


def _causes(reached: Reached) -> dict[ir.Value, str]:
    return {array: causes_of(op, [array])[0] for array, op in reached.items()}
