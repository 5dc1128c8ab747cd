"""Minimisation: always a valid answer and a bound, the optimum where the search gets that far."""

from itertools import pairwise

import pytest
from allocation_problems import assert_apart, perfect_packing, random_buffers

from polystage.allocation import Buffer, DoesNotFitError, Memory, Problem, minimise


def test_a_perfect_packing_is_found():
    buffers = perfect_packing(30, 2, 64)
    allocation = minimise(Problem(buffers), 30.0)
    assert_apart(buffers, allocation.addresses)
    assert allocation.peaks == allocation.bounds == {"": 64}
    assert allocation.gap == 0


def test_the_bound_grows_where_nothing_lower_exists():
    buffers = [Buffer("x", 0, 4, 4, address=4), Buffer("y", 0, 4, 8)]
    allocation = minimise(Problem(buffers), 30.0)
    assert allocation.addresses == (4, 8)
    assert allocation.peaks == allocation.bounds == {"": 16}


def test_progress_only_gets_better_and_ends_with_the_answer():
    told = []
    problem = Problem(random_buffers(500))
    allocation = minimise(problem, 0.3, lambda *news: told.append(news))
    assert all(a[1] >= b[1] >= b[2] >= a[2] for a, b in pairwise(told))
    assert told[-1] == ("", allocation.peaks[""], allocation.bounds[""])
    assert_apart(problem.buffers, allocation.addresses)


def test_without_time_the_answer_is_that_of_the_heuristics():
    buffers = perfect_packing(30, 2, 64)
    allocation = minimise(Problem(buffers), 0.0)
    assert_apart(buffers, allocation.addresses)
    assert allocation.bounds == {"": 64}


def test_a_capacity_is_kept():
    with pytest.raises(DoesNotFitError) as error:
        minimise(Problem([Buffer("x", 0, 1, 9), Buffer("y", 0, 1, 9)], (Memory("", 16),)), 1.0)
    assert error.value.proven
