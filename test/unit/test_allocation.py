"""Addresses for live ranges, and ends of the memory for kernels that follow each other."""

from collections import Counter
from itertools import pairwise

import pytest
from allocation_problems import assert_apart, buffer_lists, perfect_packing, random_buffers
from hypothesis import given
from hypothesis import strategies as st

from polystage.allocation import (
    AllocationError,
    Buffer,
    DoesNotFitError,
    Memory,
    Problem,
    allocate,
    first_fit_decreasing,
    minimise,
)
from polystage.passes.placement.opposite_ends import far_kernels


@given(buffer_lists(most=12), st.sampled_from([1, 16]))
def test_buffers_that_live_together_share_no_byte(buffers, alignment):
    addresses = first_fit_decreasing(buffers, 12 * 112, alignment)
    assert_apart(buffers, addresses)
    free = [a for a, b in zip(addresses, buffers, strict=True) if b.address is None]
    assert all(address % alignment == 0 for address in free)


@given(buffer_lists(most=12, fixed=False), st.integers(1, 60))
def test_what_is_allocated_is_valid_and_what_is_not_does_not_fit(buffers, capacity):
    problem = Problem(buffers, (Memory("", capacity),))
    try:
        allocation = allocate(problem, effort=100_000)
    except DoesNotFitError as error:
        assert error.proven
        assert error.demand <= sum(b.size for b in buffers)
        assert error.demand > capacity or any(b.alignment > 1 for b in buffers)
    else:
        assert_apart(buffers, allocation.addresses)
        assert allocation.bounds[""] <= allocation.peaks[""] <= capacity


def test_lower_ranks_come_first():
    small, large = Buffer("weights", 0, 2, 10, 0), Buffer("tile", 0, 2, 50, 1)
    assert first_fit_decreasing([large, small], 60) == [10, 0]


def test_what_does_not_fit_names_the_greatest_demand():
    buffers = [Buffer("a", 0, 2, 30), Buffer("b", 1, 3, 40), Buffer("c", 3, 4, 50)]
    with pytest.raises(DoesNotFitError) as error:
        first_fit_decreasing(buffers, 60)
    assert [b.name for b in error.value.live] == ["b", "a"]
    assert (error.value.demand, error.value.capacity) == (70, 60)
    assert error.value.message == (
        "70 bytes are live at once, and the memory holds 60; live are b 40, a 30"
    )
    assert error.value.help == (
        "make the buffers smaller by 10 bytes together, let fewer of them live at once, or use a "
        "larger memory"
    )


def test_several_memories_in_one_call():
    buffers = [
        Buffer("a", 0, 2, 30, memory="sbuf"),
        Buffer("b", 1, 3, 100, memory="psum"),
        Buffer("c", 1, 3, 20, memory="sbuf", alignment=32),
        Buffer("d", 1, 3, 100, memory="psum"),
    ]
    allocation = allocate(Problem(buffers, (Memory("sbuf", 64), Memory("psum", 1024, granule=256))))
    assert allocation.addresses == (0, 0, 32, 256)
    assert allocation.peaks == {"sbuf": 52, "psum": 512}


def test_a_buffer_may_use_the_gap_of_another():
    buffers = [Buffer("x", 0, 10, 8, gaps=((3, 7),)), Buffer("y", 3, 7, 8)]
    assert allocate(Problem(buffers, (Memory("", 8),))).addresses == (0, 0)


def test_fixed_addresses_stay():
    buffers = [Buffer("x", 0, 4, 8, address=4), Buffer("y", 0, 4, 4), Buffer("z", 0, 4, 8)]
    assert allocate(Problem(buffers, (Memory("", 20),))).addresses == (4, 0, 12)


def test_a_group_has_one_address():
    buffers = [
        Buffer("x", 0, 4, 8, group="g"),
        Buffer("y", 2, 4, 8),
        Buffer("z", 3, 9, 4, group="g"),
    ]
    first, between, second = allocate(Problem(buffers, (Memory("", 16),))).addresses
    assert first == second != between


