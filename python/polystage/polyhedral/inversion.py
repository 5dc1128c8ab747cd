"""Inverses of access maps: from the element of an array to the instance that touches it.

An index `[2*i + 1, j]` has the inverse `i = x0 floordiv 2, j = x1`, where `x0 mod 2 = 1` and the
index lies in the range that the loops cover. Splits of a loop over several dimensions, splits of a
dimension over several loops, and row-major reshapes with floordiv and mod are understood.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from polystage.mlir import ir
from polystage.polyhedral.expressions import (
    Range,
    constant_value,
    from_terms,
    linear_terms,
    merge_divisions,
    substitute,
    value_range,
)
from polystage.polyhedral.model import Bound
from polystage.polyhedral.readings import make_bound

Terms = dict[ir.AffineExpr, int]


class NotInvertibleError(Exception):
    """The elements that an access touches cannot be told; `str()` gives the reason."""


@dataclass(frozen=True)
class Inverse:
    """The instance that touches element `x` of an array, and the elements that any touches.

    Expressions are over the dims of the shared loops, followed by one dim for each index of the
    array.
    """

    exprs: tuple[ir.AffineExpr, ...]
    """One for each dim of the statement, shared loops included."""
    where: tuple[Bound, ...]
    """The elements that are touched."""
    is_injective: bool
    """Whether no two instances touch one element; otherwise `exprs` is the first of them."""


def invert(
    index: Sequence[ir.AffineExpr],
    ranges: Sequence[tuple[int, int]],
    shape: Sequence[int],
    shared: int = 0,
) -> Inverse:
    """Return the inverse of `index`, over dims with `ranges`, into an array of `shape`.

    The first `shared` dims are those of loops around, and taken as given. Element x0 of an array
    that is filled by rows of 4:

    >>> with ir.Context():
    ...     row, column = (ir.AffineExpr.get_dim(dim) for dim in range(2))
    ...     print(*invert([row * 4 + column], [(0, 2), (0, 3)], [12]).exprs, sep=", ")
    d0 floordiv 4, d0 mod 4

    Raises: NotInvertibleError.
    """
    return _Inverter(index, ranges, shape, shared).solve()


@dataclass(frozen=True)
class _Equation:
    """`sum(terms) + constant = value`, with `value` an expression in the index of the array."""

    value: ir.AffineExpr
    terms: Terms
    constant: int


class _Inverter:
    def __init__(
        self,
        index: Sequence[ir.AffineExpr],
        ranges: Sequence[tuple[int, int]],
        shape: Sequence[int],
        shared: int,
    ) -> None:
        self.ranges = ranges
        self.space: list[Range] = [*ranges[:shared], *((0, extent - 1) for extent in shape)]
        self.elements = [ir.AffineExpr.get_dim(shared + place) for place in range(len(shape))]
        self.known: dict[int, ir.AffineExpr] = {
            dim: ir.AffineExpr.get_dim(dim) for dim in range(shared)
        }
        for dim in range(shared, len(ranges)):
            low, high = ranges[dim]
            if low == high:
                self.known[dim] = ir.AffineConstantExpr.get(low)
        self.where: list[Bound] = []
        self.equations = list(self._equations(index, shape))

    def solve(self) -> Inverse:
        """Solve the equations, those with the fewest unknown dims first."""
        pending = self.equations
        while pending:
            pending.sort(key=lambda equation: len(self._unknown(equation)))
            self._solve(pending.pop(0))
        missing = [dim for dim in range(len(self.ranges)) if dim not in self.known]
        for dim in missing:
            self.known[dim] = ir.AffineConstantExpr.get(self.ranges[dim][0])
        exprs = tuple(self.known[dim] for dim in range(len(self.ranges)))
        return Inverse(exprs, tuple(self.where), not missing)

    def _equations(self, index: Sequence[ir.AffineExpr], shape: Sequence[int]) -> list[_Equation]:
        """Return one equation per array dimension, or per group of dims that make one sum."""
        found: list[_Equation] = []
        divided: list[int] = []
        for place in range(len(shape)):
            equation = self._equation(index, shape, [place])
            if equation is None:
                divided.append(place)
            else:
                found.append(equation)
        while divided:
            for size in range(2, len(divided) + 1):
                equation = self._equation(index, shape, divided[:size])
                if equation is not None:
                    break
            else:
                raise NotInvertibleError("the elements that it touches have no simple form")
            found.append(equation)
            del divided[:size]
        return found

    def _equation(
        self, index: Sequence[ir.AffineExpr], shape: Sequence[int], places: Sequence[int]
    ) -> _Equation | None:
        """Return the equation of these dimensions, as digits of one number, if it is linear."""
        total: Terms = {}
        value: Terms = {}
        constant, stride = 0, 1
        for place in reversed(places):
            terms, offset = linear_terms(index[place])
            for atom, factor in terms.items():
                atom = _mod_of_division(atom)
                total[atom] = total.get(atom, 0) + factor * stride
            constant += offset * stride
            value[self.elements[place]] = stride
            stride *= shape[place]
        total, constant = merge_divisions({a: c for a, c in total.items() if c}, constant)
        if not all(isinstance(atom, ir.AffineDimExpr) for atom in total):
            return None
        return _Equation(from_terms(dict(reversed(value.items()))), total, constant)

    def _unknown(self, equation: _Equation) -> list[int]:
        dims = (ir.AffineDimExpr(atom).position for atom in equation.terms)
        return [dim for dim in dims if dim not in self.known]

    def _solve(self, equation: _Equation) -> None:
        """Peel the unknown dims off the sum, largest factor first, as digits of a number."""
        rest, low_sum = equation.value, equation.constant
        digits: list[tuple[int, int, int]] = []  # dim, factor (its sign too), extent
        for atom, factor in equation.terms.items():
            dim = ir.AffineDimExpr(atom).position
            if dim in self.known:
                rest = rest + self.known[dim] * -factor
                continue
            low, high = self.ranges[dim]
            low_sum += factor * (low if factor > 0 else high)
            digits.append((dim, factor, high - low + 1))
        rest = rest - low_sum
        digits.sort(key=lambda digit: -abs(digit[1]))
        reach = sum(abs(factor) * (extent - 1) for _, factor, extent in digits)
        self._require(rest, reach)
        for dim, factor, extent in digits:
            step = abs(factor)
            reach -= step * (extent - 1)
            if reach >= step:
                raise NotInvertibleError("the elements that it touches overlap in an irregular way")
            count = self._simplified(ir.AffineExpr.get_floor_div(rest, step))
            low, high = self.ranges[dim]
            self.known[dim] = self._simplified(count + low if factor > 0 else count * -1 + high)
            rest = self._simplified(ir.AffineExpr.get_mod(rest, step))
            if reach < step - 1:
                self._require(rest, reach)

    def _require(self, expr: ir.AffineExpr, high: int) -> None:
        """Note `0 <= expr <= high`, unless it always holds."""
        expr = self._simplified(expr)
        ends = value_range(expr, self.space)
        if ends is None or ends[0] < 0 or ends[1] > high:
            self.where.append(make_bound(expr, 0, high))

    def _simplified(self, expr: ir.AffineExpr) -> ir.AffineExpr:
        dims = [ir.AffineExpr.get_dim(dim) for dim in range(len(self.space))]
        return substitute(expr, dims, (), self.space or ((0, 0),))


def _mod_of_division(atom: ir.AffineExpr) -> ir.AffineExpr:
    """Return `(x mod a*b) floordiv a` as `(x floordiv a) mod b`, and all else as it is."""
    if not isinstance(atom, ir.AffineFloorDivExpr):
        return atom
    inner, divisor = atom.lhs.maybe_downcast(), constant_value(atom.rhs)
    if not isinstance(inner, ir.AffineModExpr) or not divisor:
        return atom
    modulus = constant_value(inner.rhs)
    if not modulus or modulus % divisor:
        return atom
    quotient = ir.AffineExpr.get_floor_div(inner.lhs, divisor)
    return ir.AffineExpr.get_mod(quotient, modulus // divisor).maybe_downcast()
