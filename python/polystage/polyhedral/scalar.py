"""What the scalar body of a statement computes: the values it uses, the kind that makes it."""

from collections.abc import Callable, Iterator, Mapping

from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir
from polystage.polyhedral.model import Kind

_ADD = frozenset({"arith.addf", "arith.addi"})
_MULTIPLY = frozenset({"arith.mulf", "arith.muli"})
LOADS = frozenset({"affine.load", "memref.load"})
CASTS = frozenset({"arith.extf", "arith.truncf", "arith.extsi", "arith.extui", "arith.trunci"})
_ARRAY_CASTS = frozenset({"arith.extf", "arith.truncf", "arith.extsi"})


def computed_from(
    value: ir.Value, is_given: Callable[[ir.Value], bool] = lambda _: False
) -> Iterator[ir.Value]:
    """Yield `value` and everything from which it is computed, operands in order, up to what is
    given."""
    seen: set[ir.Value] = set()
    todo = [value]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        yield current
        if not is_given(current) and (op := defining_op(current)) is not None:
            todo.extend(reversed(list(op.operands)))


def leaves(value: ir.Value, leaf_of: Mapping[ir.Value, int]) -> set[int]:
    """Return the leaves (reads of the statement) from which `value` is computed."""
    parts = computed_from(value, lambda part: part in leaf_of)
    return {leaf_of[part] for part in parts if part in leaf_of}


def strip_casts(value: ir.Value, casts: frozenset[str] = CASTS) -> ir.Value:
    """Return `value` before any widening or narrowing."""
    op = defining_op(value)
    while op is not None and op.name in casts:
        value = op.operands[0]
        op = defining_op(value)
    return value


def factors_of(value: ir.Value, leaf_of: Mapping[ir.Value, int]) -> list[ir.Value]:
    """Return `a` and `b` where `value` is `leaf + a * b`, each made from one other leaf."""
    add = defining_op(strip_casts(value))
    if add is None or add.name not in _ADD:
        return []
    for own, other in ((0, 1), (1, 0)):
        carry = leaf_of.get(strip_casts(add.operands[own]))
        if carry is None:
            continue
        product = defining_op(strip_casts(add.operands[other]))
        if product is None or product.name not in _MULTIPLY:
            continue
        left, right = (leaves(operand, leaf_of) for operand in product.operands)
        if len(left) == 1 and len(right) == 1 and not left & right and carry not in left | right:
            return list(product.operands)
    return []


def is_contraction(value: ir.Value, carry: int, leaf_of: Mapping[ir.Value, int]) -> bool:
    """Tell whether `value` is `carry + a * b`, with `a` and `b` each made from one other read."""
    add = defining_op(strip_casts(value))
    if add is None or not factors_of(value, leaf_of):
        return False
    return any(leaf_of.get(strip_casts(operand)) == carry for operand in add.operands)


def multiplied_arguments(body: ir.Block, carry: int) -> tuple[int, int] | None:
    """Return a and b where a body yields `carry + a * b` of its arguments, up to casts that an
    array of multipliers makes itself."""
    numbers = {argument: number for number, argument in enumerate(body.arguments)}

    def parts(value: ir.Value, names: frozenset[str]) -> list[ir.Value]:
        op = defining_op(strip_casts(value, _ARRAY_CASTS))
        if op is None or op.name not in names:
            return []
        return [strip_casts(operand, _ARRAY_CASTS) for operand in op.operands]

    terms = parts(list(body.operations)[-1].operands[0], _ADD)
    others = [term for term in terms if numbers.get(term) != carry]
    if len(terms) != 2 or len(others) != 1:
        return None
    factors = [numbers.get(factor) for factor in parts(others[0], _MULTIPLY)]
    match factors:
        case [int(a), int(b)] if a != b and carry not in (a, b):
            return a, b
        case _:
            return None


_FOLDS = frozenset(
    f"arith.{name}"
    for name in (
        *("addf", "addi", "mulf", "muli", "maximumf", "minimumf", "maxnumf", "minnumf"),
        *("maxsi", "maxui", "minsi", "minui", "andi", "ori", "xori"),
    )
)
_DIFFERENCES = frozenset({"arith.subf", "arith.subi"})


def accumulates(value: ir.Value, carry: ir.Value) -> bool:
    """Tell whether `value` joins `carry` with something else so that the order does not matter."""
    op = defining_op(value)
    if op is None or op.name not in _FOLDS | _DIFFERENCES:
        return False
    left, right = op.operands
    if left == carry:
        return not leaves(right, {carry: 0})
    return op.name in _FOLDS and right == carry and not leaves(left, {carry: 0})


def classify(
    values: list[ir.Value],
    leaf_of: Mapping[ir.Value, int],
    carries: list[int | None],
    is_reduction: bool,
) -> Kind:
    """Return the kind of a statement that writes `values`.

    `carries` are the reads of the elements that it replaces.
    """
    if is_reduction:
        only = len(values) == 1 and carries[0] is not None
        if only and is_contraction(values[0], carries[0] or 0, leaf_of):
            return Kind.CONTRACTION
        return Kind.REDUCTION
    if len(values) == 1 and values[0] in leaf_of:
        return Kind.COPY
    if not any(leaves(value, leaf_of) for value in values) and all(map(_is_outside, values)):
        return Kind.FILL
    return Kind.ELEMENTWISE


def _is_outside(value: ir.Value) -> bool:
    """Tell whether `value` is the same for all instances: a constant, or a scalar from outside."""
    op = defining_op(value)
    return op is None or (not op.operands and op.name != "linalg.index")
