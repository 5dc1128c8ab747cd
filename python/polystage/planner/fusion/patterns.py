"""What single statements look like: small questions, and an error that says `not this`."""

from typing import TypeVar

from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir
from polystage.polyhedral import Access, Kind, Statement
from polystage.polyhedral.domains import ranges_of
from polystage.polyhedral.scalar import strip_casts

T = TypeVar("T")


class NoMatchError(Exception):
    """These statements are something else."""


def require(condition: object) -> None:
    """Raise NoMatchError unless a condition holds."""
    if not condition:
        raise NoMatchError


def only(found: list[T]) -> T:
    """Return the only item of a list, which must have one."""
    require(len(found) == 1)
    return found[0]


def written(statement: Statement) -> str:
    """Return the array that a statement writes, which must be one."""
    require(len(statement.writes) == 1)
    return statement.writes[0].array


def is_plain(access: Access) -> bool:
    """Tell whether an access is exact, and all instances make it."""
    return access.exprs is not None and not access.where


def argument_of(access: Access) -> int:
    """Return the number of the body argument that an access feeds."""
    if access.operand is None:
        raise NoMatchError
    return access.operand


def yielded(statement: Statement) -> ir.Value:
    """Return the value that a body gives, before any cast."""
    require(statement.op.name == "linalg.generic")
    return strip_casts(list(statement.op.regions[0].blocks[0].operations)[-1].operands[0])


def argument_number(statement: Statement, value: ir.Value) -> int:
    """Return which body argument a value is, up to casts; -1 for none."""
    arguments = statement.op.regions[0].blocks[0].arguments
    stripped = strip_casts(value)
    return next((number for number, argument in enumerate(arguments) if argument == stripped), -1)


def made_by(value: ir.Value, name: str) -> ir.Operation:
    """Return the operation that makes a value, up to casts; it must be called `name`."""
    op = defining_op(strip_casts(value))
    if op is None or op.name != name:
        raise NoMatchError
    return op


def operand_of(value: ir.Value, name: str) -> ir.Value | None:
    """Return the operand of an operation called `name` that makes `value`."""
    op = defining_op(value)
    return strip_casts(op.operands[0]) if op is not None and op.name == name else None


def folds(statement: Statement, *names: str) -> bool:
    """Tell whether a reduction folds its operand as it is with one of the arith operations."""
    if statement.kind is not Kind.REDUCTION or statement.op.name != "linalg.generic":
        return False
    op = defining_op(yielded(statement))
    if op is None or op.name.removeprefix("arith.") not in names:
        return False
    numbers = {argument_number(statement, value) for value in op.operands}
    return numbers == {a.operand for a in statement.accesses}


def constant_of(value: ir.Value) -> float | None:
    """Return the value of a constant, or None."""
    op = defining_op(value)
    if op is None or op.name != "arith.constant":
        return None
    attribute = op.attributes["value"]
    if isinstance(attribute, ir.BoolAttr | ir.FloatAttr | ir.IntegerAttr):
        return attribute.value
    return None


def fill_value(fill: Statement) -> ir.Attribute:
    """Return the value that a fill writes."""
    return made_by(yielded(fill), "arith.constant").attributes["value"]


def operation_count(statement: Statement) -> int:
    """Return how many scalar operations a body has, those that only convert left out."""
    body = list(statement.op.regions[0].blocks[0].operations)[:-1]
    return sum(strip_casts(op.results[0]) == op.results[0] for op in body)


def extents_of(statement: Statement) -> tuple[int, ...]:
    """Return the extents of a statement's dims."""
    return tuple(high + 1 for _, high in ranges_of(statement.domain))
