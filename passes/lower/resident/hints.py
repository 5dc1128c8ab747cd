"""Which dimensions of arrays contractions want across the partitions, seen from the end of the
program."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Access, GenericOp
from polystage.passes.lower.resident.reading import constant_of
from polystage.passes.lower.resident.windows import Window, window_of
from polystage.passes.lower.tensor_engine.contraction import Contraction


def wanted_partitions(operations: Sequence[ir.Operation], target: Target) -> dict[ir.Value, int]:
    """Return, for arrays that a contraction reads, directly or through elementwise operations, the
    dimension of its channels; for those that one writes, that of its rows.

    A program is read forwards, and what comes before its first contraction, such as embeddings and
    their norm, has nothing else to go by.
    """
    wanted: dict[ir.Value, int] = {}
    for op in reversed(operations):
        if op.name != "linalg.generic":
            continue
        try:
            generic = GenericOp.from_op(op.opview).without_unit_dims()
        except PassError:
            continue
        contraction = _contraction(op, generic, target)
        if contraction is not None:
            _want(wanted, op, contraction.moving, contraction.channel)
            for row in contraction.rows:
                _want(wanted, op, contraction.output, row)
        elif len(generic.outputs) == 1 and not generic.reductions:
            output = _window(op, generic.outputs[0])
            dim = None if output is None else wanted.get(output.array)
            loop = None if output is None or dim is None else output.index[dim].single
            for access in generic.inputs:
                if loop is not None:
                    _want(wanted, op, access, loop)
    return wanted


def _contraction(op: ir.Operation, generic: GenericOp, target: Target) -> Contraction | None:
    constants = [a for a in generic.inputs if constant_of(op.operands[a.argument]) is not None]
    found = (Contraction.match(generic, target, access.argument) for access in constants)
    return next((contraction for contraction in found if contraction is not None), None)


def _want(wanted: dict[ir.Value, int], op: ir.Operation, access: Access, loop: int) -> None:
    window = _window(op, access)
    dim = None if window is None else window.dim_of(loop)
    if window is not None and dim is not None:
        wanted.setdefault(window.array, dim)


def _window(op: ir.Operation, access: Access) -> Window | None:
    return window_of(op.operands[access.argument], access.index)
