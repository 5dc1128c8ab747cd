"""Minimises a cost graph: variable by variable where it is narrow, from a good start elsewhere.

Elimination is dynamic programming on a graph of any shape (nonserial dynamic programming,
Bertele and Brioschi 1972): a variable is replaced by a table over its neighbours that holds the
least cost over its choices. On trees and chains the tables have one dimension, on residual
networks two or three; the result is exact. Where a table would grow beyond a limit, the variable
with the most neighbours keeps its present choice, which splits the graph; the result is then the
best one with these choices, and rounds follow in which the others move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import prod

import numpy as np

from polystage.planner.layouts.cost_graph import CostGraph, Costs

TABLE_LIMIT = 1 << 16
"""Most entries of a table; 0.5 MiB of floats."""

ROUNDS = 8
"""Most rounds in which fixed variables are improved."""


@dataclass(frozen=True)
class Table:
    """Costs over the choices of several variables, one axis for each, in the order of `scope`."""

    scope: tuple[int, ...]
    costs: Costs


@dataclass(frozen=True)
class Solution:
    """An assignment, and whether it is proved to be the best."""

    choices: tuple[int, ...]
    cost: float
    is_exact: bool


def minimise(graph: CostGraph, start: Sequence[int], limit: int = TABLE_LIMIT) -> Solution:
    """Return the best assignment found from `start`, never a worse one.

    Cost: linear in the number of variables where the graph is narrow.
    """
    choices = list(start)
    cost = graph.cost(choices)
    for _ in range(ROUNDS):
        improved, fixed = eliminate(graph, choices, limit)
        if not fixed:
            return Solution(tuple(improved), graph.cost(improved), is_exact=True)
        descend(graph, improved)
        found = graph.cost(improved)
        if found >= cost - 1e-9 * abs(cost):
            break
        choices, cost = improved, found
    return Solution(tuple(choices), cost, is_exact=False)


def descend(graph: CostGraph, choices: list[int]) -> None:
    """Improve `choices` one variable at a time until none can be improved alone."""
    neighbours = graph.neighbours()
    waiting = list(range(len(graph.own)))
    queued = set(waiting)
    while waiting:
        v = waiting.pop(0)
        queued.discard(v)
        costs = graph.own[v] + sum(
            (table[:, choices[u]] for u, table in neighbours[v].items()), np.zeros(1)
        )
        best = int(costs.argmin())
        if costs[best] < costs[choices[v]] - 1e-9:
            choices[v] = best
            fresh = [u for u in neighbours[v] if u not in queued]
            waiting += fresh
            queued.update(fresh)


def eliminate(
    graph: CostGraph, present: Sequence[int], limit: int = TABLE_LIMIT
) -> tuple[list[int], list[int]]:
    """Return the best choices given those of some variables, and which variables these are.

    Variables keep their `present` choice only where no other can be eliminated within `limit`.
    """
    return _Elimination(graph, present, limit).run()


class _Elimination:
    """Tables by variable; always eliminates the variable whose table would be smallest."""

    def __init__(self, graph: CostGraph, present: Sequence[int], limit: int) -> None:
        self.sizes = [len(costs) for costs in graph.own]
        self.present = present
        self.limit = limit
        self.tables: list[list[Table]] = [[Table((v,), costs)] for v, costs in enumerate(graph.own)]
        self.adjacent: list[set[int]] = [set() for _ in graph.own]
        self.alive = set(range(len(graph.own)))
        for scope, costs in graph.paired.items():
            self._add(Table(scope, costs))

    def run(self) -> tuple[list[int], list[int]]:
        """Eliminate or fix every variable, then read the choices backwards."""
        best: list[tuple[int, tuple[int, ...], np.ndarray]] = []
        fixed: list[int] = []
        heap = [(self._size(v), v) for v in self.alive]
        heapify(heap)
        while self.alive:
            size, v = heappop(heap)
            if v not in self.alive:
                continue
            if size != self._size(v):
                heappush(heap, (self._size(v), v))
                continue
            if size > self.limit:
                heappush(heap, (size, v))
                v = max(self.alive, key=lambda u: (len(self.adjacent[u]), -u))
                touched = self._fix(v)
                fixed.append(v)
            else:
                touched = set(self.adjacent[v])
                best.append((v, *self._eliminate(v)))
            for u in touched:
                heappush(heap, (self._size(u), u))
        choices = list(self.present)
        for v, scope, argument in reversed(best):
            choices[v] = int(argument[tuple(choices[u] for u in scope)])
        return choices, fixed

    def _size(self, v: int) -> int:
        return self.sizes[v] * prod(self.sizes[u] for u in self.adjacent[v])

    def _add(self, table: Table) -> None:
        for v in table.scope:
            self.tables[v].append(table)
            self.adjacent[v].update(u for u in table.scope if u != v)

    def _remove(self, v: int) -> list[Table]:
        """Take a variable and its tables out of the graph."""
        tables = self.tables[v]
        for u in self.adjacent[v]:
            self.tables[u] = [t for t in self.tables[u] if v not in t.scope]
            self.adjacent[u].discard(v)
        self.alive.discard(v)
        return tables

    def _eliminate(self, v: int) -> tuple[tuple[int, ...], np.ndarray]:
        """Replace a variable by the table of its least costs; return where they are reached."""
        scope = tuple(sorted(self.adjacent[v]))
        tables = self._remove(v)
        place = {u: axis for axis, u in enumerate((*scope, v))}
        total = np.zeros([self.sizes[u] for u in (*scope, v)])
        for table in tables:
            total = total + _aligned(table, place)
        if scope:
            self._add(Table(scope, total.min(axis=-1)))
        return scope, total.argmin(axis=-1)

    def _fix(self, v: int) -> set[int]:
        """Let a variable keep its present choice; its tables lose a dimension."""
        touched = set(self.adjacent[v])
        for table in self._remove(v):
            rest = tuple(u for u in table.scope if u != v)
            if rest:
                axis = table.scope.index(v)
                fixed = np.asarray(table.costs.take(self.present[v], axis=axis))
                self._add(Table(rest, fixed))
        return touched


def _aligned(table: Table, place: dict[int, int]) -> Costs:
    """Return the costs with every axis where `place` puts its variable, the others of extent 1."""
    order = sorted(range(len(table.scope)), key=lambda axis: place[table.scope[axis]])
    shape = [1] * len(place)
    for axis in order:
        shape[place[table.scope[axis]]] = table.costs.shape[axis]
    return table.costs.transpose(order).reshape(shape)
