"""Inverses of access maps, and readings of several pieces, against plain enumeration."""

import itertools
from collections.abc import Iterator, Sequence
from random import Random

import pytest

from polystage.mlir import ir
from polystage.polyhedral.expressions import evaluate, substitute
from polystage.polyhedral.inversion import NotInvertibleError, invert
from polystage.polyhedral.model import Bound
from polystage.polyhedral.readings import Piece, Region, make_bound, simplify

Ranges = list[tuple[int, int]]


@pytest.fixture(autouse=True)
def context() -> Iterator[None]:
    with ir.Context():
        yield


def dim(place: int) -> ir.AffineExpr:
    return ir.AffineExpr.get_dim(place)


def div(expr: ir.AffineExpr, divisor: int) -> ir.AffineExpr:
    return ir.AffineExpr.get_floor_div(expr, divisor)


def mod(expr: ir.AffineExpr, divisor: int) -> ir.AffineExpr:
    return ir.AffineExpr.get_mod(expr, divisor)


def points(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(low, high + 1) for low, high in ranges))


def holds(where: Sequence[Bound], point: Sequence[int]) -> bool:
    return all(b.low <= evaluate(b.expr, point) <= b.high for b in where)


def check(index: Sequence[ir.AffineExpr], ranges: Ranges, shape: Sequence[int], shared: int = 0):
    """Hold the inverse to what it says, for every element and iteration of the shared loops."""
    dims = [dim(place) for place in range(len(ranges))]
    index = [substitute(expr, dims, (), ranges) for expr in index]  # as statements have them
    inverse = invert(index, ranges, shape, shared)
    for loops in points(ranges[:shared]):
        instances: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for own in points(ranges[shared:]):
            element = tuple(evaluate(expr, (*loops, *own)) for expr in index)
            instances.setdefault(element, []).append((*loops, *own))
        for element in points([(0, extent - 1) for extent in shape]):
            place = (*loops, *element)
            assert holds(inverse.where, place) == (element in instances)
            if element in instances:
                found = tuple(evaluate(expr, place) for expr in inverse.exprs)
                assert found == instances[element][0]
        assert inverse.is_injective == all(len(same) == 1 for same in instances.values())


def test_window():
    check([dim(0), dim(1) + 3], [(0, 3), (0, 4)], [4, 9])


def test_steps_and_transposition():
    check([dim(1) * 2 + 1, dim(0)], [(0, 2), (0, 3)], [9, 3])


def test_backwards():
    check([dim(0) * -1 + 5], [(0, 3)], [6])


def test_two_loops_in_one_dimension():
    check([dim(0) * 4 + dim(1)], [(0, 2), (0, 3)], [12])
    check([dim(1) * 8 + dim(0) * 2 + 1], [(0, 2), (0, 1)], [16])


def test_one_loop_over_several_dimensions():
    check([div(dim(0), 12), mod(div(dim(0), 4), 3), mod(dim(0), 4)], [(0, 19)], [2, 3, 4])


def test_reshape_of_other_loops():
    linear = dim(0) * 4 + dim(1)
    check([div(linear, 6), mod(linear, 6)], [(0, 2), (0, 3)], [2, 6])


def test_one_loop_over_dimensions_that_are_apart():
    check([div(dim(0), 2), dim(1), mod(dim(0), 2)], [(0, 5), (0, 2)], [3, 3, 2])


def test_digits_in_another_form():
    middle = div(mod(dim(0), 16), 4)
    check([div(dim(0), 16), middle, mod(dim(0), 4)], [(0, 31)], [2, 4, 4])


def test_diagonal():
    check([dim(0), dim(0)], [(0, 3)], [4, 4])


def test_loops_around_are_given():
    check([dim(0) + dim(1), dim(2)], [(0, 3), (0, 1), (0, 2)], [6, 3], shared=1)


def test_loops_that_do_not_count():
    assert not invert([dim(0)], [(0, 3), (0, 2)], [4]).is_injective
    check([dim(0)], [(0, 3), (0, 2)], [4])


def test_loops_of_one_iteration_count():
    check([dim(1)], [(2, 2), (0, 3)], [4])


