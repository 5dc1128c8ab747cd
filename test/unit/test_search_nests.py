"""Nests of one operator: what each needs and moves, against an execution chunk by chunk."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.allocation import aligned
from polystage.planner.fusion.access_extents import Axis, OperatorExtents, Use
from polystage.planner.fusion.search.nests import (
    NestOption,
    balanced_tiles,
    best_nest,
    nest_front,
    spread,
)


def matmul(m: int, n: int, k: int, accumulator: int | None = None) -> OperatorExtents:
    def axis(dim: int, extent: int) -> Axis:
        return Axis(((dim, 1),), 0, 0, extent - 1)

    return OperatorExtents(
        (m, n, k),
        (2,),
        (
            Use("a", 4, (axis(0, m), axis(2, k)), False, False),
            Use("b", 4, (axis(2, k), axis(1, n)), False, False),
            Use("c", 4, (axis(0, m), axis(1, n)), True, True),
        ),
        accumulator,
    )


def convolution(channels: int, width: int, filters: int, stride: int) -> OperatorExtents:
    """Return a convolution of three taps with a border of one: dims f, x, c, t."""
    taps = Axis(((1, stride), (3, 1)), -1, 0, width * stride - 1)
    return OperatorExtents(
        (filters, width, channels, 3),
        (2, 3),
        (
            Use("x", 2, (Axis(((2, 1),), 0, 0, channels - 1), taps), False, False),
            Use("w", 2, tuple(Axis(((d, 1),), 0, 0, 99) for d in (0, 2, 3)), False, False),
            Use("y", 2, (Axis(((0, 1),), 0, 0, 99), Axis(((1, 1),), 0, 0, 99)), True, True),
        ),
        4,
        uncut=frozenset({3}),
    )


def moved_by_executing(operator: OperatorExtents, option: NestOption) -> tuple[dict[int, int], int]:
    """Return the most elements held per operand, and the traffic, from walking through a nest."""
    loops = option.nest.chunks
    tiles = {loop.dim: loop.tile for loop in loops}
    box = operator.extents
    traffic, held = 0, dict.fromkeys(range(len(operator.uses)), 0)
    at: dict[int, tuple[tuple[int, int], ...] | None] = dict.fromkeys(held)
    ranges = [range(0, box[loop.dim], loop.tile) for loop in loops]
    for starts in product(*ranges):
        start = {loop.dim: value for loop, value in zip(loops, starts, strict=True)}
        for number, use in enumerate(operator.uses):
            late = {d: v for d, v in start.items() if d not in operator.reductions}
            if use.is_late and any(
                v + tiles[d] < box[d] for d, v in start.items() if d not in late
            ):
                continue
            mine = late if use.is_late else start
            depth = max((i for i, x in enumerate(loops) if x.dim in use.dims), default=-1)
            outer = [x.dim for x in loops[: depth + 1] if x.dim in mine]
            if at[number] == (now := tuple((d, start[d]) for d in outer)):
                continue
            at[number] = now
            count = 1
            for axis in use.axes:
                low = high = axis.constant
                for dim, c in axis.terms:
                    first = start.get(dim, 0)
                    low, high = (
                        low + c * first,
                        high + c * (min(first + tiles.get(dim, box[dim]), box[dim]) - 1),
                    )
                count *= min(high, axis.high) - max(low, axis.low) + 1
            traffic += count * use.element_bytes
            held[number] = max(held[number], count)
    return held, traffic


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_traffic_of_matmul_nests_is_that_of_their_execution(m: int, n: int, k: int) -> None:
    operator = matmul(m, n, k)
    for option in nest_front(operator, operator.extents, frozenset({0, 1, 2})).options:
        _, traffic = moved_by_executing(operator, option)
        assert option.traffic == traffic


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.integers(1, 2))
def test_halos_are_counted_as_executed(channels: int, width: int, filters: int, stride: int):
    operator = convolution(channels, width, filters, stride)
    for option in nest_front(operator, operator.extents, frozenset({0, 1, 2})).options:
        held, traffic = moved_by_executing(operator, option)
        assert option.traffic == traffic
        assert option.bytes >= sum(aligned(n * 2) for n in held.values())


def test_best_nest_is_close_to_the_bound_of_matmuls() -> None:
    operator = matmul(1024, 1024, 1024)
    for capacity, mebibytes in ((32, 48), (128, 26), (2048, 10), (16384, 6)):
        best = best_nest(operator, operator.extents, frozenset({0, 1, 2}), capacity * 1024)
        assert best is not None and best.bytes <= capacity * 1024
        assert best.traffic <= 1.05 * 2 * mebibytes * 2**20


def test_operands_on_chip_cost_nothing() -> None:
    operator = matmul(128, 768, 768, accumulator=4)
    front = nest_front(operator, operator.extents, frozenset({1}))
    assert front.options[-1].traffic == 4 * 768 * 768
    assert front.options[-1].bytes < 4 * 768


def test_nothing_fits_is_none() -> None:
    operator = matmul(8, 8, 8)
    assert best_nest(operator, operator.extents, frozenset({0, 1, 2}), 16) is None


def test_of_equal_traffic_the_fewest_chunks() -> None:
    operator = matmul(64, 64, 64, accumulator=4)
    best = best_nest(operator, operator.extents, frozenset(), 64 * 64 * 4)
    assert best is not None and best.chunks == 1 and best.nest.chunks == ()


@pytest.mark.parametrize("extent", [1, 7, 12, 100])
def test_balanced_tiles_need_all_their_size(extent: int) -> None:
    for tile in balanced_tiles(extent)[1:]:
        assert -(-extent // (tile - 1)) > -(-extent // tile)


def test_spread_keeps_the_ends() -> None:
    assert spread(range(100), 3) == (0, 50, 99)
    assert np.array_equal(spread((1, 2), 5), (1, 2))
