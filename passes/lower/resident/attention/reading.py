"""Reads the attention of a program as operators of groups.

What attention is, the planner says (`planner/fusion/attention/matching`): two contractions with a
softmax between them, however their loops and views count heads. Here it gets windows on the arrays,
and is declined where their features do not lie as the array of multipliers needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from polystage.constants import constant_array
from polystage.dialects.npu.views import defining_op
from polystage.dtypes import numpy_dtype
from polystage.forms import walk
from polystage.linear import linear_form
from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Linear
from polystage.passes.lower.resident.attention.mask import HIDDEN, Mask
from polystage.passes.lower.resident.attention.operator import Attention, dim_of, start_of
from polystage.passes.lower.resident.attention.tiles import rows_of
from polystage.passes.lower.resident.layout import partitions_of
from polystage.passes.lower.resident.reading import Declined, Reading
from polystage.passes.lower.resident.reading import constant_of as global_of
from polystage.passes.lower.resident.windows import Window
from polystage.planner.fusion.attention.matching import find_attention
from polystage.planner.fusion.attention.operator import Attention as Found
from polystage.planner.fusion.patterns import constant_of, operand_of, yielded
from polystage.polyhedral import Access, Array, Statement, TensorProgram
from polystage.polyhedral.scalar import strip_casts


class AttentionReader:
    """The attention of a program.

    `members` are all operations that it takes. What is declined stays what it was; `reasons` has
    why, by the contraction that makes the scores.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.members: set[ir.Operation] = set()
        self.reasons: dict[ir.Operation, str] = {}
        self.operators: dict[ir.Operation, Attention] = {}
        program = _program(reading.operations)
        if program is None:
            return
        for found in find_attention(program):
            try:
                operator = _operator(found, program.arrays, reading)
            except Declined as declined:
                self.reasons[found.statements[0].op] = str(declined)
                continue
            self.members.update(operator.ops)
            self.operators[operator.ops[-1]] = operator

    def read(self, op: ir.Operation) -> Attention | None:
        """Return the attention whose last operation is `op`.

        Raises: Declined where its arrays lie otherwise already.
        """
        operator = self.operators.get(op)
        if operator is not None:
            for window, dim, _ in operator.reads:
                self.reading.demand(window.array, dim)
            self.reading.partitions[operator.output.array] = operator.partition
        return operator


def _program(operations: Sequence[ir.Operation]) -> TensorProgram | None:
    """Return the program that operations are of, where it has something that may be a softmax."""
    exponentials = (op for top in operations for op in walk(top) if op.name == "math.exp")
    if next(exponentials, None) is None:
        return None
    function = operations[0].parent
    assert function is not None and function.parent is not None
    name = ir.StringAttr(function.attributes["sym_name"]).value
    return TensorProgram.from_module(function.parent, name)


def _operator(found: Found, arrays: Mapping[str, Array], reading: Reading) -> Attention:
    ops = [statement.op for statement in found.statements]
    if not all(op in reading.place for op in ops):
        raise Declined("a part of the attention runs in a loop")
    if not found.has_sum or not (found.has_maximum or found.pointwise):
        raise Declined("the weights of the attention are not normalised exponentials")
    query, key, value = (_window(access, found, arrays) for access in found.reads[:3])
    output = _window(found.writes[0], found, arrays)
    for window, features, tokens in (
        (query, found.depth, found.queries),
        (key, found.depth, found.keys),
        (value, found.values, found.keys),
        (output, found.values, found.queries),
    ):
        _check_plain(window, features, tokens, len(found.heads))
    scale, masks = _scores(found, arrays, query.element_type)
    operator = Attention(
        tuple(sorted(ops, key=lambda op: reading.place[op])),
        output,
        dim_of(output, found.values),
        found.statements[0].op,
        found.extents,
        query,
        key,
        value,
        scale,
        masks,
        found.has_maximum,
    )
    _check_heads(operator, reading.target)
    return operator


def _window(access: Access, found: Found, arrays: Mapping[str, Array]) -> Window:
    array = arrays[access.array].value
    forms = [linear_form(expr, len(found.extents)) for expr in access.exprs or ()]
    if array is None or any(form is None for form in forms):
        raise Declined("an operand of the attention is not accessed plainly")
    return Window(array, tuple(Linear(form[0], tuple(form[1])) for form in forms if form))


def _scores(
    found: Found, arrays: Mapping[str, Array], element_type: ir.Type
) -> tuple[float, tuple[Mask, ...]]:
    """Return by what scores are multiplied, and what is added to them before; what is added to all
    of them alike changes no weight."""
    scale, masks = 1.0, list[tuple[Access, float]]()
    for statement in found.pointwise:
        mine = {a.operand: a for a in found.reads[3:] if a.op == statement.op}
        value = yielded(statement)
        if not found.has_maximum and statement is found.pointwise[-1]:
            value = _exponent(value)
        factors = _combination(value, statement)
        own = [n for n in factors if n is not None and n not in mine]
        if len(own) != 1:
            raise Declined("the scores go through an operation that attention does not know")
        scale *= factors[own[0]]
        masks = [(access, factor * factors[own[0]]) for access, factor in masks]
        masks += [(access, factors[n]) for n, access in mine.items() if n in factors]
    if scale <= 0:
        raise Declined(f"the scores are multiplied by {scale:g}")
    made = (_mask(a, factor / scale, found, arrays, element_type) for a, factor in masks)
    return scale, tuple(made)


