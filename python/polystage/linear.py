"""Linear affine expressions as numbers."""

from __future__ import annotations

from polystage.mlir import ir


def linear_form(expression: ir.AffineExpr, n_dims: int) -> tuple[int, list[int]] | None:
    """Return (constant, coefficient per dimension) of a linear expression, or None.

    `d0 * 2 + d2 + 1` over 3 dimensions is (1, [2, 0, 1]).
    """
    expression = expression.maybe_downcast()  # the class that Python sees may be stale
    if isinstance(expression, ir.AffineConstantExpr):
        return expression.value, [0] * n_dims
    if isinstance(expression, ir.AffineDimExpr):
        return 0, [int(d == expression.position) for d in range(n_dims)]
    if not isinstance(expression, ir.AffineAddExpr | ir.AffineMulExpr):
        return None
    left = linear_form(expression.lhs, n_dims)
    right = linear_form(expression.rhs, n_dims)
    if left is None or right is None:
        return None
    if isinstance(expression, ir.AffineAddExpr):
        return left[0] + right[0], [a + b for a, b in zip(left[1], right[1], strict=True)]
    if any(right[1]):
        left, right = right, left
    if any(right[1]):
        return None
    return left[0] * right[0], [c * right[0] for c in left[1]]
