"""Quasi-affine index expressions: substitution, simplification under ranges, isl, evaluation.

Expressions are `ir.AffineExpr`: dims, constants, `+`, `* const`, `floordiv const`, `mod const`
(and symbols, which `polystage.polyhedral.views` uses for enclosing loops). MLIR's own simplifier
knows no ranges, so `(d0 * 6 + d1) floordiv 6` stays as it is there; here it becomes `d0` once
`d1` is known to lie in `0..5`.
"""

from collections.abc import Sequence
from typing import Any

import islpy as isl

from polystage.mlir import ir

Range = tuple[int, int] | None
"""Smallest and largest value, both inclusive; None when unknown."""


class NotAffineError(Exception):
    """An index that is no quasi-affine function of the loop indices; `str()` gives the reason."""


def linear_terms(expr: ir.AffineExpr) -> tuple[dict[ir.AffineExpr, int], int]:
    """Split `expr` into `{atom: coefficient}` and a constant; dims, divs, mods are atoms."""
    expr = expr.maybe_downcast()  # constructors simplify, but keep the class of what was asked
    if isinstance(expr, ir.AffineConstantExpr):
        return {}, expr.value
    if isinstance(expr, ir.AffineAddExpr):
        left, left_constant = linear_terms(expr.lhs)
        right, right_constant = linear_terms(expr.rhs)
        for atom, coefficient in right.items():
            left[atom] = left.get(atom, 0) + coefficient
        return {a: c for a, c in left.items() if c}, left_constant + right_constant
    if isinstance(expr, ir.AffineMulExpr):
        left, left_constant = linear_terms(expr.lhs)
        right, right_constant = linear_terms(expr.rhs)
        if left and right:
            raise NotAffineError(f"product of two indices {expr}")
        atoms, factor = (left, right_constant) if left else (right, left_constant)
        scaled = {a: c * factor for a, c in atoms.items() if c * factor}
        return scaled, left_constant * right_constant
    return {expr: 1}, 0


def constant_value(expr: ir.AffineExpr) -> int | None:
    """Return the value of a constant expression, or None."""
    expr = expr.maybe_downcast()
    return expr.value if isinstance(expr, ir.AffineConstantExpr) else None


def from_terms(terms: dict[ir.AffineExpr, int], constant: int = 0) -> ir.AffineExpr:
    """Build the expression `sum(coefficient * atom) + constant`; needs a current context."""
    total: ir.AffineExpr = ir.AffineConstantExpr.get(constant)
    for index, (atom, coefficient) in enumerate(terms.items()):
        product = atom if coefficient == 1 else atom * coefficient
        total = product if index == 0 else total + product
    return total + constant if terms and constant else total


def value_range(expr: ir.AffineExpr, dims: Sequence[Range], symbols: Sequence[Range] = ()) -> Range:
    """Return the range of `expr`, given those of its dims and symbols (interval arithmetic)."""
    expr = expr.maybe_downcast()
    if isinstance(expr, ir.AffineDimExpr):
        return dims[expr.position]
    if isinstance(expr, ir.AffineSymbolExpr):
        return symbols[expr.position]
    if isinstance(expr, ir.AffineFloorDivExpr | ir.AffineCeilDivExpr | ir.AffineModExpr):
        return _division_range(expr, value_range(expr.lhs, dims, symbols))
    terms, low = linear_terms(expr)
    high = low
    for atom, coefficient in terms.items():
        atom_range = value_range(atom, dims, symbols)
        if atom_range is None:
            return None
        ends = (atom_range[0] * coefficient, atom_range[1] * coefficient)
        low, high = low + min(ends), high + max(ends)
    return low, high


