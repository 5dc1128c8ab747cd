"""Which arrays may hold infinite elements: what the array must not multiply by zeros.

The array adds one operand to the sums of others as a product with the identity. Of what is infinite
it makes NaN everywhere else in the column: zero times infinity.
"""

from __future__ import annotations

from math import isfinite

import numpy as np

from polystage.constants import constant_array
from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import VIEW_OPS, defining_op
from polystage.mlir import ir


def may_be_infinite(value: ir.Value) -> bool:
    """Return whether the program says that an array has infinite elements, or NaN: a constant that
    has, or what an operation with such a constant makes of other arrays.

    What overflows, and what the program is given, counts as finite.
    """
    return any(_source_may_be(_root(source)) for _, source in overlay.pieces(_root(value))[0])


def is_given(value: ir.Value) -> bool:
    """Return whether an array is, or shows, an argument of the program."""
    sources = [source for _, source in overlay.pieces(_root(value))[0]]
    return any(defining_op(_root(source)) is None for source in sources)


def _root(value: ir.Value) -> ir.Value:
    while (op := defining_op(value)) is not None and op.name in VIEW_OPS:
        value = op.operands[0]
    return value


def _source_may_be(array: ir.Value) -> bool:
    op = defining_op(array)
    if op is None:
        return False
    if op.name == "memref.get_global":
        return not np.isfinite(_elements(op).astype(np.float32)).all()
    return any(_writes_infinity(user, array) for user in _users(array))


def _elements(op: ir.Operation) -> np.ndarray:
    module = op
    while module.name != "builtin.module":
        assert module.parent is not None
        module = module.parent
    name = ir.FlatSymbolRefAttr(op.attributes["name"]).value
    return constant_array(ir.SymbolTable(module)[name].attributes["initial_value"])


def _users(array: ir.Value) -> list[ir.Operation]:
    found: list[ir.Operation] = []
    for use in array.uses:
        user = use.owner.operation
        found += _users(user.results[0]) if user.name in VIEW_OPS else [user]
    return found


def _writes_infinity(op: ir.Operation, array: ir.Value) -> bool:
    """Return whether an operation writes an array with an infinite constant in its body; a fill,
    from which a maximum starts, does not count."""
    if op.name != "linalg.generic" or not op.opview.inputs:
        return False
    if all(_root(output) != array for output in op.opview.outputs):
        return False
    body = op.regions[0].blocks[0].operations
    return any(_is_infinite(operand) for inner in body for operand in inner.operands)


def _is_infinite(value: ir.Value) -> bool:
    op = defining_op(value)
    if op is None or op.name != "arith.constant":
        return False
    attribute = op.attributes["value"]
    return isinstance(attribute, ir.FloatAttr) and not isfinite(attribute.value)
