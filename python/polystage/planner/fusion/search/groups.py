"""Ways to run a sequence of operators as one group, for every capacity at once.

Equal sequences, as layers of a model repeat them, are examined once.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from polystage.allocation import aligned
from polystage.planner.fusion.access_extents import OperatorExtents
from polystage.planner.fusion.decisions import Loop, Nest, Place
from polystage.planner.fusion.operators import OperatorKind
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.search.loops import (
    MAX_STREAMING_OPERATORS,
    LoopChoice,
    StepLoops,
    wider_loops,
)
from polystage.planner.fusion.search.nests import (
    TILINGS,
    Front,
    NestOption,
    best_nest,
    nest_front,
)
from polystage.planner.fusion.search.segments import (
    GroupOption,
    Segment,
    Span,
    best_of,
    step_places,
)
from polystage.planner.fusion.search.steps import Steps, steps_of_sink
from polystage.planner.fusion.sharing import bytes_shared
from polystage.planner.fusion.signatures import segment_signature
from polystage.polyhedral import Role

STEP_TILINGS = 8
"""How many times fewer tilings are compared for an operator of a group with steps."""
WIDE_STEPS = 4
"""Widest steps that fit and are compared by the chunks that they leave room for."""


class GroupSearch:
    """The options of all segments of a program."""

    def __init__(self, program: Program, capacity: int, effort: int = 1) -> None:
        self.program = program
        self.capacity = capacity
        self.effort = effort
        self.tilings = effort * TILINGS
        self._extents = [
            OperatorExtents.of(program.arrays, operator) for operator in program.operators
        ]
        self.loops = StepLoops(program, self._extents, capacity, effort)
        self._known: dict[object, tuple[GroupOption, ...]] = {}
        self._spans: dict[tuple[int, int], Span] = {}
        self._numbers: dict[object, int] = {}
        self._known_steps: dict[object, Steps | None] = {}

    def span(self, start: int, stop: int) -> Span:
        """Return the operators `start` to `stop`."""
        if (start, stop) not in self._spans:
            signature = segment_signature(self.program, start, stop)
            number = self._numbers.setdefault(signature, len(self._numbers))
            self._spans[start, stop] = Span(self.program, start, stop, number)
        return self._spans[start, stop]

    def options(self, segment: Segment) -> tuple[GroupOption, ...]:
        """Return the options of which none needs less and moves less, by rising bytes."""
        key = segment.key()
        if key not in self._known:
            self._known[key] = best_of(self._candidates(segment))
        return self._known[key]

    def within(self, segment: Segment, capacity: int) -> GroupOption | None:
        """Return the option that moves least among those that fit."""
        options = self.options(segment)
        place = bisect_right(options, capacity, key=lambda option: option.bytes)
        return options[place - 1] if place else None

    def extents(self, operator: int) -> OperatorExtents:
        """Return the extents of what an operator touches."""
        return self._extents[operator]

    def _candidates(self, segment: Segment) -> Iterator[GroupOption]:
        if len(segment.span) == 1:
            alone = list(self._unlooped(segment))
            yield from alone
            if self._moves_least(segment, alone):
                return
            for loops, streams in self._single_steps(segment):
                yield from self._looped(segment, loops, streams)
        every = self.loops.every_way(segment)
        if every is not None:
            for loops, streams in every:
                yield from self._looped(segment, loops, streams)
            return
        if 1 < len(segment.span) <= MAX_STREAMING_OPERATORS and self.effort > 1:
            for loops, streams in self.loops.summed_blocks(segment):
                yield from self._looped(segment, loops, streams)
        for dim in self.loops.stepped_dims(segment.span):
            tiles = self.loops.tiles(segment, dim)
            least = {tiles[0], self.loops.aligned_tile(segment.span, dim) or tiles[0]}
            finest = [
                option
                for tile in sorted(least)
                for option in self._looped(segment, (Loop(dim, tile),), frozenset())
            ]
            yield from finest
            if finest and min(option.bytes for option in finest) <= self.capacity // 2:
                continue  # all its inputs come once
            for loops in self.loops.finer_steps(segment.span, dim, tiles[0]):
                yield from self._looped(segment, loops, frozenset())
            for streams, extra in self.loops.stream_choices(segment):
                coarse = self.loops.coarse_tiles(segment, dim, tiles, extra)
                for tile in (*coarse, *(least - {tiles[0]})):
                    yield from self._looped(segment, (Loop(dim, tile),), streams)

    def _single_steps(self, segment: Segment) -> Iterator[LoopChoice]:
        """Yield steps of one operator, of which some operands are streamed in each."""
        yield from self.loops.whole_inputs(segment)
        yield from self.loops.rows_of_passes(segment)
        best = self._best_alone(segment, self.capacity) if self.effort > 1 else None
        if best is not None:
            yield from self.loops.blocks(segment, *best.option.nests)

    def _moves_least(self, segment: Segment, options: list[GroupOption]) -> bool:
        """Tell whether some option moves every array once, in half of the scratchpad."""
        start = segment.span.start
        moving = {
            use.array
            for use in self._extents[start].uses
            if not use.is_write or self.program.is_used_after(use.array, start)
        }
        once = self._resident_traffic(segment) + sum(
            self.program.arrays[name].size_bytes for name in moving - segment.resident
        )
        return any(o.traffic <= once and o.bytes <= self.capacity // 2 for o in options)

    # --- one operator, chunk by chunk -------------------------------------------------------------

    def _unlooped(self, segment: Segment) -> Iterator[GroupOption]:
        """Yield the nests of a single operator whose other operands are all streamed."""
        operator, extents = segment.span.operators[0], self._extents[segment.span.start]
        arrays = self.program.arrays
        wide = self._resident_bytes(segment)
        moved = self._resident_traffic(segment)
        places = dict.fromkeys(segment.span.arrays, Place.STREAMED)
        places |= dict.fromkeys(segment.resident, Place.RESIDENT)
        if operator.kind is OperatorKind.OPAQUE:
            places = {n: Place.WHOLE if p is Place.STREAMED else p for n, p in places.items()}
            others = [arrays[n].size_bytes for n, p in places.items() if p is Place.WHOLE]
            both = segment.span.written & {a.array for a in operator.reads}
            twice = sum(arrays[n].size_bytes for n in both - segment.resident)
            yield GroupOption(
                wide + sum(aligned(size) for size in others),
                moved + sum(others) + twice,
                (),
                (Nest(),),
                tuple(places.values()),
            )
            return
        streamed = streamed_uses(extents, places)
        for nest in nest_front(extents, operator.extents, streamed, self.tilings).options:
            yield GroupOption(
                wide + nest.bytes, moved + nest.traffic, (), (nest.nest,), tuple(places.values())
            )

    def _best_alone(self, segment: Segment, capacity: int) -> "WideOption | None":
        """Return the best nest of a single operator in `capacity` bytes, without steps."""
        operator, extents = segment.span.operators[0], self._extents[segment.span.start]
        if operator.kind is OperatorKind.OPAQUE:
            return None
        places = dict.fromkeys(segment.span.arrays, Place.STREAMED)
        places |= dict.fromkeys(segment.resident, Place.RESIDENT)
        wide = self._resident_bytes(segment)
        streamed = streamed_uses(extents, places)
        nest = best_nest(extents, operator.extents, streamed, capacity - wide, self.tilings)
        if nest is None:
            return None
        traffic = self._resident_traffic(segment) + nest.traffic
        found = GroupOption(wide + nest.bytes, traffic, (), (nest.nest,), tuple(places.values()))
        return WideOption(nest.chunks, found)

    def _resident_bytes(self, segment: Segment) -> int:
        """Return the bytes of the resident arrays of a single operator."""
        sizes = (self.program.arrays[name].size_bytes for name in segment.resident)
        shared = bytes_shared(self.program, segment.span.start, segment.resident)
        return sum(map(aligned, sizes)) - shared

    def _resident_traffic(self, segment: Segment) -> int:
        """Return the bytes of arrays that become resident: those that are loaded, those that the
        caller wants."""
        moved = 0
        for name in segment.kept:
            array = self.program.arrays[name]
            loaded = array.is_initialized and name not in segment.span.written
            moved += array.size_bytes * (loaded or array.role is Role.OUTPUT)
        return moved

    # --- operators step by step -------------------------------------------------------------------

    def _looped(
        self, segment: Segment, loops: tuple[Loop, ...], streams: frozenset[str]
    ) -> Iterator[GroupOption]:
        """Yield the ways to run a group step by step; `streams` come again chunk by chunk."""
        in_place = False
        if self._sums_up(segment.span, loops):
            in_place = self._extents[segment.span.stop - 1].accumulator is None
            streams |= self.loops.late_inputs(segment)
        stepped = self._stepped(segment, loops, step_places(segment, streams, in_place))
        if stepped is None:
            return
        fronts = [
            nest_front(extents, box, streamed, self.tilings // STEP_TILINGS)
            for extents, box, streamed in stepped.nests
        ]
        for need, chosen in demands(fronts, stepped.wide):
            yield stepped.option(need, chosen)

    def _stepped(
        self, segment: Segment, loops: tuple[Loop, ...], places: dict[str, Place]
    ) -> "_Stepped | None":
        steps = self._steps(segment.span, loops)
        if steps is None:
            return None
        where = tuple(places.values())
        sizes = [self.program.arrays[name].size_bytes for name in places]
        held = sum(aligned(sizes[number]) for number in steps.resident(where))
        wide = [held + steps.sums] * len(segment.span)
        still = self._resident_traffic(segment)
        for place, window in zip(where, steps.windows, strict=True):
            if place is Place.WINDOW:
                still += window.traffic
        for size, operators in steps.on_chip(where):
            for operator in operators:
                wide[operator] += size
        operators = self._extents[segment.span.start : segment.span.stop]
        if steps.sums:
            operators[-1] = replace(operators[-1], accumulator=0)
        nests = [
            (extents, box, streamed_uses(extents, places))
            for extents, box in zip(operators, steps.boxes, strict=True)
        ]
        endings = steps.times[-1] // prod(
            -(-operators[-1].extents[loop.dim] // loop.tile)
            for loop in loops
            if loop.dim in operators[-1].reductions
        )
        return _Stepped(loops, places, wide, still, nests, steps.times, endings)

    def _steps(self, span: Span, loops: tuple[Loop, ...]) -> Steps | None:
        """Return the steps of a span, or None where they cannot be carried out."""
        key = span.number, loops
        if key not in self._known_steps:
            sums_up = self._sums_up(span, loops)
            for start, steps in steps_of_sink(self.program, span.start, span.stop, loops, sums_up):
                self._known_steps[self.span(start, span.stop).number, loops] = steps
        return self._known_steps[key]

    def _sums_up(self, span: Span, loops: tuple[Loop, ...]) -> bool:
        return any(loop.dim in self._extents[span.stop - 1].reductions for loop in loops)

    # --- fewer and larger steps and chunks --------------------------------------------------------

    def widened(self, segment: Segment, option: GroupOption, capacity: int) -> "WideOption | None":
        """Return an option that moves no more in fewer steps and chunks, within `capacity`; None
        where there is none."""
        places = dict(zip(segment.span.arrays, option.places, strict=True))
        if len(segment.span) == 1:
            alone = self._best_alone(segment, capacity)
            if alone and alone.option.traffic <= option.traffic:
                return alone
        wider: list[WideOption] = []
        for loops in wider_loops(segment.span.operators[-1], option.loops):
            stepped = self._stepped(segment, loops, places)
            chosen = stepped and self._chunked(stepped, capacity)
            if not stepped or not chosen:
                continue
            found = stepped.option(stepped.need(chosen), chosen)
            if found.traffic <= option.traffic:
                wider.append(WideOption(stepped.executions(chosen), found))
            if len(wider) == WIDE_STEPS:
                break
        return min(wider, key=lambda wide: wide.chunks, default=None)

    def _chunked(self, stepped: "_Stepped", capacity: int) -> list[NestOption] | None:
        """Return the nests that move least in `capacity`, and of these those of fewest chunks."""
        chosen: list[NestOption] = []
        for (extents, box, streamed), wide in zip(stepped.nests, stepped.wide, strict=True):
            nest = best_nest(extents, box, streamed, capacity - wide, self.tilings)
            if nest is None:
                return None
            chosen.append(nest)
        return chosen


@dataclass(frozen=True)
class WideOption:
    """A way to run a group in few chunks."""

    chunks: int
    """That are executed in all."""
    option: GroupOption


@dataclass(frozen=True)
class _Stepped:
    """A group whose steps are chosen, and whose nests are not."""

    loops: tuple[Loop, ...]
    places: dict[str, Place]
    wide: list[int]
    """Bytes of arrays and windows during each operator."""
    still: int
    """Traffic of what is not streamed."""
    nests: list[tuple[OperatorExtents, tuple[int, ...], frozenset[int]]]
    """Per operator what `nest_front` takes: the largest box of a step, and what is streamed."""
    times: tuple[int, ...]
    """In how many steps each operator runs."""
    endings: int
    """In how many of them the sink completes its sums."""

    def need(self, chosen: Sequence[NestOption]) -> int:
        """Return the bytes at the worst moment, with a nest for every operator."""
        return max(w + nest.bytes for w, nest in zip(self.wide, chosen, strict=True))

    def executions(self, chosen: Sequence[NestOption]) -> int:
        """Return how many chunks are executed in all."""
        return sum(n * nest.chunks for n, nest in zip(self.times, chosen, strict=True))

    def option(self, need: int, chosen: Sequence[NestOption]) -> GroupOption:
        """Return the whole, with a nest for every operator."""
        again = sum(n * nest.traffic for n, nest in zip(self.times, chosen, strict=True))
        again -= (self.times[-1] - self.endings) * chosen[-1].late
        nests = tuple(nest.nest for nest in chosen)
        places = tuple(self.places.values())
        return GroupOption(need, self.still + again, self.loops, nests, places)


def streamed_uses(extents: OperatorExtents, places: dict[str, Place]) -> frozenset[int]:
    """Return the operands of an operator that come chunk by chunk."""
    return frozenset(
        number for number, use in enumerate(extents.uses) if places[use.array] is Place.STREAMED
    )


def demands(fronts: Sequence[Front], wide: Sequence[int]) -> Iterator[tuple[int, list[NestOption]]]:
    """Yield for rising demands the nests that move least, one per operator."""
    least = max(w + front.options[0].bytes for w, front in zip(wide, fronts, strict=True))
    all_demands = {w + o.bytes for w, f in zip(wide, fronts, strict=True) for o in f.options}
    for demand in sorted(d for d in all_demands if d >= least):
        chosen = [front.within(demand - w) for w, front in zip(wide, fronts, strict=True)]
        yield demand, [option for option in chosen if option is not None]
