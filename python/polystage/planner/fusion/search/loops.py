"""Which loops over steps are tried for a group, and which inputs come again in every step."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations, product
from math import lcm, prod

from polystage.planner.fusion.access_extents import OperatorExtents
from polystage.planner.fusion.decisions import Loop, Nest
from polystage.planner.fusion.operators import Operator
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.search.nests import balanced_tiles, spread
from polystage.planner.fusion.search.segments import Segment, Span
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
"""Ways to run a group that are all tried, however little each promises; of several operators
`effort` times as many."""
MAX_STREAMING_OPERATORS = 4
"""Operators of a group that may stream constants in every step."""
MAX_STREAMING_INPUTS = 4
"""Operators of a group that may stream more than constants."""
LARGER_BLOCKS = 3
"""Tiles of a block of a single operator that are compared, along each dim."""
BLOCK_TILES = 8
"""Tiles of a block of several operators that are compared along each dim, the largest."""
WIDER_LOOPS = 36
"""Ways to enlarge the tiles of several loops."""
SMALLEST_BLOCK = 4
"""Sums of a block take no less than this part of the scratchpad."""
PART_TILES = 4
"""Tiles of what is summed up into a block, the smallest."""

LoopChoice = tuple[tuple[Loop, ...], frozenset[str]]
"""Loops over the sink, and the inputs that come again in every step."""


class StepLoops:
    """The loops of the groups of a program."""

    def __init__(
        self,
        program: Program,
        extents: Sequence[OperatorExtents],
        capacity: int,
        effort: int = 1,
    ) -> None:
        self.program = program
        self.capacity = capacity
        self.effort = effort
        self._extents = extents

    def every_way(self, segment: Segment) -> list[LoopChoice] | None:
        """Return all loops over steps with all sets of streamed inputs, or None for too many."""
        sink = segment.span.operators[-1]
        uncut = self._extents[segment.span.stop - 1].uncut
        dims = [d for d, extent in enumerate(sink.extents) if extent > 1 and d not in uncut]
        made = segment.span.written | segment.resident
        inputs = [name for name in segment.span.arrays if name not in made]
        tiles = {dim: balanced_tiles(sink.extents[dim])[:-1] for dim in dims}
        few = FEW * self.effort if len(segment.span) > 1 else FEW
        pairs = sum(len(tiles[a]) * len(tiles[b]) for a, b in permutations(dims, 2))
        if (pairs + sum(map(len, tiles.values()))) * 2 ** len(inputs) > few:
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

    def stepped_dims(self, span: Span) -> Iterator[int]:
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

    def finer_steps(self, span: Span, dim: int, tile: int) -> Iterator[tuple[Loop, ...]]:
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

    def tiles(self, segment: Segment, dim: int) -> list[int]:
        """Return the tiles of a dim of the sink that make no more than the most steps."""
        extent = segment.span.operators[-1].extents[dim]
        return [tile for tile in balanced_tiles(extent) if -(-extent // tile) <= MAX_STEPS]

    def aligned_tile(self, span: Span, dim: int) -> int | None:
        """Return the least tile of a dim of the sink with which steps move evenly through axes that
        two dims share, as `16 * row + phase` of a convolution that takes every 16th element: steps
        of less than 16 need all rows of a phase. None where there are none, or one step is left."""
        period = lcm(*(o.period for o in self._extents[span.start : span.stop]))
        return period if 1 < period < span.operators[-1].extents[dim] else None

    def late_inputs(self, segment: Segment) -> frozenset[str]:
        """Return what the sink reads when its sums are complete, once each, as a residual: it need
        not be on chip before."""
        extents, span = self._extents[segment.span.stop - 1], segment.span
        sums = {d for d, n in enumerate(extents.extents) if n > 1} - set(extents.reductions)
        once = {u.array for u in extents.uses if u.is_late and not u.is_write and sums <= u.dims}
        early = {
            use.array
            for operator in range(span.start, span.stop)
            for use in self._extents[operator].uses
            if operator < span.stop - 1 or not use.is_late
        }
        return frozenset(once - early - span.written - segment.resident)

    def coarse_tiles(
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

    def whole_inputs(self, segment: Segment) -> Iterator[LoopChoice]:
        """Yield one step for which inputs that chunks bring more than once, through two operands or
        with the borders that they share, are on chip as a whole."""
        reads = [use for use in self._extents[segment.span.start].uses if not use.is_write]
        names = [use.array for use in reads if use.array not in segment.resident]
        again = {name for name in names if names.count(name) > 1}
        again |= {u.array for u in reads if any(len(axis.terms) > 1 for axis in u.axes)}
        if again.intersection(names):
            yield (), frozenset(names) - again

    def rows_of_passes(self, segment: Segment) -> Iterator[LoopChoice]:
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
                yield loops, streams - segment.resident

    def blocks(self, segment: Segment, nest: Nest) -> Iterator[LoopChoice]:
        """Yield steps over blocks of a single sum of which all operands are streamed.

        A block is a chunk of `nest` or a little more: in a step its chunks are cut once more, and
        what smaller buffers of operands leave free is for sums.
        """
        sink, extents = segment.span.operators[0], self._extents[segment.span.start]
        parallel = [loop for loop in nest.chunks if loop.dim not in extents.reductions]
        if len(parallel) != 2 or len(parallel) == len(nest.chunks):
            return
        larger: list[tuple[int, ...]] = []
        for loop in parallel:
            tiles = balanced_tiles(sink.extents[loop.dim])[:-1]
            place = bisect_left(tiles, loop.tile)
            larger.append(tiles[place : place + LARGER_BLOCKS])
        inputs = segment.span.touched - segment.span.written - segment.resident
        dims = [loop.dim for loop in parallel]
        for tiles in product(*larger):
            loops = tuple(map(Loop, dims, tiles))
            if prod(-(-sink.extents[loop.dim] // loop.tile) for loop in loops) <= MAX_STEPS:
                yield loops, inputs

    def summed_blocks(self, segment: Segment) -> Iterator[LoopChoice]:
        """Yield steps over blocks of the sink's sums, and inside over what is summed up: a part of
        the values between, as channels, is made and added to a block's sums before the next part.

        What comes from DRAM comes again in every step, with the borders that blocks share.
        """
        span, sink = segment.span, segment.span.operators[-1]
        extents = self._extents[span.stop - 1]
        made = [use for use in extents.uses if use.array in span.written and not use.is_write]
        driven = [d for d in range(len(extents.extents)) if any(d in use.dims for use in made)]
        driven = [d for d in driven if d not in extents.uncut]
        sums = [d for d in driven if d in extents.reductions]
        rows = [d for d in driven if d not in extents.reductions]
        if len(sums) != 1 or len(rows) != 2 or segment.resident:
            return
        inputs = span.touched - span.written
        size = max(use.element_bytes for use in extents.uses if use.is_write)
        others = prod(sink.extents[d] for d in sink.parallels if d not in rows)
        for block in product(*(balanced_tiles(sink.extents[d])[-BLOCK_TILES:] for d in rows)):
            held = prod(block) * others * (extents.accumulator or size)
            if not self.capacity // SMALLEST_BLOCK <= held <= self.capacity:
                continue
            blocks = prod(-(-sink.extents[d] // t) for d, t in zip(rows, block, strict=True))
            parts = balanced_tiles(sink.extents[sums[0]])[:-1]
            few = [t for t in parts if blocks * -(-sink.extents[sums[0]] // t) <= MAX_FINE_STEPS]
            for part in few[:PART_TILES]:
                yield tuple(map(Loop, (*rows, *sums), (*block, part))), inputs

    def stream_choices(self, segment: Segment) -> Iterator[tuple[frozenset[str], int]]:
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


def wider_loops(sink: Operator, loops: tuple[Loop, ...]) -> list[tuple[Loop, ...]]:
    """Return the same loops with larger tiles, those of fewest steps first, down to what they are.

    Of one loop all of its tiles, of several a few of each.
    """
    if not loops:
        return [()]
    larger = [
        [tile for tile in balanced_tiles(sink.extents[loop.dim])[:-1] if tile >= loop.tile]
        for loop in loops
    ]
    few = int(WIDER_LOOPS ** (1 / len(loops)))
    choices = larger if len(loops) == 1 else [spread(tiles, few) for tiles in larger]
    found = [
        tuple(Loop(loop.dim, tile) for loop, tile in zip(loops, tiles, strict=True))
        for tiles in product(*choices)
    ]
    return sorted(found, key=lambda wider: _steps(sink, wider))


def _steps(sink: Operator, loops: Sequence[Loop]) -> int:
    return prod(-(-sink.extents[loop.dim] // loop.tile) for loop in loops)