def _division_range(expr: Any, inner: Range) -> Range:
    divisor = _constant(expr.rhs)
    if isinstance(expr, ir.AffineModExpr):
        if inner and inner[0] // divisor == inner[1] // divisor:
            return inner[0] % divisor, inner[1] % divisor
        return 0, divisor - 1
    if inner is None:
        return None
    if isinstance(expr, ir.AffineCeilDivExpr):
        return -(-inner[0] // divisor), -(-inner[1] // divisor)
    return inner[0] // divisor, inner[1] // divisor


def _constant(expr: ir.AffineExpr) -> int:
    value = constant_value(expr)
    if value is not None and value > 0:
        return value
    raise NotAffineError(f"division by {expr}, which is not a positive constant")


def substitute(
    expr: ir.AffineExpr,
    dims: Sequence[ir.AffineExpr],
    symbols: Sequence[ir.AffineExpr] = (),
    dim_ranges: Sequence[Range] = (),
    symbol_ranges: Sequence[Range] = (),
) -> ir.AffineExpr:
    """Replace dims and symbols of `expr`, then simplify with the ranges of the *new* ones."""

    def visit(node: ir.AffineExpr) -> ir.AffineExpr:
        node = node.maybe_downcast()
        if isinstance(node, ir.AffineDimExpr):
            return dims[node.position]
        if isinstance(node, ir.AffineSymbolExpr):
            return symbols[node.position] if symbols else node
        if isinstance(node, ir.AffineFloorDivExpr):
            return _floor_div(visit(node.lhs), _constant(node.rhs), dim_ranges, symbol_ranges)
        if isinstance(node, ir.AffineCeilDivExpr):
            divisor = _constant(node.rhs)
            return _floor_div(visit(node.lhs) + (divisor - 1), divisor, dim_ranges, symbol_ranges)
        if isinstance(node, ir.AffineModExpr):
            return _mod(visit(node.lhs), _constant(node.rhs), dim_ranges, symbol_ranges)
        terms, constant = linear_terms(node)
        total: dict[ir.AffineExpr, int] = {}
        for atom, coefficient in terms.items():
            inner, inner_constant = linear_terms(visit(atom))
            constant += coefficient * inner_constant
            for inner_atom, inner_coefficient in inner.items():
                total[inner_atom] = total.get(inner_atom, 0) + coefficient * inner_coefficient
        return from_terms({a: c for a, c in total.items() if c}, constant)

    return visit(expr)


def _split_multiples(
    expr: ir.AffineExpr, divisor: int
) -> tuple[ir.AffineExpr, dict[ir.AffineExpr, int], int]:
    """Write `expr` as `divisor * quotient + rest`; return quotient, and terms of the rest."""
    terms, constant = linear_terms(expr)
    quotient = {a: c // divisor for a, c in terms.items() if c % divisor == 0}
    rest = {a: c for a, c in terms.items() if c % divisor}
    return from_terms(quotient, constant // divisor), rest, constant % divisor


def _floor_div(
    expr: ir.AffineExpr, divisor: int, dims: Sequence[Range], symbols: Sequence[Range]
) -> ir.AffineExpr:
    if divisor == 1:
        return expr
    quotient, terms, constant = _split_multiples(expr, divisor)
    rest = from_terms(terms, constant).maybe_downcast()
    rest_range = value_range(rest, dims, symbols) if dims or symbols or not terms else None
    if rest_range and rest_range[0] // divisor == rest_range[1] // divisor:
        return quotient + rest_range[0] // divisor
    if isinstance(rest, ir.AffineFloorDivExpr):  # (x floordiv a) floordiv b
        return quotient + _floor_div(rest.lhs, _constant(rest.rhs) * divisor, dims, symbols)
    return quotient + ir.AffineExpr.get_floor_div(rest, divisor)


def merge_divisions(
    terms: dict[ir.AffineExpr, int], constant: int = 0
) -> tuple[dict[ir.AffineExpr, int], int]:
    """Replace `c*n*(e floordiv n) + c*(e mod n)` by `c*e` wherever both are there."""
    for atom, coefficient in terms.items():
        if not isinstance(atom, ir.AffineModExpr):
            continue
        divisor = _constant(atom.rhs)
        quotient = _floor_div(atom.lhs, divisor, (), ()).maybe_downcast()
        if terms.get(quotient) != coefficient * divisor:
            continue
        rest = {a: c for a, c in terms.items() if a not in (atom, quotient)}
        inner, inner_constant = linear_terms(atom.lhs)
        for part, factor in inner.items():
            rest[part] = rest.get(part, 0) + coefficient * factor
        rest = {a: c for a, c in rest.items() if c}
        return merge_divisions(rest, constant + coefficient * inner_constant)
    return terms, constant


def _mod(
    expr: ir.AffineExpr, divisor: int, dims: Sequence[Range], symbols: Sequence[Range]
) -> ir.AffineExpr:
    _, terms, constant = _split_multiples(expr, divisor)
    rest = from_terms(terms, constant).maybe_downcast()
    rest_range = value_range(rest, dims, symbols) if dims or symbols or not terms else None
    if rest_range and rest_range[0] // divisor == rest_range[1] // divisor:
        return rest - (rest_range[0] // divisor) * divisor
    if isinstance(rest, ir.AffineModExpr) and _constant(rest.rhs) % divisor == 0:
        return _mod(rest.lhs, divisor, dims, symbols)
    return ir.AffineExpr.get_mod(rest, divisor)


def to_aff(expr: ir.AffineExpr, variables: Sequence[isl.Aff]) -> isl.Aff:
    """Convert `expr` to isl, dim `i` being `variables[i]` (at least one, for its space)."""
    expr = expr.maybe_downcast()
    if isinstance(expr, ir.AffineDimExpr):
        return variables[expr.position]
    zero = isl.Aff.zero_on_domain(variables[0].get_domain_local_space())
    if isinstance(expr, ir.AffineConstantExpr):
        return zero.set_constant_val(isl.Val(expr.value))
    if isinstance(expr, ir.AffineFloorDivExpr):
        return to_aff(expr.lhs, variables).scale_down_val(isl.Val(_constant(expr.rhs))).floor()
    if isinstance(expr, ir.AffineCeilDivExpr):
        return to_aff(expr.lhs, variables).scale_down_val(isl.Val(_constant(expr.rhs))).ceil()
    if isinstance(expr, ir.AffineModExpr):
        return to_aff(expr.lhs, variables).mod_val(isl.Val(_constant(expr.rhs)))
    terms, constant = linear_terms(expr)
    total = zero.set_constant_val(isl.Val(constant))
    for atom, coefficient in terms.items():
        total = total.add(to_aff(atom, variables).scale_val(isl.Val(coefficient)))
    return total


def evaluate(expr: ir.AffineExpr, dims: Sequence[Any]) -> Any:
    """Evaluate `expr` at `dims`: integers, or numpy arrays that broadcast against each other."""
    expr = expr.maybe_downcast()
    if isinstance(expr, ir.AffineDimExpr):
        return dims[expr.position]
    if isinstance(expr, ir.AffineConstantExpr):
        return expr.value
    left, right = evaluate(expr.lhs, dims), evaluate(expr.rhs, dims)
    if isinstance(expr, ir.AffineAddExpr):
        return left + right
    if isinstance(expr, ir.AffineMulExpr):
        return left * right
    if isinstance(expr, ir.AffineFloorDivExpr):
        return left // right
    if isinstance(expr, ir.AffineCeilDivExpr):
        return -(-left // right)
    return left % right


def used_dims(expr: ir.AffineExpr) -> set[int]:
    """Return the positions of the dims that occur in `expr`."""
    expr = expr.maybe_downcast()
    if isinstance(expr, ir.AffineDimExpr):
        return {expr.position}
    if isinstance(expr, ir.AffineConstantExpr | ir.AffineSymbolExpr):
        return set()
    return used_dims(expr.lhs) | used_dims(expr.rhs)
