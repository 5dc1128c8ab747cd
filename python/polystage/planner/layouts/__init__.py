"""Which dimension of every array lies across the scratchpad's partitions.

`build_problem` lists what may be chosen and what it costs, `map_globally` and `map_locally` choose,
`LayoutProblem.mapping` says what the choice means.
"""

from polystage.planner.layouts.global_mapping import map_globally
from polystage.planner.layouts.local_mapping import map_locally
from polystage.planner.layouts.problem import LayoutProblem, Mapping, Reshuffle, build_problem

__all__ = [
    "LayoutProblem",
    "Mapping",
    "Reshuffle",
    "build_problem",
    "map_globally",
    "map_locally",
]
