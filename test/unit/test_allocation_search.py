"""The exact search: what is found is valid, what is refused does not exist, the core and Python
agree, and hard problems are solved."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from allocation_problems import CORES, assert_apart, buffer_lists, perfect_packing
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.allocation import Memory
from polystage.allocation.first_fit import orders, place_in_order
from polystage.allocation.minimalloc import read_problem
from polystage.allocation.search import search
from polystage.allocation.table import Table
from polystage.compiled import BUILT, CHOICE

INSTANCES = Path("/work/shared/data/minimalloc")
needs_core = pytest.mark.skipif(not BUILT, reason="the compiled core was not built")


def table_of(buffers):
    return Table.of(buffers, [[i] for i in range(len(buffers))], Memory())


def results(table, capacity):
    """Return the answers of the core and of Python."""
    with pytest.MonkeyPatch.context() as patch:
        for core in CORES:
            patch.setenv(CHOICE, core)
            yield search(table, capacity)


def least_peak(table):
    """Return the least peak there is: what is left when nothing can move down is the lowest gaps in
    the order of addresses."""
    return min(
        table.peak(place_in_order(table, np.array(order)))
        for order in permutations(range(len(table)))
    )


@given(buffer_lists(), st.integers(-2, 2))
@settings(deadline=None, max_examples=60)
def test_addresses_are_found_if_and_only_if_they_exist(buffers, more):
    table = table_of(buffers)
    capacity = least_peak(table) + more
    for answer in results(table, capacity):
        assert (answer.addresses is not None) == (more >= 0)
        assert answer.proven == (more < 0)
        if answer.addresses is not None:
            assert_apart(buffers, answer.addresses.tolist())
            assert table.peak(answer.addresses) <= capacity


@needs_core
@pytest.mark.parametrize("seed", range(6))
def test_the_core_and_python_go_the_same_way(seed):
    table = table_of(perfect_packing(40, seed, 64))
    for capacity in (64, 70):
        python, compiled = results(table, capacity)
        assert python.effort == compiled.effort
        assert python.proven == compiled.proven
        assert python.addresses.tolist() == compiled.addresses.tolist()


@needs_core
@given(buffer_lists(most=12))
@settings(deadline=None)
def test_the_core_and_python_fill_the_same_gaps(buffers):
    table = table_of(buffers)
    with pytest.MonkeyPatch.context() as patch:
        for order in orders(table):
            for best in (False, True):
                found = []
                for core in CORES:
                    patch.setenv(CHOICE, core)
                    found.append(place_in_order(table, order, best).tolist())
                assert found[0] == found[1]
                assert_apart([b for b in buffers if b.address is None], found[0][1:])


def test_effort_is_a_bound():
    answer = search(table_of(perfect_packing(40, 1, 64)), 64, effort=100)
    assert answer.addresses is None
    assert not answer.proven
    assert answer.effort < 100 + 2 * 40 * 160


@needs_core
@pytest.mark.parametrize("seed", range(4))
def test_rectangles_without_a_gap(seed):
    buffers = perfect_packing(200, seed)
    answer = search(table_of(buffers), 1024)
    assert answer.addresses is not None
    assert_apart(buffers, answer.addresses.tolist())


@needs_core
@pytest.mark.skipif(not INSTANCES.is_dir(), reason="the instances are not there")
@pytest.mark.parametrize("name", "ACEGI")
def test_instances_of_minimalloc(name):
    problem = read_problem(INSTANCES / f"{name}.1048576.csv")
    answer = search(table_of(problem.buffers), problem.memories[0].capacity)
    assert answer.addresses is not None
    assert_apart(problem.buffers, answer.addresses.tolist())
    assert answer.effort < 500_000_000
