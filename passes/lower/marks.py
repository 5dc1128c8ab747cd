"""Numbers that operations are marked with, which somebody may have edited."""

from __future__ import annotations

from polystage.errors import PassError
from polystage.mlir import ir

GROUP = "npu.group"
"""Attribute of operations that share a kernel: the number of their group."""


def number_of(op: ir.Operation, name: str) -> int | None:
    """Return the number that an operation is marked with, or None.

    Raises: PassError where the mark is no number.
    """
    return as_number(op.attributes[name], f"'{name}' is", op) if name in op.attributes else None


def as_number(attribute: ir.Attribute, what: str, op: ir.Operation) -> int:
    """Return a mark as a number; `what` says in an error what it is of.

    Raises: PassError.
    """
    if not isinstance(attribute, ir.IntegerAttr):
        raise PassError(f"{what} {attribute}, but must be an integer", op=op)
    return attribute.value
