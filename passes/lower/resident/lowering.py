"""Lowers resident groups: one kernel for each, in which arrays stay on chip between operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.provenance import causes_of
from polystage.passes.lower.resident.constants import Constants
from polystage.passes.lower.resident.groups import (
    GROUP,
    RESIDENT,
    ResidentGroup,
    added_types,
    computing_operations,
    possible_operators,
    resident_groups,
)
from polystage.passes.lower.resident.operators import Other, ResidentOperator, Sum
from polystage.passes.lower.resident.recognise import recognise, users_of
from polystage.passes.lower.resident.writer import GroupOperands, GroupWriter


def lower_resident_groups(
    module: ir.Module,
    function: func.FuncOp,
    target: Target,
    layer_of: Callable[[ir.Operation], str],
) -> int:
    """Write the kernel of every resident group and a call of it; return how many there were.

    A group is resident where an array that it writes has `npu.resident`.

    Raises:
        PassError: an operation of a group cannot run there, or the group does not fit.
    """
    operations = computing_operations(function)
    numbers = _resident_numbers(operations)
    if not numbers:
        return 0
    constants = Constants(module, target)
    operators = recognise(operations, target)
    for number in numbers:
        mine = [o for o in operators if any(_group(op) == number for op in o.ops)]
        group = _planned(mine, target, number)
        _lower(module, group, target, constants, layer_of)
    return len(numbers)


def _group(op: ir.Operation) -> int | None:
    return ir.IntegerAttr(op.attributes[GROUP]).value if GROUP in op.attributes else None


def _resident_numbers(operations: Sequence[ir.Operation]) -> list[int]:
    """Return the numbers of the groups that write an array which stays on chip."""
    found: dict[int, None] = {}
    for op in operations:
        number = _group(op)
        if number is None or op.name != "linalg.generic":
            continue
        for value in op.opview.outputs:
            owner = defining_op(value)
            if owner is not None and RESIDENT in owner.attributes:
                found[number] = None
    return list(found)


def _planned(
    operators: Sequence[ResidentOperator | Other], target: Target, number: int
) -> ResidentGroup:
    """Return the group that marked operators are.

    Raises: PassError where they cannot run in one group.
    """
    for operator in possible_operators(operators, target):
        if isinstance(operator, Other):
            raise PassError(
                f"an operation of resident group {number} cannot run in it: {operator.reason}",
                op=operator.ops[-1],
                help=f"remove its '{GROUP}', and that of the operations behind it",
            )
    groups = resident_groups(operators, target)
    if len(groups) != 1 or len(groups[0].operators) != len(operators):
        raise PassError(
            f"the {len(operators)} operators of resident group {number} do not fit in sbuf of "
            f"'{target.name}', {target.sbuf.bytes_per_partition} bytes per partition, together",
            op=operators[0].ops[-1],
            help=f"give the later ones a '{GROUP}' of their own",
        )
    return groups[0]


def _lower(
    module: ir.Module,
    group: ResidentGroup,
    target: Target,
    constants: Constants,
    layer_of: Callable[[ir.Operation], str],
) -> None:
    last = group.operators[-1].ops[-1]
    layers = [layer_of(operator.ops[-1]) for operator in group.operators]
    with ir.InsertionPoint(last), last.location:
        operands = _operands(group, constants)
        values = operands.values()
        builder = KernelBuilder(module, _free_name(module), [v.type for v in values], target)
        GroupWriter(builder, group, operands).write(layers)
        call = func.CallOp([], builder.name, values)
        call.operation.attributes["layer"] = ir.StringAttr.get(layers[0])
    for operator in group.operators:
        for op in operator.ops:
            op.erase()


def _free_name(module: ir.Module) -> str:
    symbols = ir.SymbolTable(module.operation)
    number = 0
    while f"resident_{number}" in symbols:
        number += 1
    return f"resident_{number}"


def _operands(group: ResidentGroup, constants: Constants) -> GroupOperands:
    sums = [o for o in group.operators if isinstance(o, Sum)]
    biases, first_bias = constants.shifts(sums)
    windows = [w for o in sums for w in o.addends if str(w.element_type) in added_types(sums)]
    added = {str(w.element_type): w.element_type for w in windows}
    inputs, outputs = _outside(group)
    return GroupOperands(
        inputs,
        outputs,
        {p: constants.weights(p) for o in sums for p in o.products},
        biases,
        first_bias,
        {name: constants.identity(type_) for name, type_ in added.items()},
    )


def _outside(group: ResidentGroup) -> tuple[dict[ir.Value, str], dict[ir.Value, str]]:
    """Return the arrays that a group reads before it writes them, and those that others use
    afterwards, each with the cause of its transfer."""
    mine = {op for operator in group.operators for op in operator.ops}
    inputs: dict[ir.Value, str] = {}
    outputs: dict[ir.Value, str] = {}
    written: set[ir.Value] = set()
    for operator in group.operators:
        read = [window.array for window, _, _ in operator.reads]
        if isinstance(operator, Sum):
            read += [product.moving.array for product in operator.products if product.packed]
        for array in read:
            if array not in written:
                inputs[array] = _cause(operator.ops[-1], array)
        written.add(operator.output.array)
    for operator in group.operators:
        array = operator.output.array
        if defining_op(array) is None or any(user not in mine for user in users_of(array)):
            outputs[array] = _cause(operator.ops[-1], array)
    return inputs, outputs


def _cause(op: ir.Operation, array: ir.Value) -> str:
    return causes_of(op, [array])[0]
