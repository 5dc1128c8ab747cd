"""Solvers of cost graphs: against enumeration, against the integer program."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.planner.layouts.cost_graph import CostGraph
from polystage.planner.layouts.elimination import descend, eliminate, minimise
from polystage.planner.layouts.integer_program import minimise_exactly

numbers = st.integers(0, 9)


@st.composite
def cost_graphs(draw: st.DrawFn) -> CostGraph:
    graph = CostGraph()
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=7))
    for size in sizes:
        graph.add_variable(draw(st.lists(numbers, min_size=size, max_size=size)))
    for u, v in itertools.combinations(range(len(sizes)), 2):
        if draw(st.booleans()):
            count = sizes[u] * sizes[v]
            costs = draw(st.lists(numbers, min_size=count, max_size=count))
            graph.add_costs(u, v, np.array(costs, dtype=float).reshape(sizes[u], sizes[v]))
    return graph


def least_cost(graph: CostGraph) -> float:
    every = itertools.product(*(range(len(costs)) for costs in graph.own))
    return min(graph.cost(choices) for choices in every)


def chain(length: int) -> CostGraph:
    graph = CostGraph()
    for v in range(length):
        graph.add_variable([v % 3, v % 2, 1])
        if v:
            graph.add_costs(v - 1, v, 2.5 * (1 - np.eye(3)))
    return graph


@given(cost_graphs())
def test_elimination_is_exact(graph):
    solution = minimise(graph, [0] * len(graph.own))
    assert solution.is_exact
    assert solution.cost == pytest.approx(graph.cost(solution.choices))
    assert solution.cost == pytest.approx(least_cost(graph))


@given(cost_graphs())
@settings(max_examples=25, deadline=None)
def test_integer_program_is_exact(graph):
    solution = minimise_exactly(graph)
    assert solution.cost == pytest.approx(least_cost(graph))


@given(cost_graphs(), st.integers(1, 9))
def test_with_small_tables_it_never_gets_worse(graph, limit):
    start = [len(costs) - 1 for costs in graph.own]
    solution = minimise(graph, start, limit)
    assert least_cost(graph) - 1e-9 <= solution.cost <= graph.cost(start) + 1e-9
    assert solution.cost == pytest.approx(graph.cost(solution.choices))


def test_a_chain_needs_tables_of_one_dimension():
    graph = chain(200)
    choices, fixed = eliminate(graph, [0] * 200, limit=9)
    assert not fixed
    assert graph.cost(choices) == pytest.approx(minimise_exactly(graph).cost)


def test_variables_are_fixed_where_tables_would_grow():
    graph = CostGraph()
    for _ in range(6):
        graph.add_variable([0.0, 1.0])
    for u, v in itertools.combinations(range(6), 2):
        graph.add_costs(u, v, np.array([[3.0, 0.0], [0.0, 3.0]]))
    _, fixed = eliminate(graph, [0] * 6, limit=8)
    assert fixed
    assert not minimise(graph, [0] * 6, limit=8).is_exact


def test_descent_stops_where_no_variable_improves_alone():
    graph = CostGraph()
    graph.add_variable([0.0, 0.0])
    graph.add_variable([0.0, 0.0])
    graph.add_costs(1, 0, np.array([[1.0, 5.0], [5.0, 0.0]]))
    choices = [0, 0]
    descend(graph, choices)
    assert choices == [0, 0]
    assert minimise(graph, choices).choices == (1, 1)


def test_costs_of_a_pair_add_up_whichever_way_round():
    graph = CostGraph()
    graph.add_variable([0.0])
    graph.add_variable([0.0, 0.0])
    graph.add_costs(0, 1, np.array([[1.0, 2.0]]))
    graph.add_costs(1, 0, np.array([[10.0], [20.0]]))
    assert [graph.cost([0, b]) for b in (0, 1)] == [11.0, 22.0]
