"""Places of arrays and weights of resident groups."""

import doctest

from hypothesis import given
from hypothesis import strategies as st

from polystage.planner.residency import Operator, placement, plan_groups
from polystage.planner.residency.placement import place

SIZES = st.integers(1, 60)


@st.composite
def demands(draw):
    """Draw lives and sizes of arrays, and pieces of weights for every operator."""
    count = draw(st.integers(1, 8))
    ends = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).map(sorted).map(tuple)
    arrays = draw(st.lists(st.tuples(ends, SIZES), max_size=6))
    weights = draw(st.lists(st.lists(SIZES, max_size=3), min_size=count, max_size=count))
    return arrays, weights


@given(demands(), st.integers(100, 500))
def test_nothing_overlaps_and_loads_are_in_order(demand, capacity):
    arrays, weights = demand
    found = place(arrays, weights, capacity)
    if found is None:
        return
    boxes = [(life, a, size) for (life, size), a in zip(arrays, found.arrays, strict=True)]
    positions = []
    for user, (pieces, sizes) in enumerate(zip(found.pieces, weights, strict=True)):
        for piece, size in zip(pieces, sizes, strict=True):
            boxes.append(((piece.position, user), piece.address, size))
            positions.append(piece.position)
    assert positions == sorted(positions)
    for i, ((first, last), address, size) in enumerate(boxes):
        assert first <= last and 0 <= address <= capacity - size
        for (f, t), a, s in boxes[:i]:
            apart = last < f or t < first
            assert apart or address + size <= a or a + s <= address


@given(demands())
def test_all_weights_come_first_where_there_is_room(demand):
    arrays, weights = demand
    found = place(arrays, weights, 100_000)
    assert found is not None
    assert all(piece.position == 0 for pieces in found.pieces for piece in pieces)


def test_a_group_ends_where_the_next_operator_does_not_fit():
    chain = [Operator((n,), (n + 1,), (64,)) for n in range(6)]
    sizes = dict.fromkeys(range(7), 16) | {3: 160}
    groups = plan_groups(chain, sizes, (), 192)
    assert [(g.first, g.last) for g in groups] == [(0, 1), (4, 5)]


def test_an_operator_that_cannot_run_ends_a_group():
    chain = [Operator((n,), (n + 1,)) for n in range(5)]
    groups = plan_groups([*chain[:2], None, *chain[3:]], dict.fromkeys(range(6), 16), (), 192)
    assert [(g.first, g.last) for g in groups] == [(0, 1), (3, 4)]


def test_what_is_there_all_the_time_counts():
    chain = [Operator((n,), (n + 1,)) for n in range(2)]
    sizes = {**dict.fromkeys(range(3), 16), "biases": 150}
    assert not plan_groups(chain, sizes, ("biases",), 176)
    assert plan_groups(chain, sizes, ("biases",), 208)[0].addresses["biases"] >= 0


def test_what_is_dead_stays_a_while_where_weights_have_room():
    """The third array takes the place of the first at once only where room is short."""
    chain = [Operator((n,), (n + 1,), (32,)) for n in range(5)]
    sizes = dict.fromkeys(range(6), 16)
    (wide,) = plan_groups(chain, sizes, (), 1024)
    (narrow,) = plan_groups(chain, sizes, (), 192)
    assert len(set(wide.addresses.values())) == 6
    assert len(set(narrow.addresses.values())) == 2


def test_the_example():
    assert doctest.testmod(placement).failed == 0
