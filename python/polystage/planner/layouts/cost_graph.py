"""Discrete choices with costs of their own and costs in pairs: the form in which solvers see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]


@dataclass(frozen=True)
class CostGraph:
    """Variables with a few choices each, and what the choices cost.

    cost(x) = sum_v own[v][x_v] + sum_(u, v) paired[u, v][x_u, x_v]

    `own[v]` has one entry per choice of variable v; `paired[u, v]`, with u < v, one row per choice
    of u and one column per choice of v.
    """

    own: list[Costs] = field(default_factory=list[Costs])
    paired: dict[tuple[int, int], Costs] = field(default_factory=dict[tuple[int, int], Costs])

    def add_variable(self, costs: Sequence[float]) -> int:
        """Add a variable with a cost for each of its choices and return its number."""
        self.own.append(np.array(costs, dtype=np.float64))
        return len(self.own) - 1

    def add_costs(self, u: int, v: int, costs: Costs) -> None:
        """Add costs of pairs of choices, `costs[x_u, x_v]`."""
        if u > v:
            u, v, costs = v, u, costs.T
        if (u, v) in self.paired:
            self.paired[u, v] = self.paired[u, v] + costs
        else:
            self.paired[u, v] = costs

    def cost(self, choices: Sequence[int]) -> float:
        """Return what an assignment costs."""
        total = sum(float(costs[choices[v]]) for v, costs in enumerate(self.own))
        return total + sum(
            float(costs[choices[u], choices[v]]) for (u, v), costs in self.paired.items()
        )

    def neighbours(self) -> list[dict[int, Costs]]:
        """Return for every variable the costs with each neighbour, own choices in rows."""
        found: list[dict[int, Costs]] = [{} for _ in self.own]
        for (u, v), costs in self.paired.items():
            found[u][v] = costs
            found[v][u] = costs.T
        return found
