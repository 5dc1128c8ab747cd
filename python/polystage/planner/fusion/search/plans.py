"""Which operators run together, and what stays on chip between groups.

Dynamic programming over the places in program order where a group may end. A state is the set of
arrays that are on chip there; of every state only the cheapest way to it is kept, and of the states
of one place only the most promising. The first pass lets every operator run alone; then groups of
several are tried where some operator still moves more than it must, or where an array leaves the
chip that is wanted again, until there is no such place where that was not tried.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import NoReturn

from polystage.allocation import aligned
from polystage.errors import PlanError
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.search.groups import GroupSearch
from polystage.planner.fusion.search.loops import MAX_STREAMING_OPERATORS
from polystage.planner.fusion.search.segments import GroupOption, Segment, Span
from polystage.polyhedral import Role

BEAM = 24
"""States that are kept per place."""
SMALL = 16
"""Operators among which effort is divided: programs of fewer are searched more closely."""
MAX_GROUP = 32
"""Operators of one group."""
GIVE_UP = 2
"""Ends of a long group, one after the other, at which it fits in no way."""
FREE_CHOICES = 3
"""Arrays of a group of which any subset may become resident; of more, each alone, all or none."""


@dataclass(frozen=True)
class Step:
    """The cheapest way found to one state: the last group, and the state before it."""

    traffic: int
    """DRAM bytes so far."""
    promise: int
    """These, and what later readers of arrays in DRAM must move at least."""
    resident: frozenset[str]
    segment: Segment | None = None
    option: GroupOption | None = None
    before: "Step | None" = None

    def path(self) -> "list[Step]":
        """Return the steps that lead here, one per group."""
        steps: list[Step] = []
        step: Step | None = self
        while step is not None and step.segment is not None:
            steps.append(step)
            step = step.before
        return steps[::-1]


class PlanSearch:
    """The search over one program on a scratchpad of `capacity` bytes."""

    def __init__(
        self,
        program: Program,
        capacity: int,
        budget: int = 1,
        max_group: int = MAX_GROUP,
    ) -> None:
        self.program = program
        self.capacity = capacity
        self.beam = BEAM * budget
        self.max_group = max_group
        self.shares = max_group > 1
        """Whether operators share what is on chip; otherwise each finds and leaves all in DRAM."""
        effort = max(1, SMALL // max(len(program.operators), 1))
        self.groups = GroupSearch(program, capacity, budget * effort)
        self.sizes = {name: aligned(array.size_bytes) for name, array in program.arrays.items()}
        uses = {n: (*program.readers(n), *program.writers(n)) for n in program.arrays}
        self.first_use = {name: min(users) for name, users in uses.items()}
        self.last_use = {name: max(users) for name, users in uses.items()}
        self._lives: dict[int, tuple[str, ...]] = {}

    def run(self) -> Step:
        """Return the best state after the last operator.

        Raises: PlanError where an operator does not even fit alone.
        """
        best = self._best(lambda start: range(start + 1, start + 2))
        tried: frozenset[int] = frozenset()
        while self.shares and not (wasteful := self._wasteful(best)) <= tried:
            tried |= wasteful
            together = self._best(partial(self._stops, wasteful=tried))
            best = min(best, together, key=lambda step: step.traffic)
        return best

    def _best(self, stops: Callable[[int], Iterable[int]]) -> Step:
        count = len(self.program.operators)
        states: list[dict[frozenset[str], Step]] = [{} for _ in range(count + 1)]
        states[0][frozenset()] = Step(0, 0, frozenset())
        for start in range(count):
            kept = self._promising(states[start])
            failures = 0
            for stop in stops(start):
                found = [step for state in kept for step in self._after(state, start, stop)]
                failures = 0 if found else failures + (stop - start > MAX_STREAMING_OPERATORS)
                if failures == GIVE_UP:
                    break  # more operators need more
                for step in found:
                    known = states[stop].get(step.resident)
                    if known is None or step.traffic < known.traffic:
                        states[stop][step.resident] = step
        if not states[count]:
            self._refuse(states)
        return min(states[count].values(), key=lambda step: step.traffic)

    def _promising(self, states: dict[frozenset[str], Step]) -> list[Step]:
        """Return the states to go on from: the best ones, and the one that holds least."""
        steps = sorted(states.values(), key=lambda step: step.promise)
        if len(steps) <= self.beam:
            return steps
        least = min(steps, key=lambda step: self.bytes_of(step.resident))
        return [*steps[: self.beam - 1], least]

    def _after(self, state: Step, start: int, stop: int) -> Iterator[Step]:
        """Yield the states that a group of `start` to `stop` leads to."""
        span = self.groups.span(start, stop)
        held = state.resident & span.touched
        capacity = self.capacity - self.bytes_of(state.resident - held)
        for kept in subsets(self._fresh(span)):
            segment = Segment(span, held, kept)
            option = self.groups.within(segment, capacity)
            if option is None:
                continue
            resident = frozenset(n for n in state.resident | kept if self.last_use[n] >= stop)
            traffic = state.traffic + option.traffic
            promise = traffic + self._owed(stop, resident)
            yield Step(traffic, promise, resident, segment, option, state)

    def _fresh(self, span: Span) -> tuple[str, ...]:
        """Return the arrays that may become resident: first touched here, and used later."""
        if not self.shares:
            return ()
        return tuple(
            name
            for name in span.arrays
            if self.first_use[name] >= span.start and self.last_use[name] >= span.stop
        )

    def _owed(self, place: int, resident: frozenset[str]) -> int:
        """Return the bytes of live arrays in DRAM, which are to be read at least once more."""
        return sum(self.sizes[name] for name in self._live(place) if name not in resident)

    def _live(self, place: int) -> tuple[str, ...]:
        if place not in self._lives:
            self._lives[place] = tuple(
                n for n, first in self.first_use.items() if first < place <= self.last_use[n]
            )
        return self._lives[place]

    def bytes_of(self, names: Iterable[str]) -> int:
        """Return what arrays take on chip when they are there as a whole."""
        return sum(self.sizes[name] for name in names)

    # --- what is worth trying ---------------------------------------------------------------------

    def _wasteful(self, best: Step) -> frozenset[int]:
        """Return the operators of groups that move more than they must, and those before them that
        might leave room for what such a group loads again, however little they move themselves."""
        found: set[int] = set()
        for step in best.path():
            if step.segment and step.option:
                span = step.segment.span
                if step.option.traffic > self._compulsory(span):
                    last_uses = self._last_uses(span, span.touched - step.segment.held)
                    found.update(range(min(last_uses, default=span.start), span.stop))
        return frozenset(found)

    def _last_uses(self, span: Span, names: Iterable[str]) -> Iterator[int]:
        """Yield the last operators before a span that touch arrays which could stay on chip."""
        for name in names:
            users = (*self.program.readers(name), *self.program.writers(name))
            if self.first_use[name] < span.start and self.sizes[name] <= self.capacity:
                yield max(user for user in users if user < span.start)

    def _compulsory(self, span: Span) -> int:
        """Return the bytes of arguments and constants first read, and of results written.

        Tables that are looked up are left out, as they are of what options move.
        """
        total = 0
        operators = map(self.groups.extents, range(span.start, span.stop))
        for name in {use.array for extents in operators for use in extents.uses}:
            array = self.program.arrays[name]
            is_read = array.is_initialized and self.first_use[name] >= span.start
            is_result = array.role is Role.OUTPUT and name in span.written
            total += array.size_bytes * ((is_read and name not in span.written) + is_result)
        return total

    def _stops(self, start: int, wasteful: frozenset[int]) -> Iterator[int]:
        """Yield the ends of groups from `start` that hold an operator which moves too much."""
        yield start + 1
        held = 0
        last = min(start + self.max_group, len(self.program.operators))
        for stop in range(start + 1, last + 1):
            operator = self.program.operators[stop - 1]
            if operator.kind in (OperatorKind.OPAQUE, OperatorKind.GATHER):
                return
            held += self._weight_bytes(operator)
            if stop - start > MAX_STREAMING_OPERATORS and held > self.capacity:
                return
            if stop > start + 1 and not wasteful.isdisjoint(range(start, stop)):
                yield stop

    def _weight_bytes(self, operator: Operator) -> int:
        arrays = [self.program.arrays[name] for name in operator.arrays]
        return sum(array.size_bytes for array in arrays if array.role is Role.WEIGHT)

    def _refuse(self, states: list[dict[frozenset[str], Step]]) -> NoReturn:
        """Say which operator does not fit, and what it needs at least."""
        start = max(place for place, found in enumerate(states) if found)
        operator = self.program.operators[start]
        segment = Segment(self.groups.span(start, start + 1), frozenset(), frozenset())
        need = min((o.bytes for o in self.groups.options(segment)), default=0)
        raise PlanError(
            f"'{operator.name}' needs at least {need} bytes on chip, but the scratchpad has "
            f"{self.capacity}",
            help="choose a larger scratchpad",
            op=operator.statements[0].op,
        )


def subsets(names: tuple[str, ...]) -> Iterator[frozenset[str]]:
    """Yield which of some arrays become resident; of many, each alone, all, or none."""
    sizes = range(len(names) + 1) if len(names) <= FREE_CHOICES else (0, 1, len(names))
    for size in sizes:
        yield from map(frozenset, combinations(names, size))
