"""Addresses for live ranges, and ends of the memory for kernels that follow each other."""

from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystage.allocation import Buffer, DoesNotFitError, first_fit_decreasing
from polystage.passes.placement.opposite_ends import far_kernels

BUFFERS = st.lists(
    st.builds(
        lambda start, length, size, rank: Buffer("b", start, start + length, size, rank),
        st.integers(0, 9),
        st.integers(1, 5),
        st.integers(1, 100),
        st.integers(0, 1),
    ),
    max_size=12,
)


@given(BUFFERS, st.sampled_from([1, 16]))
def test_buffers_that_live_together_share_no_byte(buffers, alignment):
    addresses = first_fit_decreasing(buffers, 12 * 112, alignment)
    for (a, first), (b, second) in combinations(zip(addresses, buffers, strict=True), 2):
        apart = a + first.size <= b or b + second.size <= a
        assert apart or not first.overlaps(second)
    assert all(address % alignment == 0 for address in addresses)


def test_lower_ranks_come_first():
    small, large = Buffer("weights", 0, 2, 10, 0), Buffer("tile", 0, 2, 50, 1)
    assert first_fit_decreasing([large, small], 60) == [10, 0]


def test_what_does_not_fit_names_the_greatest_demand():
    buffers = [Buffer("a", 0, 2, 30), Buffer("b", 1, 3, 40), Buffer("c", 3, 4, 50)]
    with pytest.raises(DoesNotFitError) as error:
        first_fit_decreasing(buffers, 60)
    assert [b.name for b in error.value.live] == ["b", "a"]
    assert (error.value.demand, error.value.capacity) == (70, 60)


@given(st.lists(st.sampled_from("abcdef"), max_size=30))
def test_no_kernel_would_rather_be_at_the_other_end(calls):
    far = far_kernels(calls)
    meetings = Counter(frozenset(pair) for pair in pairwise(calls) if pair[0] != pair[1])
    for name in set(calls):
        others = {o: n for pair, n in meetings.items() if name in pair for o in pair - {name}}
        together = sum(n for other, n in others.items() if (other in far) == (name in far))
        assert 2 * together <= sum(others.values())


def test_kernels_that_alternate_are_all_apart():
    calls = ["load", "a", "b", "a", "b", "c", "b"]
    far = far_kernels(calls)
    assert all((a in far) != (b in far) for a, b in pairwise(calls))
