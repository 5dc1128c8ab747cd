"""Reads the resident groups that a program is marked with, as somebody may have edited them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.forms import walk
from polystage.mlir import func, ir
from polystage.passes.lower.marks import GROUP, as_number, number_of
from polystage.passes.lower.resident.crossing import first_overtaken
from polystage.passes.lower.resident.marking import PART, RESIDENT
from polystage.passes.lower.resident.operators import Other, ResidentOperator

Member = ResidentOperator | Other
"""What is in a group by its mark; that it cannot run there is said when it is planned."""


def is_marked(function: func.FuncOp) -> bool:
    """Whether an array of a program is marked as made by a resident group."""
    return any(RESIDENT in op.attributes for op in walk(function.operation))


def marked_groups(function: func.FuncOp, operators: Sequence[Member]) -> dict[int, list[Member]]:
    """Return the operators of every resident group by its number.

    A group is resident where an array has its number in `npu.resident`.

    Raises: PassError where the marks contradict each other.
    """
    made = _made_on_chip(function)
    members: dict[int, list[Member]] = {n: [] for numbers in made.values() for n in numbers}
    for operator in operators:
        number = _number_of(operator, members)
        if number is not None:
            members[number].append(operator)
    _check_arrays(made, members)
    return members


def check_places(groups: Mapping[int, Sequence[ResidentOperator]]) -> None:
    """Check that every group can run where its last operation stands.

    Raises: PassError.
    """
    overtaken = first_overtaken(list(groups.values()))
    if overtaken is not None:
        number = list(groups)[overtaken[0]]
        raise PassError(
            f"resident group {number} runs where its last operation stands, but this operation "
            "between them shares an array with it",
            op=overtaken[1],
            help=f"give it the same '{GROUP}', or the operations behind it another one",
        )


def part_of(operators: Sequence[ResidentOperator], number: int) -> int | None:
    """Return how much of its batch a group does at a time, or None where it does all.

    Raises: PassError.
    """
    parts = {number_of(op, PART): op for operator in operators for op in operator.ops}
    if len(parts) > 1:
        raise PassError(
            f"operations of resident group {number} have '{PART}' {_listed(parts)}",
            op=list(parts.values())[-1],
            help=f"give all of them the same '{PART}'",
        )
    return next(iter(parts))


def _made_on_chip(function: func.FuncOp) -> dict[ir.Operation, list[int]]:
    """Return for every marked allocation the groups that make it."""
    found: dict[ir.Operation, list[int]] = {}
    for op in walk(function.operation):
        if RESIDENT in op.attributes:
            numbers = op.attributes[RESIDENT]
            if op.name != "memref.alloc" or not isinstance(numbers, ir.ArrayAttr):
                raise PassError(
                    f"'{RESIDENT}' is {numbers}, but must be a list of groups, of a 'memref.alloc'",
                    op=op,
                )
            found[op] = [as_number(n, f"'{RESIDENT}' has", op) for n in numbers]
    return found


def _number_of(operator: Member, groups: dict[int, list[Member]]) -> int | None:
    """Return the resident group of an operator, or None where it is in none."""
    numbers = {number_of(op, GROUP): op for op in operator.ops}
    if groups.keys().isdisjoint(numbers):
        return None
    if len(numbers) > 1:
        raise PassError(
            f"an operator of a resident group has operations whose '{GROUP}' is {_listed(numbers)}",
            op=list(numbers.values())[-1],
            help=f"give all {len(operator.ops)} of them the same '{GROUP}', or none",
        )
    return next(iter(numbers))


def _check_arrays(made: dict[ir.Operation, list[int]], members: dict[int, list[Member]]) -> None:
    """Check that the arrays which groups make, and no others, are marked as made by them."""
    for number, operators in members.items():
        if any(isinstance(operator, Other) for operator in operators):
            continue  # cannot run, whatever is marked
        outputs = [defining_op(o.output.array) for o in operators if not isinstance(o, Other)]
        arrays = [op for op in outputs if op is not None and op.name == "memref.alloc"]
        for op, numbers in made.items():
            if number in numbers and op not in arrays:
                raise PassError(
                    f"'{RESIDENT}' has {number}, but resident group {number} does not make this "
                    "array",
                    op=op,
                    help=f"remove it, or give what makes the array '{GROUP} = {number}'",
                )
        for op in arrays:
            if number not in made.get(op, []):
                raise PassError(
                    f"resident group {number} makes this array, but '{RESIDENT}' does not have it",
                    op=op,
                    help="a group keeps all that it makes on chip: add its number, or remove "
                    f"'{GROUP}' from what makes the array",
                )


def _listed(numbers: dict[int | None, ir.Operation]) -> str:
    return " and ".join("none" if n is None else str(n) for n in numbers)
