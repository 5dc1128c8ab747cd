"""Dependences on one array between statements outside of loops, as in a whole model."""

from collections.abc import Sequence

import islpy as isl

from polystage.polyhedral.accumulation import accumulation_of, fixed_domain, next_instance
from polystage.polyhedral.dataflow import dataflow
from polystage.polyhedral.dependences import Dependence, DependenceKind, event_of
from polystage.polyhedral.model import Statement


class Pairing:
    """Dependences on one array between statements that run one after the other."""

    def __init__(
        self, array: str, users: Sequence[Statement], live_in: dict[tuple[str, str], isl.Map]
    ) -> None:
        self.array = array
        self.live_in = live_in
        self.events = [event_of(array, statement) for statement in users]
        self._first: dict[int, isl.Map] = {}
        self._last: dict[int, isl.Map] = {}
        self._written: dict[int, isl.Set] = {}
        self.found: list[Dependence] = []

    def solve(self) -> list[Dependence]:
        """Return the dependences on the array."""
        for place, event in enumerate(self.events):
            if event.writes is None or event.may_writes is not None:
                reads_before = reads_after = event.reads
            else:
                reads_before, reads_after = self._self_dependences(place)
                self._forward(DependenceKind.OUTPUT, place, self._last_writes(place).reverse())
            if event.may_writes is not None:
                self._forward(DependenceKind.OUTPUT, place, event.may_writes)
            if reads_before is not None:
                self._backward(place, reads_before)
            if reads_after is not None:
                self._forward(DependenceKind.ANTI, place, reads_after)
        return self.found

    def _add(self, kind: DependenceKind, source: int, target: int, relation: isl.Map) -> None:
        if not relation.is_empty():
            names = [self.events[place].statement.name for place in (source, target)]
            self.found.append(Dependence(kind, self.array, names[0], names[1], relation))

    def _self_dependences(self, place: int) -> tuple[isl.Map | None, isl.Map | None]:
        """Add what the statement depends on itself.

        Return its reads of values from before it, and those of elements that it does not write
        any more.
        """
        event = self.events[place]
        assert event.writes is not None
        shape = accumulation_of(event.statement, self.array)
        if shape is None:
            return self._general_self_dependences(place)
        first = fixed_domain(event.statement, dict.fromkeys(shape.reduction, 0))
        last = fixed_domain(
            event.statement, {dim: shape.extents[dim] - 1 for dim in shape.reduction}
        )
        self._first[place] = event.writes.intersect_domain(first).reverse()
        self._last[place] = event.writes.intersect_domain(last).reverse()
        if any(shape.extents[dim] > 1 for dim in shape.reduction):
            step = next_instance(event.statement, shape)
            if event.reads is not None:
                self._add(DependenceKind.FLOW, place, place, step)
            self._add(DependenceKind.OUTPUT, place, place, step)
        return (None if event.reads is None else self._first[place].reverse()), None

    def _general_self_dependences(self, place: int) -> tuple[isl.Map | None, isl.Map | None]:
        event = self.events[place]
        live: dict[tuple[str, str], isl.Map] = {}
        self.found += dataflow(self.array, [event.statement], live)
        if event.reads is None:
            return None, None
        before = live.get((event.statement.name, self.array))
        not_later = isl.Map.lex_le(event.statement.domain.get_space())
        overwritten = not_later.apply_range(self._last_writes(place).reverse())
        return before, event.reads.subtract(overwritten)

    def _backward(self, place: int, reads: isl.Map) -> None:
        """Find the last writer of every element read."""
        for source in range(place - 1, -1, -1):
            event = self.events[source]
            if event.may_writes is not None:
                possible = reads.apply_range(event.may_writes.reverse()).reverse()
                self._add(DependenceKind.FLOW, source, place, possible)
            if event.writes is None:
                continue
            relation = reads.apply_range(self._last_writes(source)).reverse()
            if relation.is_empty():
                continue
            self._add(DependenceKind.FLOW, source, place, relation)
            reads = reads.subtract_range(self._range(source))
            if reads.is_empty():
                return
        self.live_in[self.events[place].statement.name, self.array] = reads

    def _forward(self, kind: DependenceKind, place: int, accesses: isl.Map) -> None:
        """Find the next writer of every element of `accesses`."""
        for target in range(place + 1, len(self.events)):
            event = self.events[target]
            if event.may_writes is not None:
                possible = accesses.apply_range(event.may_writes.reverse())
                self._add(kind, place, target, possible)
            if event.writes is None:
                continue
            relation = accesses.apply_range(self._first_writes(target))
            if relation.is_empty():
                continue
            self._add(kind, place, target, relation)
            accesses = accesses.subtract_range(self._range(target))
            if accesses.is_empty():
                return

    def _first_writes(self, place: int) -> isl.Map:
        if place not in self._first:
            self._first[place] = self._inverse_writes(place).lexmin()
        return self._first[place]

    def _last_writes(self, place: int) -> isl.Map:
        if place not in self._last:
            self._last[place] = self._inverse_writes(place).lexmax()
        return self._last[place]

    def _inverse_writes(self, place: int) -> isl.Map:
        writes = self.events[place].writes
        assert writes is not None
        return writes.reverse()

    def _range(self, place: int) -> isl.Set:
        if place not in self._written:
            writes = self.events[place].writes
            assert writes is not None
            self._written[place] = writes.range()
        return self._written[place]
