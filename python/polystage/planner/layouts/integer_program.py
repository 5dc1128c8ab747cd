"""The exact minimum of a cost graph by an integer program, as a yardstick; needs highspy."""

from __future__ import annotations

import highspy

from polystage.planner.layouts.cost_graph import CostGraph
from polystage.planner.layouts.elimination import Solution


def minimise_exactly(graph: CostGraph, seconds: float = 120.0) -> Solution:
    """Return the cheapest assignment, found by HiGHS.

    One binary per choice, of which every variable takes one, and one continuous variable in [0, 1]
    per pair of choices with costs, whose sums over either side are the binaries (the local
    polytope):

        minimise  sum own[v][a] x[v, a] + sum paired[u, v][a, b] y[u, v, a, b]
        where     sum_a x[v, a] = 1,  sum_b y[u, v, a, b] = x[u, a],  sum_a y[u, v, a, b] = x[v, b]

    Raises: RuntimeError where there is no optimum within `seconds`.
    """
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    model.setOptionValue("time_limit", seconds)
    model.setOptionValue("mip_rel_gap", 1e-6)
    chosen = [[model.addBinary(obj=float(c)) for c in costs] for costs in graph.own]
    for choices in chosen:
        model.addConstr(sum(choices[1:], choices[0]) == 1)
    for (u, v), costs in graph.paired.items():
        pairs = [[model.addVariable(0, 1, obj=float(c)) for c in row] for row in costs]
        for a, row in enumerate(pairs):
            model.addConstr(sum(row[1:], row[0]) == chosen[u][a])
        for b in range(costs.shape[1]):
            column = [row[b] for row in pairs]
            model.addConstr(sum(column[1:], column[0]) == chosen[v][b])
    model.run()
    status = model.modelStatusToString(model.getModelStatus())
    if status != "Optimal":
        raise RuntimeError(f"the integer program ended with status '{status}'")
    values = model.getSolution().col_value
    result = tuple(
        max(range(len(choices)), key=lambda a: values[choices[a].index]) for choices in chosen
    )
    return Solution(result, graph.cost(result), is_exact=True)
