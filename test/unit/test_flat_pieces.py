"""Boxes cut into pieces with linear addresses, against the address of every single element."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.linear import Linear
from polystage.mlir import ir
from polystage.passes.lower.flat.indices import Digit, Index, index_of
from polystage.passes.lower.flat.pieces import (
    Alternative,
    Axis,
    Condition,
    Piece,
    address,
    refine,
    shown,
)

D0, D1 = (Index(Linear.variable(d)) for d in range(2))


def value(index: Index, point) -> int:
    total = index.linear.constant + sum(c * point[v] for v, c in index.linear.terms)
    for digit, factor in index.digits:
        inner = value(digit.index, point)
        operator = inner // digit.modulus if digit.is_quotient else inner % digit.modulus
        total += factor * operator
    return total


def points(piece: Piece):
    """Yield (iteration, values of the variables)."""
    for values in product(*(range(low, high + 1) for low, high in piece.ranges)):
        yield tuple(value(Index(form), values) for form in piece.dims), values


@st.composite
def indices(draw, depth: int = 1) -> Index:
    index = D0 * draw(st.integers(0, 3)) + D1 * draw(st.integers(0, 2))
    index = index + Index(Linear(draw(st.integers(0, 5))))
    if depth and draw(st.booleans()):
        inner = draw(indices(depth - 1))
        digit = Digit(inner, draw(st.integers(2, 6)), draw(st.booleans()))
        index = index + Index(digits=((digit, draw(st.integers(1, 3))),))
    return index


boxes = st.tuples(*[st.tuples(st.integers(0, 9), st.integers(1, 9))] * 2)
axes = st.builds(Axis, st.integers(1, 20), st.none() | st.integers(1, 7))


def box(starts_and_sizes) -> Piece:
    starts, sizes = zip(*starts_and_sizes, strict=True)
    return Piece.of_box([Linear(start) for start in starts], sizes, ())


@settings(max_examples=200, deadline=None)
@given(boxes, st.lists(st.tuples(indices(), axes), min_size=1, max_size=2))
def test_pieces_cover_a_box_once_and_hold_the_right_addresses(ranges, walks):
    exprs, places = zip(*walks, strict=True)
    seen: list[tuple[int, ...]] = []
    for piece, at in refine(box(ranges), lambda p: address(exprs, places, p)):
        for iteration, values in points(piece):
            seen.append(iteration)
            expected = 0
            for index, axis in walks:
                x = value(index, iteration)
                expected += axis.stride * (x if axis.extent is None else x % axis.extent)
            assert value(Index(at), values) == expected
    assert sorted(seen) == sorted(product(*(range(a, a + n) for a, n in ranges)))


@settings(max_examples=100, deadline=None)
@given(boxes, indices(), st.integers(0, 12), st.integers(0, 12))
def test_an_alternative_is_read_where_its_conditions_hold(ranges, index, low, length):
    top = Alternative(0, (D0,), (Condition(index, low, low + length),))
    for piece, found in refine(box(ranges), lambda p: shown([top], p)):
        for iteration, _ in points(piece):
            assert (found is top) == (low <= value(index, iteration) <= low + length)


def test_a_quotient_and_its_remainder_make_a_whole():
    quotient, rest = (Index(digits=((Digit(D0, 4, q), 1),)) for q in (True, False))
    assert quotient * 12 + rest * 3 == D0 * 3
    assert (quotient * 13 + rest * 3).digits


def test_a_dim_is_split_where_a_permuted_array_has_its_digits():
    quotient, rest = (Index(digits=((Digit(D0, 4, q), 1),)) for q in (True, False))
    (found,) = refine(
        box([(0, 12), (0, 1)]), lambda p: address((rest, quotient), (Axis(3), Axis(1)), p)
    )
    piece, at = found
    assert [piece.size(v) for v in piece.variables] == [3, 4]
    assert at == Linear(0, ((0, 1), (2, 3)))


def test_digits_grow_evenly_by_whole_blocks():
    index = Index(digits=((Digit(Index(digits=((Digit(D0, 36, False), 1),)), 6, True), 1),))
    assert [index.advance(0, step) for step in (36, 6, 12)] == [0, None, None]
    assert Index(digits=((Digit(D0, 4, True), 2),)).advance(0, 8) == 4


def test_expressions_become_indices():
    with ir.Context():
        d0, d1 = (ir.AffineExpr.get_dim(i) for i in range(2))
        ceil = ir.AffineExpr.get_ceil_div(d0, ir.AffineExpr.get_constant(4))
        exprs = [d0 * 2 + d1 + 1, ir.AffineExpr.get_mod(d0 + d1, 3), ceil]
        found = [index_of(e) for e in exprs]
    for point in product(range(9), range(4)):
        a, b = point
        assert [value(i, point) for i in found] == [a * 2 + b + 1, (a + b) % 3, -(-a // 4)]
