"""How many executions of a loop body lie, at least, between two accesses to the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import islpy as isl

from polystage.linear import Linear
from polystage.synchronisation.accesses import UNBOUNDED, Access, Variables

Row = dict[int, int]
"""A linear form: column -> coefficient; column -1 is the constant."""


def least_distance(
    source: Access,
    target: Access,
    loops: Sequence[int],
    least: int,
    target_loops: Sequence[int] | None = None,
) -> int | None:
    """Return the least `n_target - n_source >= least` at which the accesses meet, None if never.

    `n` counts the executions of the innermost body that both stand in, over all `loops` around it,
    outermost first. Both accesses are of the same kernel. With `target_loops`, each counts the
    executions of a body of its own.

    A loop writes element i and reads element 7 - i, 8 iterations: the reads of the second half find
    what the first half wrote, the nearest one iteration ago.

    >>> from polystage.synchronisation.accesses import Buffer, View, Walk, access_of
    >>> variables = Variables()
    >>> i = variables.new((0, 7))
    >>> buffer = Buffer("dram", (8,), (1,), 4)
    >>> write = access_of(View(buffer, i, (1,), (1,)), Walk((1,), (1,)), True, variables)
    >>> read = access_of(View(buffer, i * -1 + 7, (1,), (1,)), Walk((1,), (1,)), False, variables)
    >>> least_distance(write, read, [0], 0)
    1
    """
    if not source.may_meet(target):
        return None
    if source.is_constant and target.is_constant:
        return least if _happens(source.variables, loops, least) else None
    counts = (
        source.variables.count(loops),
        target.variables.count(loops if target_loops is None else target_loops),
    )
    found = [d for d in _distances(source, target, counts, least) if d is not None]
    return min(found, default=None)


def _happens(variables: Variables, loops: Sequence[int], least: int) -> bool:
    """Say whether a body is executed more than `least` times."""
    total = 1
    for loop in loops:
        total *= variables.ranges[loop][1] + 1
    return total > least


def _distances(
    source: Access, target: Access, counts: tuple[Linear, Linear], least: int
) -> Iterator[int | None]:
    """Yield the least distance for every pair of places that the buffers may have."""
    a, b = source.buffer, target.buffer
    if a is b:
        yield _System(source, target, counts).same_life(len(a.addresses)).solve(least)
        return
    for (i, at), (j, other) in product(enumerate(a.addresses), enumerate(b.addresses)):
        if at + source.bytes[0] < other + target.bytes[1] and (
            other + target.bytes[0] < at + source.bytes[1]
        ):
            system = _System(source, target, counts)
            system.lives(i, j)
            system.meet_bytes(at - other)
            yield system.solve(least)


class _System:
    """Linear constraints on the variables of two instances of a kernel's instructions.

    The source's variables and the target's have columns of their own, since they are of different
    iterations.
    """

    def __init__(self, source: Access, target: Access, counts: tuple[Linear, Linear]) -> None:
        self.sides = (source, target)
        self.columns: dict[tuple[int, int], int] = {}
        self.free = 0
        self.inequalities: list[Row] = []
        self.equalities: list[Row] = []
        self.between = self._difference(*counts)

    def same_life(self, places: int) -> _System:
        """Let both touch the same place of one buffer, and the same elements of it."""
        source, target = self.sides
        if places > 1:
            count = source.variables.count(source.buffer.loops)
            self.equalities.append(self._difference(count, count) | {self._new(): places})
        self.meet_bytes(0)
        if source.box is not None and target.box is not None:
            for (start, extent), (other, size) in zip(source.box, target.box, strict=True):
                self._overlap(start, extent, other, size, 0)
        return self

    def lives(self, i: int, j: int) -> None:
        """Let the source's buffer have its i-th place, the target's its j-th."""
        for side, place in enumerate((i, j)):
            access = self.sides[side]
            places = len(access.buffer.addresses)
            if places > 1:
                count = self._row(access.variables.count(access.buffer.loops), side)
                count[-1] = count.get(-1, 0) - place
                self.equalities.append(count | {self._new(): places})

    def meet_bytes(self, shift: int) -> None:
        """Let the bytes overlap, the source's buffer lying `shift` after the target's."""
        source, target = self.sides
        self._overlap(source.low, source.length, target.low, target.length, shift)

    def _overlap(self, start: Linear, extent: int, other: Linear, size: int, shift: int) -> None:
        """Let [start + shift, + extent) of the source and [other, + size) of the target overlap."""
        forward = self._difference(start, other)  # other - start
        backward = {c: -v for c, v in forward.items()}
        forward[-1] = forward.get(-1, 0) - shift + size - 1
        backward[-1] = backward.get(-1, 0) + shift + extent - 1
        self.inequalities += [forward, backward]

    def _difference(self, source: Linear, target: Linear) -> Row:
        """Return `target - source`, each in its own variables."""
        row = self._row(target, 1)
        for column, value in self._row(source, 0).items():
            row[column] = row.get(column, 0) - value
        return row

    def _row(self, form: Linear, side: int) -> Row:
        row = {self._column(variable, side): c for variable, c in form.terms}
        return row | {-1: form.constant}

    def _new(self) -> int:
        self.free += 1
        self.columns[(2, self.free)] = column = len(self.columns)
        return column

    def _column(self, variable: int, side: int) -> int:
        key = (side, variable)
        if key in self.columns:
            return self.columns[key]
        self.columns[key] = column = len(self.columns)
        variables = self.sides[side].variables
        low, high = variables.ranges[variable]
        if (low, high) != UNBOUNDED:
            self.inequalities += [{column: 1, -1: -low}, {column: -1, -1: high}]
        for relation in variables.relations.get(variable, ()):
            self.inequalities.append(self._row(relation, side))
        return column

    def solve(self, least: int) -> int | None:
        """Return the smallest value of `between` from `least` on that has a solution."""
        bound = {**self.between, -1: self.between.get(-1, 0) - least}
        width = len(self.columns)
        space = isl.Space.set_alloc(isl.DEFAULT_CONTEXT, 0, width)
        kind = isl.dim_type
        order = (kind.set, kind.div, kind.param, kind.cst)
        solutions = isl.BasicSet.from_constraint_matrices(
            space,
            _matrix(self.equalities, width),
            _matrix([*self.inequalities, bound], width),
            *order,
        )
        aim = isl.Aff.zero_on_domain(isl.LocalSpace.from_space(space))
        for column, value in self.between.items():
            if column >= 0 and value:
                aim = aim.set_coefficient_val(kind.in_, column, _value(value))
        found = isl.Set.from_basic_set(solutions).min_val(aim)
        return int(str(found)) + self.between.get(-1, 0) if found.is_int() else None


@cache
def _value(number: int) -> isl.Val:
    return isl.Val.int_from_si(isl.DEFAULT_CONTEXT, number)


def _matrix(rows: Sequence[Row], width: int) -> isl.Mat:
    matrix = isl.Mat.alloc(isl.DEFAULT_CONTEXT, len(rows), width + 1)
    for r, row in enumerate(rows):
        for c in range(width):
            matrix = matrix.set_element_val(r, c, _value(row.get(c, 0)))
        matrix = matrix.set_element_val(r, width, _value(row.get(-1, 0)))
    return matrix
