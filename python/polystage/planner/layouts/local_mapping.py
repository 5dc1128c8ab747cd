"""Every operator for itself: the baseline of the paper."""

from __future__ import annotations

from polystage.planner.layouts.problem import LayoutProblem, Mapping


def local_choices(problem: LayoutProblem) -> list[int]:
    """Return the choice in which every statement takes its fastest variant and every array lies as
    its first writer leaves it."""
    left: dict[str, int | None] = {}
    for use in problem.uses:
        if use.is_write and use.access.array not in left:
            left[use.access.array] = use.wanted(problem.variants[use.statement.name][0])
    layouts: list[int] = []
    for name, options in problem.layouts.items():
        wanted = left.get(name)
        homes = [layout.home if layout.copy is None else None for layout in options]
        layouts.append(homes.index(wanted) if wanted in homes else 0)
    return layouts + [0] * len(problem.variants)


def map_locally(problem: LayoutProblem) -> Mapping:
    """Map each operator as if it were alone; a reshuffle on every mismatch, by the cheapest way."""
    return problem.mapping(local_choices(problem))
