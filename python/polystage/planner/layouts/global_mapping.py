"""All arrays and statements of a program at once."""

from __future__ import annotations

from polystage.planner.layouts.elimination import TABLE_LIMIT, descend, minimise
from polystage.planner.layouts.local_mapping import local_choices
from polystage.planner.layouts.problem import LayoutProblem, Mapping


def map_globally(problem: LayoutProblem, limit: int = TABLE_LIMIT) -> Mapping:
    """Return the mapping with the least total charge that is found.

    It is the best there is wherever the program is narrow enough for elimination (see
    `elimination`), which the mapping says, and never worse than the local one.
    """
    start = local_choices(problem)
    descend(problem.graph, start)
    solution = minimise(problem.graph, start, limit)
    return problem.mapping(solution.choices, is_exact=solution.is_exact)
