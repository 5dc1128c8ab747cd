"""Index expressions as arith operations."""

from collections.abc import Sequence

from polystage.mlir import arith, ir
from polystage.polyhedral.expressions import linear_terms


def constant_index(value: int) -> ir.Value:
    """Return `value` as an index at the current insertion point."""
    return arith.ConstantOp(ir.IndexType.get(), value).result


def index_value(
    expr: ir.AffineExpr, dims: Sequence[ir.Value], symbols: Sequence[ir.Value]
) -> ir.Value:
    """Return the value of `expr` as operations at the current insertion point."""
    terms, constant = linear_terms(expr)
    total: ir.Value | None = None
    for atom, coefficient in terms.items():
        value = _atom_value(atom, dims, symbols)
        if coefficient != 1:
            value = arith.MulIOp(value, constant_index(coefficient)).result
        total = value if total is None else arith.AddIOp(total, value).result
    if total is None:
        return constant_index(constant)
    if constant:
        total = arith.AddIOp(total, constant_index(constant)).result
    return total


def _atom_value(
    atom: ir.AffineExpr, dims: Sequence[ir.Value], symbols: Sequence[ir.Value]
) -> ir.Value:
    if isinstance(atom, ir.AffineDimExpr):
        return dims[atom.position]
    if isinstance(atom, ir.AffineSymbolExpr):
        return symbols[atom.position]
    left, right = (index_value(side, dims, symbols) for side in (atom.lhs, atom.rhs))
    if isinstance(atom, ir.AffineCeilDivExpr):
        return arith.CeilDivSIOp(left, right).result
    quotient = arith.FloorDivSIOp(left, right).result
    if isinstance(atom, ir.AffineFloorDivExpr):
        return quotient
    return arith.SubIOp(left, arith.MulIOp(quotient, right).result).result