def test_overlapping_steps_are_refused():
    with pytest.raises(NotInvertibleError, match="overlap"):
        invert([dim(0) + dim(1)], [(0, 3), (0, 2)], [6])


def test_coarser_than_the_loop_is_refused():
    with pytest.raises(NotInvertibleError, match="no simple form"):
        invert([div(dim(0), 2)], [(0, 5)], [3])


def random_index(random: Random) -> tuple[list[ir.AffineExpr], Ranges, list[int]]:
    """Return a random injective index: windows, steps, splits and permutations of loops."""
    ranges = [(0, random.choice([0, 1, 2, 3])) for _ in range(random.randint(1, 4))]
    dims = random.sample(range(len(ranges)), len(ranges))
    index: list[ir.AffineExpr] = []
    shape: list[int] = []
    while dims:
        group = [dims.pop() for _ in range(min(len(dims), random.choice([1, 1, 2])))]
        step = random.choice([1, 1, 2])
        expr: ir.AffineExpr = ir.AffineConstantExpr.get(0)
        reach = step
        for place in group:
            expr = expr + dim(place) * reach
            reach *= ranges[place][1] + 1 + random.choice([0, 0, 1])
        start = random.choice([0, 0, 1, 3])
        index.append(expr + start)
        shape.append(start + reach + random.choice([0, 2]))
    if random.random() < 0.3 and shape[-1] % 2 == 0:  # seen through a reshape
        last = index.pop()
        index += [div(last, shape[-1] // 2), mod(last, shape[-1] // 2)]
        shape[-1:] = [2, shape[-1] // 2]
    return index, ranges, shape


@pytest.mark.parametrize("seed", range(150))
def test_random_injective_index(seed):
    check(*random_index(Random(seed)))


def random_piece(random: Random, ranges: Ranges, number: int) -> Piece:
    where: list[Bound] = []
    for _ in range(random.randint(0, 2)):
        expr = random.choice([dim(0), dim(1), dim(0) * 2 + dim(1), mod(dim(1), 2)])
        low = random.randint(-1, 4)
        where.append(make_bound(expr, low, low + random.randint(0, 4)))
    fill = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), number)
    return Piece(None, (), tuple(where), fill)


def applying(pieces: Sequence[Piece], point: Sequence[int]) -> ir.Attribute | None:
    return next((piece.fill for piece in pieces if holds(piece.where, point)), None)


@pytest.mark.parametrize("seed", range(200))
def test_simplified_pieces_say_the_same(seed):
    random = Random(seed)
    ranges = [(0, random.randint(0, 4)), (0, random.randint(0, 5))]
    pieces = [random_piece(random, ranges, number) for number in range(random.randint(1, 5))]
    shorter = simplify(pieces, ranges, {})
    assert sum(len(p.where) for p in shorter) <= sum(len(p.where) for p in pieces)
    for point in points(ranges):
        before = applying(pieces, point)
        if before is not None:
            assert applying(shorter, point) == before


def test_a_piece_keeps_the_bounds_that_keep_it_inside_of_its_array():
    later = Piece("a", (dim(0),), (Bound(dim(0), 0, 3),))
    first = Piece("b", (dim(0) - 4,), (Bound(dim(0), 4, 7),))
    assert simplify([first, later], [(0, 7)], {"a": (4,), "b": (4,)}) == (first, later)
    free = Piece("a", (dim(0),))
    assert simplify([first, later], [(0, 7)], {"a": (8,), "b": (4,)}) == (first, free)


def test_region_is_empty_once_all_is_taken():
    region = Region([(0, 7), (0, 3)])
    region.remove([Bound(dim(0), 2, 7), Bound(dim(1), 0, 1)])
    region.remove([Bound(dim(0), 0, 7), Bound(dim(1), 2, 3)])
    assert not region.is_empty
    assert region.meets([Bound(dim(0), 0, 1)]) and not region.meets([Bound(dim(0), 2, 7)])
    region.remove([Bound(dim(0), 0, 4)])
    assert region.is_empty


def test_more_boxes_than_the_limit_change_nothing():
    region = Region([(0, 99)], limit=2)
    for place in range(1, 10, 2):
        region.remove([Bound(dim(0), place, place)])
    assert not region.is_empty
    assert len(region.boxes) <= 2