def test_an_output_takes_the_place_of_its_input_only_where_that_helps():
    x, y = Buffer("x", 0, 4, 8), Buffer("y", 3, 9, 8, in_place_of="x")
    assert allocate(Problem([x, y], (Memory("", 8),))).addresses == (0, 0)
    # Here x and y cannot be at one address, which is known for both.
    apart = [Buffer("x", 0, 4, 8, address=8), Buffer("y", 3, 9, 8, address=0, in_place_of="x")]
    assert allocate(Problem(apart, (Memory("", 16),))).addresses == (8, 0)


def test_two_outputs_do_not_take_the_same_place():
    buffers = [
        Buffer("x", 0, 4, 8),
        Buffer("y", 3, 9, 8, in_place_of="x"),
        Buffer("z", 3, 9, 8, in_place_of="x"),
    ]
    _, y, z = allocate(Problem(buffers, (Memory("", 16),))).addresses
    assert y != z


def test_more_than_orders_comes_where_these_do_not_fit():
    buffers = [
        Buffer("a", 3, 5, 3),
        Buffer("b", 4, 7, 4),
        Buffer("c", 1, 4, 3),
        Buffer("d", 3, 4, 2),
    ]
    problem = Problem(buffers, (Memory("", 8),))
    assert allocate(problem).addresses == (5, 0, 0, 3)
    with pytest.raises(DoesNotFitError) as error:
        allocate(problem, effort=0)
    assert not error.value.proven
    assert error.value.message == (
        "8 bytes are live at once, and the memory holds 8, but no addresses exist that keep them "
        "apart, or they were not found; live are c 3, a 3, d 2"
    )
    assert error.value.help.endswith("or use a larger memory, or more effort")


def test_what_has_no_addresses_although_there_is_room_is_proven():
    buffers = [Buffer("x", 0, 4, 4, address=4), Buffer("y", 0, 4, 8)]
    with pytest.raises(DoesNotFitError) as error:
        allocate(Problem(buffers, (Memory("", 12),)))
    assert error.value.proven
    assert error.value.message == (
        "12 bytes are live at once, and the memory holds 12, but no addresses exist that keep them "
        "apart; live are y 8, x 4"
    )


def test_contradictions_are_refused():
    with pytest.raises(AllocationError) as error:
        Problem([Buffer("x", 0, 1, 8, memory="hbm")], (Memory("sbuf"),))
    assert error.value.message == "buffer 'x' goes to memory 'hbm', which does not exist"
    assert error.value.help == "the memories are 'sbuf'"
    with pytest.raises(AllocationError, match="buffer 'x' has size -8, alignment 1"):
        Problem([Buffer("x", 0, 1, -8)])
    with pytest.raises(AllocationError) as error:
        allocate(Problem([Buffer("x", 0, 4, 8, address=0), Buffer("y", 2, 6, 8, address=4)]))
    assert error.value.message == (
        "buffers 'x' and 'y' are to lie at 0 and 4, live at the same time and with 8 bytes from "
        "the first on"
    )
    with pytest.raises(AllocationError, match="'x' and 'y' of group 'g' are to lie at 0 and 4"):
        allocate(
            Problem(
                [
                    Buffer("x", 0, 1, 8, address=0, group="g"),
                    Buffer("y", 2, 3, 8, address=4, group="g"),
                ]
            )
        )


def test_hints_are_followed_where_they_fit():
    def allocation(hints):
        buffers = perfect_packing(60, 4, 256, hints)
        return allocate(Problem(buffers, (Memory("", 256),)), effort=0)

    assert allocation(hints=True).peaks == {"": 256}
    with pytest.raises(DoesNotFitError):
        allocation(hints=False)


def test_nothing_to_place():
    allocation = allocate(Problem([], (Memory("", 8),)))
    assert allocation.addresses == ()
    assert allocation.peaks == {"": 0}
    assert minimise(Problem([Buffer("never", 3, 3, 8)]), 1.0).addresses == (0,)


def test_thousands_of_buffers_end_close_to_the_bound():
    allocation = allocate(Problem(random_buffers(3000)))
    assert allocation.gap < 0.05


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
