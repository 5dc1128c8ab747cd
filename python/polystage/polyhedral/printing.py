"""Tensor programs as text, for people: `polystage-opt --print-polyhedral-model`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import islpy as isl

from polystage.mlir import ir
from polystage.polyhedral.dependences import DependenceKind
from polystage.polyhedral.domains import range_of, ranges_of
from polystage.polyhedral.expressions import Range, linear_terms, value_range
from polystage.polyhedral.model import Access, Array, Bound, Statement
from polystage.polyhedral.program import TensorProgram


def print_program(program: TensorProgram) -> str:
    """Return the arrays, statements and dependences of a program as deterministic text."""
    return "\n".join(_lines(program)) + "\n"


def _lines(program: TensorProgram) -> Iterator[str]:
    yield f"program @{program.name}"
    yield ""
    yield "arrays"
    width = max((len(name) for name in program.arrays), default=0)
    for array in program.arrays.values():
        yield f"  {array.name:<{width}}  {array_text(array)}"
    yield ""
    yield "statements"
    for statement in program.statements:
        yield from _statement_lines(statement)
    yield ""
    yield "dependences"
    yield from _dependence_lines(program)
    yield ""
    yield from _summary(program)


def array_text(array: Array) -> str:
    """Return type, role and size: `f32[1, 64, 56, 56]  intermediate  784 KiB`."""
    shape = ", ".join(map(str, array.shape))
    return f"{array.dtype}[{shape}]  {array.role}  {_size_text(array.size_bytes)}"


def _size_text(size: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} B"


def _statement_lines(statement: Statement) -> Iterator[str]:
    yield f"  {statement.name}  {statement.kind}" + (
        f": {statement.reason}" * bool(statement.reason)
    )
    if statement.location and statement.location != statement.name:
        yield f"    layer   {statement.location}"
    yield f"    domain  {domain_text(statement)}"
    above: Access | None = None
    for access in statement.reads:
        is_below = above is not None and _is_same_operand(above, access)
        conditions = "".join(_condition_texts(access, statement))
        label = "else" if is_below else "read"
        yield f"    {label}    {access_text(access, statement.dims)}{conditions}"
        above = access
    for access in statement.writes:
        yield f"    write   {access_text(access, statement.dims)}"


def _is_same_operand(above: Access, access: Access) -> bool:
    """Tell whether an access happens where the one above it, of the same value, does not."""
    return bool(above.where) and (above.op, above.operand) == (access.op, access.operand)


def _condition_texts(access: Access, statement: Statement) -> Iterator[str]:
    """Yield where one of several accesses happens, and what is read elsewhere."""
    if access.where:
        ranges = ranges_of(statement.domain)
        bounds = [_bound_text(bound, statement.dims, ranges) for bound in access.where]
        yield f"  where {', '.join(bounds)}"
    fill: Any = access.fill
    if fill is not None:
        yield f", else {fill.value}"


def _bound_text(bound: Bound, dims: tuple[str, ...], ranges: Sequence[Range]) -> str:
    """Return `3 <= 2*h + kh < 227`, without a side that always holds."""
    text = expr_text(bound.expr, dims)
    if bound.low == bound.high:
        return f"{text} = {bound.low}"
    low, high = value_range(bound.expr, ranges) or (None, None)
    left = "" if bound.low == low else f"{bound.low} <= "
    right = "" if bound.high == high and left else f" < {bound.high + 1}"
    return f"{left}{text}{right}"


def domain_text(statement: Statement) -> str:
    """Return the domain as ranges, `h < 56, c < 64`, or in isl notation where it is no box."""
    domain = statement.domain
    if domain.is_empty():
        return "no instance"
    if not statement.dims:
        return "one instance"
    if not domain.is_box():
        return str(domain).removeprefix("{ ").removesuffix(" }")
    return ", ".join(_range_text(domain, dim, name) for dim, name in enumerate(statement.dims)) + (
        _iterator_text(statement)
    )


def _range_text(domain: isl.Set, dim: int, name: str) -> str:
    low, high = range_of(domain, dim)
    return f"{name} < {high + 1}" if low == 0 else f"{low} <= {name} < {high + 1}"


def _iterator_text(statement: Statement) -> str:
    summed = [
        name
        for name, kind in zip(statement.dims, statement.iterators, strict=True)
        if kind == "reduction"
    ]
    return f"  (reduced: {', '.join(summed)})" if summed else ""


def access_text(access: Access, dims: tuple[str, ...]) -> str:
    """Return `array[2*h + kh, c]`, or `array[?]` where the elements are not known."""
    if access.exprs is None:
        return f"{access.array}[?]"
    return f"{access.array}[{', '.join(expr_text(expr, dims) for expr in access.exprs)}]"


def expr_text(expr: ir.AffineExpr, dims: tuple[str, ...]) -> str:
    """Return an index expression with the names of the dims."""
    terms, constant = linear_terms(expr)
    text = ""
    for atom, coefficient in terms.items():
        name = _atom_text(atom, dims)
        factor = name if abs(coefficient) == 1 else f"{abs(coefficient)}*{name}"
        sign = "-" if coefficient < 0 else "+"
        text += f" {sign} {factor}" if text else (f"-{factor}" if sign == "-" else factor)
    if constant and text:
        return f"{text} {'-' if constant < 0 else '+'} {abs(constant)}"
    return text or str(constant)


def _atom_text(atom: ir.AffineExpr, dims: tuple[str, ...]) -> str:
    if isinstance(atom, ir.AffineDimExpr):
        return dims[atom.position]
    inner = expr_text(atom.lhs, dims)
    inner = f"({inner})" if " " in inner else inner
    operator = "mod" if isinstance(atom, ir.AffineModExpr) else "floordiv"
    return f"({inner} {operator} {atom.rhs})"


def _dependence_lines(program: TensorProgram) -> Iterator[str]:
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for dependence in program.dependences():
        key = (dependence.source, dependence.target, dependence.array)
        kinds.setdefault(key, []).append(str(dependence.kind))
    place = {statement.name: index for index, statement in enumerate(program.statements)}
    for source, target, array in sorted(
        kinds, key=lambda key: (place[key[0]], place[key[1]], key[2])
    ):
        yield f"  {source} -> {target}  {', '.join(kinds[source, target, array])} on {array}"


def _summary(program: TensorProgram) -> Iterator[str]:
    kinds = Counter(str(statement.kind) for statement in program.statements)
    dependences = program.dependences()
    counts = ", ".join(f"{len(dependences.of_kind(kind))} {kind}" for kind in DependenceKind)
    statements = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    arrays = _counted(len(program.arrays), "array")
    yield f"{_counted(len(program.statements), 'statement')} ({statements}), {arrays}"
    yield f"{_counted(len(dependences), 'dependence')} ({counts})"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
