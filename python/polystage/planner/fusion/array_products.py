"""Which contractions the array makes: sums of products of two operands, in types that it takes."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from math import prod

from polystage.dialects.npu.rules import ACCUMULATORS
from polystage.dtypes import cost_dtype
from polystage.machine import Target
from polystage.mlir import ir
from polystage.planner.fusion.matmul_roles import Dim, roles_of
from polystage.planner.fusion.operators import Operator
from polystage.polyhedral.scalar import multiplied_arguments


def factors_of(operator: Operator) -> tuple[int, int] | None:
    """Return the operands whose products an operator sums, if the array takes them."""
    op = operator.statements[0].op
    if op.name != "linalg.generic" or operator.initial is None:
        return None
    carry = len(op.operands) - 1
    arguments = multiplied_arguments(op.regions[0].blocks[0], carry)
    if arguments is None:
        return None
    types = [str(ir.MemRefType(op.operands[i].type).element_type) for i in (*arguments, carry)]
    legal = ACCUMULATORS.get(types[0])
    if types[0] != types[1] or legal is None:
        return None
    if operator.accumulator is None and types[2] != legal:
        return None
    return arguments


def suits_array(operator: Operator, depends: Sequence[AbstractSet[int]], target: Target) -> bool:
    """Whether the array is faster than the lanes, of which each takes two cycles for a product.

    `depends` are the dims of either factor. The array is not faster where few dimensions lie along
    its rows or columns: in a depthwise convolution.
    """
    dims = [
        Dim(size, (int(d in depends[0]), int(d in depends[1]), int(d in operator.parallels)))
        for d, size in enumerate(operator.extents)
        if size > 1
    ]
    element = ir.MemRefType(operator.statements[0].op.operands[0].type).element_type
    array, lanes = target.tensor, target.vector
    cycles = min(roles.cost(target) for roles in roles_of(dims))
    array_ns = cycles * getattr(array.cycles_per_row, cost_dtype(element)) / array.clock_ghz
    return array_ns < 2 * prod(operator.extents) / (lanes.lanes * lanes.clock_ghz)
