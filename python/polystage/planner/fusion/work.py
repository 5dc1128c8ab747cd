"""What operators do per iteration: operations of the vector engine, types of running results."""

from collections.abc import Mapping, Sequence

from polystage.dialects.npu.views import defining_op
from polystage.dtypes import numpy_dtype
from polystage.polyhedral import Array, Kind, Statement
from polystage.polyhedral.domains import ranges_of
from polystage.polyhedral.operations import walk_block

_FREE = frozenset({"arith.constant", "arith.extf", "arith.truncf", "linalg.index", "linalg.yield"})
_SUMS = frozenset({"arith.addf", "arith.addi", "arith.subf", "arith.subi"})
_NARROWING = frozenset({"arith.truncf", "arith.trunci"})


def lane_operations(statements: Sequence[Statement]) -> int:
    """Return how many scalar operations the vector engine does for an operator, all iterations.

    Conversions between types come with the operation; a statement has one operation at least. The
    sums of products of a contraction are not among them.
    """
    total = 0
    for statement in statements:
        if statement.kind is Kind.CONTRACTION or statement.op.name != "linalg.generic":
            continue
        iterations = 1
        for low, high in ranges_of(statement.domain):
            iterations *= high - low + 1
        block = statement.op.regions[0].blocks[0]
        total += iterations * max(1, sum(op.name not in _FREE for op in walk_block(block)))
    return total


def accumulator_bytes(statements: Sequence[Statement], arrays: Mapping[str, Array]) -> int | None:
    """Return the bytes of an element of a running result that the output cannot hold, or None.

    Sums run in the type of the addition, which narrow outputs do not hold; a maximum is as exact in
    the output's type. An epilogue works in place where result and output have one type and nothing
    reads what the output held before.
    """
    anchor, last = statements[0], statements[-1]
    if "reduction" not in anchor.iterators or len(anchor.writes) != 1:
        return None
    output = arrays[last.writes[0].array]
    result = arrays[anchor.writes[0].array]
    wider = _wide_sum(anchor)
    if wider is not None:
        return wider
    if len(statements) == 1:
        return None
    is_read = any(a.array == output.name for statement in statements[1:] for a in statement.reads)
    in_place = result.dtype == output.dtype and not is_read and len(last.writes) == 1
    return None if in_place else result.element_bytes


def _wide_sum(statement: Statement) -> int | None:
    """Return the bytes of the type that a statement adds in, if it is wider than what it writes."""
    if statement.op.name != "linalg.generic":
        return None
    block = statement.op.regions[0].blocks[0]
    narrowing = defining_op(list(block.operations)[-1].operands[0])
    if narrowing is None or narrowing.name not in _NARROWING:
        return None
    addition = defining_op(narrowing.operands[0])
    if addition is None or addition.name not in _SUMS:
        return None
    return numpy_dtype(addition.results[0].type).itemsize
