"""What readers of operators know of a program: places, constants, and how arrays lie on chip."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import VIEW_OPS, defining_op
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.fills import initialising_fills
from polystage.passes.lower.generic_op import Access
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.resident.windows import Window, window_of


class Declined(Exception):
    """An operation cannot run in a group; the argument says why."""


class Reading:
    """A program as far as it is read.

    `partitions` has, for every array of which that is known, the dimension that lies across the
    partitions, or `REPLICATED`; `hints` has the one that later contractions want. Overlays
    that an operator makes are in `shown`. A reader raises
    `Declined` for an operation that is its own but cannot run in a group, and returns None for one
    that another reader may know.
    """

    def __init__(self, operations: Sequence[ir.Operation], target: Target) -> None:
        self.operations = operations
        self.target = target
        self.place = {op: i for i, op in enumerate(operations)}
        folded = initialising_fills(operations)
        self.fills = set(folded)
        self.initials: dict[ir.Operation, tuple[ir.Operation, Initial]] = {
            op: (fill, initial) for fill, (op, initial) in folded.items()
        }
        self.partitions: dict[ir.Value, int | None] = {}
        self.hints: dict[ir.Value, int] = {}
        self.shown: set[ir.Value] = set()

    def with_fill(self, op: ir.Operation) -> tuple[ir.Operation, ...]:
        """Return an operation, after the fill that it starts from if it has one."""
        return (self.initials[op][0], op) if op in self.initials else (op,)

    def window(self, op: ir.Operation, access: Access) -> Window:
        """Return what an operand of an operation is of an array in memory."""
        value = op.operands[access.argument]
        if value in self.shown:
            return Window(value, access.index)
        window = window_of(value, access.index)
        if window is None:
            raise Declined("an operand is a part of an array, or of several")
        return window

    def demand(self, array: ir.Value, partition: int | None) -> None:
        """Let a dimension of an array lie across the partitions."""
        known = self.partitions.setdefault(array, partition)
        if known != partition:
            raise Declined(
                f"dimension {known} of an operand lies across the partitions, not {partition}"
            )


def users_of(array: ir.Value) -> list[ir.Operation]:
    """Return what uses an array, directly or through views, in the order of uses."""
    found: list[ir.Operation] = []
    for use in array.uses:
        user = use.owner.operation
        if user.name in VIEW_OPS or user.name == overlay.NAME:
            found += users_of(user.results[0])
        else:
            found.append(user)
    return found


def constant_of(value: ir.Value) -> str | None:
    """Return the name of the constant global that a value is, or None."""
    op = defining_op(value)
    if op is None or op.name != "memref.get_global":
        return None
    return ir.FlatSymbolRefAttr(op.attributes["name"]).value
