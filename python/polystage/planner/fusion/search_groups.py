"""Ways to run a sequence of operators as one group, for every capacity at once.

Equal sequences, as layers of a model repeat them, are examined once.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product
from math import prod

from polystage.allocation import aligned
from polystage.errors import PlanError
from polystage.planner.fusion.access_extents import OperatorExtents
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import schedule
from polystage.planner.fusion.search_nests import (
    TILINGS,
    Front,
    NestOption,
    balanced_tiles,
    best_nest,
    nest_front,
    spread,
)
from polystage.planner.fusion.search_steps import Steps
from polystage.planner.fusion.signatures import segment_signature
from polystage.polyhedral import Role

MAX_STEPS = 256
"""Steps of the finest tiling that is tried; they are written out one after another."""
MAX_FINE_STEPS = 512
"""Steps of two loops over rows and columns."""
FINE_TILES = 6
"""Tiles of columns that are compared, the largest."""
MAX_FINE_OPERATORS = 12
"""Operators of a group that steps through columns, too."""
TILES_PER_LOOP = 2
"""Tiles that are compared where operands are streamed again in every step."""
FEW = 512
"""Ways to run a group that are all tried, however little each promises."""
STEP_TILINGS = 8
"""How many times fewer tilings are compared for an operator of a group with steps."""
MAX_STREAMING_OPERATORS = 4
"""Operators of a group that may stream constants in every step."""


MAX_STREAMING_INPUTS = 4
"""Operators of a group that may stream more than constants."""


@dataclass(frozen=True, slots=True)
class GroupOption:
    """One way to run a group, without names, so that it holds for every equal group."""

    bytes: int
    """On chip at the worst moment, with the resident arrays that the group touches."""
    traffic: int
    """DRAM bytes."""
    loops: tuple[Loop, ...]
    nests: tuple[Nest, ...]
    places: tuple[Place, ...]
    """Of the arrays that the group touches, in order of appearance."""


class Span:
    """The operators `start` to `stop` of a program."""

    def __init__(self, program: Program, start: int, stop: int, number: int) -> None:
        self.program = program
        self.start = start
        self.stop = stop
        self.operators = program.operators[start:stop]
        names = (name for operator in self.operators for name in operator.arrays)
        self.arrays = tuple(dict.fromkeys(names))
        """In order of appearance."""
        self.touched = frozenset(self.arrays)
        self.written = frozenset(a.array for o in self.operators for a in o.writes)
        self.number = number
        """The same for spans that are equal up to names."""

    def __len__(self) -> int:
        """Return the number of operators."""
        return self.stop - self.start


@dataclass(frozen=True)
class Segment:
    """A span that runs as one group, and what becomes of the arrays that it touches."""

    span: Span
    held: frozenset[str]
    """Resident arrays among them that are on chip before."""
    kept: frozenset[str]
    """Those that become resident here."""

    @property
    def resident(self) -> frozenset[str]:
        """The arrays that are resident while the group runs."""
        return self.held | self.kept

    def key(self) -> object:
        """Return what makes two segments have the same options."""
        places = tuple((n in self.held) + 2 * (n in self.kept) for n in self.span.arrays)
        return self.span.number, places

    def group(self, option: GroupOption) -> Group:
        """Return an option with the names of this segment."""
        places = dict(zip(self.span.arrays, option.places, strict=True))
        operators = tuple(range(self.span.start, self.span.stop))
        return Group(operators, option.loops, option.nests, places)


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
            yield from self._rows_on_chip(segment)
        every = self._every_way(segment)
        if every is not None:
            for loops, streams in every:
                yield from self._looped(segment, loops, streams)
            return
        for dim in self._stepped_dims(segment.span):
            tiles = self._tiles(segment, dim)
            finest = list(self._looped(segment, (Loop(dim, tiles[0]),), frozenset()))
            yield from finest
            if finest and finest[0].bytes <= self.capacity // 2:
                continue  # all its inputs come once
            for loops in self._finer_steps(segment.span, dim, tiles[0]):
                yield from self._looped(segment, loops, frozenset())
            for streams, extra in self._stream_choices(segment):
                for tile in self._coarse_tiles(segment, dim, tiles, extra):
                    yield from self._looped(segment, (Loop(dim, tile),), streams)

    def _every_way(self, segment: Segment) -> list[tuple[tuple[Loop, ...], frozenset[str]]] | None:
        """Return all loops over steps with all sets of streamed inputs, or None for too many."""
        sink = segment.span.operators[-1]
        uncut = self._extents[segment.span.stop - 1].uncut
        dims = [d for d, extent in enumerate(sink.extents) if extent > 1 and d not in uncut]
        made = segment.span.written | segment.resident
        inputs = [name for name in segment.span.arrays if name not in made]
        tiles = {dim: balanced_tiles(sink.extents[dim])[:-1] for dim in dims}
        pairs = sum(len(tiles[a]) * len(tiles[b]) for a, b in permutations(dims, 2))
        if (pairs + sum(map(len, tiles.values()))) * 2 ** len(inputs) > FEW:
            return None
        orders = [*((dim,) for dim in dims), *permutations(dims, 2)]
        loops = [
            tuple(map(Loop, order, chosen))
            for order in orders
            for chosen in product(*(tiles[dim] for dim in order))
        ]
        sizes = range(len(inputs) + 1)
        streams = [frozenset(names) for n in sizes for names in combinations(inputs, n)]
        return list(product(loops, streams))

    def _moves_least(self, segment: Segment, options: list[GroupOption]) -> bool:
        """Tell whether some option moves every operand once, in half of the scratchpad."""
        arrays = self.program.arrays
        once = self._resident_traffic(segment) + sum(
            arrays[use.array].size_bytes
            for use in self._extents[segment.span.start].uses
            if use.array not in segment.resident
        )
        return any(o.traffic <= once and o.bytes <= self.capacity // 2 for o in options)

    def _stepped_dims(self, span: Span) -> Iterator[int]:
        """Yield the dims of the sink whose tiles need only a part of what the group makes, or where
        the sink runs alone, overlap in what they read; of dims that do so alike the first."""
        extents = self._extents[span.stop - 1]
        seen: set[object] = set()
        for dim, extent in enumerate(extents.extents):
            alone = len(span) == 1
            if extent == 1 or dim in extents.uncut or (alone and not extents.slides_along(dim)):
                continue
            if extents.scratch and dim in extents.reductions:
                continue  # what one pass over a reduction accumulates does not outlive it
            uses = [u for u in extents.uses if u.array in span.written or alone]
            role = tuple(dim in use.dims for use in extents.uses)
            if role not in seen and any(dim in use.dims for use in uses if not use.is_write):
                seen.add(role)
                yield dim

    def _finer_steps(self, span: Span, dim: int, tile: int) -> Iterator[tuple[Loop, ...]]:
        """Yield two loops where those over `dim` alone need too much: windows slide along it, and
        the next dim that operands depend on alike, as columns beside rows, is cut in parts."""
        extents = self._extents[span.stop - 1]
        roles = [tuple(d in use.dims for use in extents.uses) for d in range(len(extents.extents))]
        alike = [d for d in range(dim + 1, len(roles)) if roles[d] == roles[dim]]
        if not alike or dim in extents.reductions or len(span) > MAX_FINE_OPERATORS:
            return
        rows = -(-extents.extents[dim] // tile)
        tiles = balanced_tiles(extents.extents[alike[0]])[:-1]
        parts = [t for t in tiles if rows * -(-extents.extents[alike[0]] // t) <= MAX_FINE_STEPS]
        for part in parts[-FINE_TILES:]:
            yield Loop(dim, tile), Loop(alike[0], part)

    def _tiles(self, segment: Segment, dim: int) -> list[int]:
        """Return the tiles of a dim of the sink that make no more than the most steps."""
        extent = segment.span.operators[-1].extents[dim]
        return [tile for tile in balanced_tiles(extent) if -(-extent // tile) <= MAX_STEPS]

    def _coarse_tiles(
        self, segment: Segment, dim: int, tiles: Sequence[int], extra: int
    ) -> Iterator[int]:
        """Yield the tiles with which `extra` bytes more per step may pay off."""
        arrays = self.program.arrays
        inner = [n for n in segment.span.written if n not in segment.resident]
        gain = 2 * sum(arrays[name].size_bytes for name in inner)
        steps = 1 + gain // max(extra, 1)
        extent = segment.span.operators[-1].extents[dim]
        useful = [tile for tile in tiles[:-1] if -(-extent // tile) <= steps]
        yield from spread(useful, TILES_PER_LOOP * self.effort)

    # --- one operator, chunk by chunk -------------------------------------------------------------

    def _unlooped(self, segment: Segment) -> Iterator[GroupOption]:
        """Yield the nests of a single operator whose other operands are all streamed."""
        operator, extents = segment.span.operators[0], self._extents[segment.span.start]
        arrays = self.program.arrays
        wide = sum(aligned(arrays[name].size_bytes) for name in segment.resident)
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

    def _rows_on_chip(self, segment: Segment) -> Iterator[GroupOption]:
        """Yield steps over the rows (queries) of one pass over a reduction (keys).

        What depends on rows alone stays for a step, what the pass brings is streamed. Chunks of
        rows may then run inside of the pass, and their part of the output is small.
        """
        extents = self._extents[segment.span.start]
        passed = frozenset(extents.reductions) - extents.uncut
        within = extents.uncut | extents.one_by_one | passed
        rows = [d for d, n in enumerate(extents.extents) if n > 1 and d not in within]
        reads = [use for use in extents.uses if not use.is_write]
        streams = frozenset(use.array for use in reads if use.dims & passed)
        if not extents.scratch or len(rows) != 1:
            return
        if any(use.array in streams and not use.dims & passed for use in reads):
            return  # one array holds both
        outer = tuple(Loop(d, 1) for d in sorted(extents.one_by_one) if extents.extents[d] > 1)
        most = MAX_STEPS // prod(extents.extents[loop.dim] for loop in outer)
        extent = extents.extents[rows[0]]
        for tile in balanced_tiles(extent):
            if -(-extent // tile) <= most:
                loops = (*outer, Loop(rows[0], tile))
                yield from self._looped(segment, loops, streams - segment.resident)

    def _best_alone(self, segment: Segment, capacity: int) -> GroupOption | None:
        """Return the best nest of a single operator in `capacity` bytes, without steps."""
        operator, extents = segment.span.operators[0], self._extents[segment.span.start]
        if operator.kind is OperatorKind.OPAQUE:
            return None
        places = dict.fromkeys(segment.span.arrays, Place.STREAMED)
        places |= dict.fromkeys(segment.resident, Place.RESIDENT)
        sizes = [self.program.arrays[name].size_bytes for name in segment.resident]
        wide = sum(map(aligned, sizes))
        streamed = streamed_uses(extents, places)
        nest = best_nest(extents, operator.extents, streamed, capacity - wide, self.tilings)
        if nest is None:
            return None
        traffic = self._resident_traffic(segment) + nest.traffic
        return GroupOption(wide + nest.bytes, traffic, (), (nest.nest,), tuple(places.values()))

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

    def _stream_choices(self, segment: Segment) -> Iterator[tuple[frozenset[str], int]]:
        """Yield the sets of inputs that come again in every step, and the bytes of constants among
        them, which every step brings whole."""
        if len(segment.span) > MAX_STREAMING_OPERATORS:
            return
        arrays = self.program.arrays
        made = segment.span.written | segment.resident
        inputs = [name for name in segment.span.arrays if name not in made]
        weights = [name for name in inputs if arrays[name].role is Role.WEIGHT]
        extra = sum(arrays[name].size_bytes for name in weights)
        if weights:
            yield frozenset(weights), extra
        if len(weights) < len(inputs) and len(segment.span) <= MAX_STREAMING_INPUTS:
            yield frozenset(inputs), extra

    def _looped(
        self, segment: Segment, loops: tuple[Loop, ...], streams: frozenset[str]
    ) -> Iterator[GroupOption]:
        """Yield the ways to run a group step by step; `streams` come again chunk by chunk."""
        sink = self._extents[segment.span.stop - 1]
        in_place = self._sums_up(segment.span, loops) and sink.accumulator is None
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
        sizes = {n: aligned(self.program.arrays[n].size_bytes) for n in segment.resident}
        wide = [sum(sizes.values()) + steps.sums] * len(segment.span)
        still = self._resident_traffic(segment)
        for place, window in zip(places.values(), steps.windows, strict=True):
            if place is Place.WINDOW:
                still += window.traffic
                for operator in window.operators:
                    wide[operator] += window.bytes
        operators = self._extents[segment.span.start : segment.span.stop]
        if steps.sums:
            operators[-1] = replace(operators[-1], accumulator=0)
        nests = [
            (extents, box, streamed_uses(extents, places))
            for extents, box in zip(operators, steps.boxes, strict=True)
        ]
        return _Stepped(loops, places, wide, still, nests, steps.times)

    def _steps(self, span: Span, loops: tuple[Loop, ...]) -> Steps | None:
        """Return the steps of a span, or None where they cannot be carried out."""
        key = span.number, loops
        if key not in self._known_steps:
            operators = tuple(range(span.start, span.stop))
            places = dict.fromkeys(span.arrays, Place.WINDOW)
            group = Group(operators, loops, (Nest(),) * len(span), places)
            try:
                steps = Steps.of(
                    schedule(self.program, group), span.arrays, self._sums_up(span, loops)
                )
            except PlanError:
                steps = None
            self._known_steps[key] = steps
        return self._known_steps[key]

    def _sums_up(self, span: Span, loops: tuple[Loop, ...]) -> bool:
        return any(loop.dim in self._extents[span.stop - 1].reductions for loop in loops)

    # --- fewer and larger steps and chunks --------------------------------------------------------

    def widened(self, segment: Segment, option: GroupOption, capacity: int) -> GroupOption | None:
        """Return an option that moves no more in fewer steps and chunks, within `capacity`; None
        where there is none."""
        places = dict(zip(segment.span.arrays, option.places, strict=True))
        if len(segment.span) == 1:
            alone = self._best_alone(segment, capacity)
            if alone and alone.traffic <= option.traffic:
                return alone
        for loops in wider_loops(segment.span.operators[-1], option.loops):
            stepped = self._stepped(segment, loops, places)
            found = stepped and self._chunked(stepped, capacity)
            if found and found.traffic <= option.traffic:
                return found
        return None

    def _chunked(self, stepped: "_Stepped", capacity: int) -> GroupOption | None:
        """Return the nests that move least in `capacity`, and of these those of fewest chunks."""
        chosen: list[NestOption] = []
        for (extents, box, streamed), wide in zip(stepped.nests, stepped.wide, strict=True):
            nest = best_nest(extents, box, streamed, capacity - wide, self.tilings)
            if nest is None:
                return None
            chosen.append(nest)
        need = max(w + nest.bytes for w, nest in zip(stepped.wide, chosen, strict=True))
        return stepped.option(need, chosen)


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

    def option(self, need: int, chosen: Sequence[NestOption]) -> GroupOption:
        """Return the whole, with a nest for every operator."""
        again = sum(n * nest.traffic for n, nest in zip(self.times, chosen, strict=True))
        nests = tuple(nest.nest for nest in chosen)
        places = tuple(self.places.values())
        return GroupOption(need, self.still + again, self.loops, nests, places)


def step_places(segment: Segment, streams: frozenset[str], in_place: bool) -> dict[str, Place]:
    """Return the places of a group's arrays; what nobody in the group reads leaves in chunks,
    unless it is where the sums are (`in_place`)."""
    read = {access.array for operator in segment.span.operators for access in operator.reads}
    places: dict[str, Place] = {}
    for name in segment.span.arrays:
        leaves = name in segment.span.written and name not in read and not in_place
        streamed = name in streams or leaves
        places[name] = Place.STREAMED if streamed else Place.WINDOW
    return places | dict.fromkeys(segment.resident, Place.RESIDENT)


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


def wider_loops(sink: Operator, loops: tuple[Loop, ...]) -> Iterator[tuple[Loop, ...]]:
    """Yield the same loops with larger tiles, largest first, down to what they are."""
    if len(loops) != 1:
        yield loops
        return
    (loop,) = loops
    for tile in reversed(balanced_tiles(sink.extents[loop.dim])[:-1]):
        if tile >= loop.tile:
            yield (Loop(loop.dim, tile),)


def best_of(options: Iterable[GroupOption]) -> tuple[GroupOption, ...]:
    """Return the options of which none needs less and moves less, by rising bytes."""
    kept: list[GroupOption] = []
    for option in sorted(options, key=lambda o: (o.bytes, o.traffic)):
        if not kept or option.traffic < kept[-1].traffic:
            kept.append(option)
    return tuple(kept)