def _mask(
    access: Access,
    scale: float,
    found: Found,
    arrays: Mapping[str, Array],
    element_type: ir.Type,
) -> Mask:
    window = _window(access, found, arrays)
    name = global_of(window.array)
    if name is None:
        raise Declined("a mask of the attention is no constant")
    index = tuple(replace(x, coefficients=x.coefficients[:-2]) for x in window.index)
    mask = Mask(name, index, found.extents[:-2], scale, element_type)
    function = found.statements[0].op.parent
    assert function is not None and function.parent is not None
    symbols = ir.SymbolTable(function.parent)
    values = mask.values(lambda name: constant_array(symbols[name].attributes["initial_value"]))
    with np.errstate(over="ignore"):
        rounded = values.astype(numpy_dtype(element_type)).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise Declined(f"a mask of the attention is beyond the numbers of {element_type}")
    if not (values > HIDDEN).any(-1).all():
        raise Declined("a mask of the attention hides all keys of a query")
    return mask


def _exponent(value: ir.Value) -> ir.Value:
    """Return what a weight is the exponential of."""
    found = operand_of(value, "math.exp")
    if found is None:
        raise Declined("the weights of the attention are no exponentials")
    return found


def _combination(value: ir.Value, statement: Statement) -> dict[int | None, float]:
    """Return the factors of the arguments of a body that a value is a sum of, and of 1."""
    value = strip_casts(value)
    constant = constant_of(value)
    if constant is not None:
        return {None: constant}
    arguments = list(statement.op.regions[0].blocks[0].arguments)
    if value in arguments:
        return {arguments.index(value): 1.0}
    op = defining_op(value)
    name = op.name.removeprefix("arith.") if op is not None else ""
    if op is None or name not in ("addf", "subf", "mulf", "divf", "negf"):
        raise Declined("the scores go through an operation that attention does not know")
    parts = [_combination(operand, statement) for operand in op.operands]
    if name == "negf":
        return _times(parts[0], -1.0)
    left, right = parts
    if name in ("addf", "subf"):
        return _plus(left, right if name == "addf" else _times(right, -1.0))
    if name == "mulf" and set(left) == {None}:
        left, right = right, left
    if set(right) != {None} or not right[None]:
        raise Declined("the scores are not multiplied by a constant")
    return _times(left, right[None] if name == "mulf" else 1 / right[None])


def _times(factors: Mapping[int | None, float], by: float) -> dict[int | None, float]:
    return {argument: factor * by for argument, factor in factors.items()}


def _plus(
    left: Mapping[int | None, float], right: Mapping[int | None, float]
) -> dict[int | None, float]:
    return {n: left.get(n, 0.0) + right.get(n, 0.0) for n in dict.fromkeys([*left, *right])}


# --- what the array can do -----------------------------------------------------------------------


def _check_plain(window: Window, features: int, tokens: int, heads: int) -> None:
    """Check that one dimension of an array is the features of a head and another one its tokens,
    counted from where the head begins."""
    loops = [{d for d in linear.dims if d >= heads} for linear in window.index]
    steps = [linear.coefficients[d] for linear in window.index for d in (features, tokens)]
    wide = [found for found in loops if found]
    if sorted(map(tuple, wide)) != sorted([(features,), (tokens,)]) or max(steps) > 1:
        raise Declined("an operand of the attention is not accessed plainly")


def _check_heads(operator: Attention, target: Target) -> None:
    """Check that the array of multipliers can take every head where it lies."""
    partitions = partitions_of(target)
    depth, values = operator.extents[-2:]
    if operator.query.element_type != operator.value.element_type:
        raise Declined("the values of the attention have another type than the queries")
    for head in operator.heads:
        first, second = (
            rows_of(start_of(w, head)[d], depth, min(partitions, w.shape[d]), target.sbuf)
            for w, d in ((w, dim_of(w, operator.depth)) for w in (operator.query, operator.key))
        )
        if first is None or second is None:
            raise Declined(f"heads of {depth} begin at partitions at which no access does")
        if [(r.first, r.count) for r in first] != [(r.first, r.count) for r in second]:
            raise Declined("a head lies at other partitions in the queries than in the keys")
    made = operator.units(operator.output, partitions)
    starts = [made.column(start_of(operator.output, head)) for head in operator.heads]
    if starts != list(range(0, made.columns, values)):
        raise Declined("the heads do not fill the tiles of the result, one after the other")
    if values > target.tensor.moving_columns:
        raise Declined(
            f"a value has {values} elements, but psum has {target.tensor.moving_columns}"
        )
