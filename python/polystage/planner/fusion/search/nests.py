"""The best ways to execute one operator chunk by chunk, for every capacity at once."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from math import prod

import numpy as np

from polystage.allocation import BUFFER_ALIGNMENT_BYTES
from polystage.planner.fusion.access_extents import OperatorExtents, Use
from polystage.planner.fusion.decisions import Loop, Nest

TILINGS = 16_000
"""How many tilings of one operator are compared, all orders of its loops together."""
MAX_LOOPS = 3
"""Dims that get a chunk loop beside those that run one by one: the longest. One more where
`MANY_TILINGS` are compared."""
MANY_TILINGS = 4 * TILINGS


@dataclass(frozen=True, slots=True)
class NestOption:
    """A nest, what it needs on chip, and what it moves."""

    bytes: int
    """Chunk buffers and accumulator."""
    traffic: int
    """DRAM bytes of streamed operands."""
    chunks: int
    """How often the innermost body runs."""
    late: int
    """The part of `traffic` that moves when sums are complete."""
    nest: Nest


@dataclass(frozen=True)
class Front:
    """Options of which none needs less and moves less than another, by rising bytes."""

    options: tuple[NestOption, ...]

    def within(self, capacity: int) -> NestOption | None:
        """Return the option that moves least among those that fit."""
        place = bisect_right(self.options, capacity, key=lambda option: option.bytes)
        return self.options[place - 1] if place else None


@cache
def nest_front(
    operator: OperatorExtents,
    box: tuple[int, ...],
    streamed: frozenset[int],
    tilings: int = TILINGS,
) -> Front:
    """Return the best nests for boxes of iterations of this size, by what they need.

    `streamed` are the operands (numbers of `operator.uses`) that are in DRAM; the others are on
    chip and cost nothing here.
    """
    if not any(not operator.uses[number].is_write for number in streamed):
        return Front((_least_nest(operator, box, streamed),))
    found = _sampled(operator, box, streamed, tilings)
    return Front(tuple(pareto([*found, _least_nest(operator, box, streamed)])))


def _least_nest(
    operator: OperatorExtents, box: tuple[int, ...], streamed: frozenset[int]
) -> NestOption:
    """Return what needs least: chunks of single iterations along all dims that are not summed up.

    Where all that is read is on chip, any nest moves the same.
    """
    cut = set(range(len(box))) - operator.uncut
    if not operator.scratch:
        cut -= set(operator.reductions)
    dims = tuple(sorted(cut, key=lambda dim: (dim in operator.reductions, dim)))
    tiles = [tiles_of(operator, dim, box)[:1] for dim in dims]
    return _Table.of(operator, box, streamed, dims, tiles).option(0)


def _sampled(
    operator: OperatorExtents, box: tuple[int, ...], streamed: frozenset[int], tilings: int
) -> list[NestOption]:
    """Return the best in any order of loops, of tiles that are spread over all there are, by rising
    bytes."""
    dims = chunked_dims(operator, box, streamed, MAX_LOOPS + (tilings >= MANY_TILINGS))
    orders = useful_orders(operator, dims, streamed)
    count = max(2, int((tilings / len(orders)) ** (1 / max(len(dims), 1))))
    tiles = {dim: spread(tiles_of(operator, dim, box), count) for dim in dims}
    choices = ((order, [tiles[dim] for dim in order]) for order in orders)
    return _front([_Table.of(operator, box, streamed, *choice) for choice in choices])


def _front(tables: Sequence["_Table"]) -> list[NestOption]:
    """Return the tilings of which none needs less and moves less than another, by rising bytes;
    the tables are of the same size."""
    columns = ((table.chunks, table.traffic, table.bytes) for table in tables)
    chunks, traffic, size = (np.concatenate(column) for column in zip(*columns, strict=True))
    by_need = np.lexsort((chunks, traffic, size))
    least = np.minimum.accumulate(traffic[by_need])
    improves = np.append(True, least[1:] < least[:-1])
    places = (divmod(place, len(tables[0].bytes)) for place in by_need[improves].tolist())
    return [tables[number].option(row) for number, row in places]


def best_nest(
    operator: OperatorExtents,
    box: tuple[int, ...],
    streamed: frozenset[int],
    capacity: int,
    tilings: int = TILINGS,
) -> NestOption | None:
    """Return the nest that moves least in `capacity` bytes, of these the one with fewest chunks.

    Searches around the best of `nest_front` with every tile in reach.
    """
    options = _sampled(operator, box, streamed, tilings)
    options += nest_front(operator, box, streamed, tilings).options
    fitting = [option for option in options if option.bytes <= capacity]
    if not fitting:
        return None
    best = min(fitting, key=lambda option: (option.traffic, option.chunks))
    dims = tuple(loop.dim for loop in best.nest.chunks)
    for order in useful_orders(operator, dims, streamed):
        best = _refined(operator, box, streamed, capacity, order, best)
    return best


def _refined(
    operator: OperatorExtents,
    box: tuple[int, ...],
    streamed: frozenset[int],
    capacity: int,
    order: tuple[int, ...],
    best: NestOption,
) -> NestOption:
    """Improve an option in one order of loops until no tile in its neighbourhood is better."""
    while order:
        tiles = {loop.dim: loop.tile for loop in best.nest.chunks}
        count = max(3, int(TILINGS ** (1 / len(order))) // 2)
        around = [
            neighbours(tiles_of(operator, d, box), tiles.get(d, box[d]), count) for d in order
        ]
        table = _Table.of(operator, box, streamed, order, around)
        fits = np.flatnonzero(table.bytes <= capacity)
        if not len(fits):
            return best
        keys = (table.chunks[fits], table.traffic[fits])
        row = int(fits[np.lexsort(keys)[0]])
        found = table.option(row)
        if (found.traffic, found.chunks) >= (best.traffic, best.chunks):
            break
        best = found
    return best


def pareto(options: Sequence[NestOption]) -> list[NestOption]:
    """Return the options of which none needs less and moves less, by rising bytes."""
    kept: list[NestOption] = []
    for option in sorted(options, key=lambda o: (o.bytes, o.traffic, o.chunks)):
        if not kept or option.traffic < kept[-1].traffic:
            kept.append(option)
    return kept


# --- what is tried --------------------------------------------------------------------------------


def chunked_dims(
    operator: OperatorExtents, box: tuple[int, ...], streamed: frozenset[int], count: int
) -> tuple[int, ...]:
    """Return the dims that get a loop, the longest ones.

    The taps of a filter stay together. Where all operands are on chip, only what is accumulated
    counts.
    """
    if not streamed and operator.accumulator is None and not operator.scratch:
        return ()
    dims = [d for d, extent in enumerate(box) if extent > 1 and d not in operator.uncut]
    if not streamed and not operator.scratch:
        dims = [d for d in dims if d not in operator.reductions]
    dims.sort(key=lambda d: (d not in operator.one_by_one, -box[d]))
    return tuple(sorted(dims[: count + len(operator.one_by_one.intersection(dims))]))


def useful_orders(
    operator: OperatorExtents, dims: tuple[int, ...], streamed: frozenset[int]
) -> list[tuple[int, ...]]:
    """Return the orders of loops that may move different bytes.

    They are all the same where every streamed operand depends on every dim; dims that the same
    operands depend on need no exchange. What runs one by one stays outside.
    """
    depends = [operator.uses[number].dims for number in streamed]
    if all(used >= set(dims) for used in depends) and not set(dims) & set(operator.reductions):
        return [dims]
    outer = tuple(dim for dim in dims if dim in operator.one_by_one)
    roles = {dim: tuple(dim in use.dims for use in operator.uses) for dim in dims}
    orders = [outer + rest for rest in permutations(d for d in dims if d not in outer)]
    return [order for order in orders if _is_canonical([roles[dim] for dim in order], order)]


def _is_canonical(roles: Sequence[object], order: tuple[int, ...]) -> bool:
    """Tell whether dims that all operands depend on alike stand in their own order."""
    last: dict[object, int] = {}
    for role, dim in zip(roles, order, strict=True):
        if last.get(role, -1) > dim:
            return False
        last[role] = dim
    return True


def tiles_of(operator: OperatorExtents, dim: int, box: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tiles of a dim that are compared."""
    if dim in operator.one_by_one:
        return (1,)
    granule = dict(operator.granules).get(dim, 1)
    if granule == 1 or box[dim] % granule:
        return balanced_tiles(box[dim])
    return tuple(granule * tile for tile in balanced_tiles(box[dim] // granule))


@cache
def balanced_tiles(extent: int) -> tuple[int, ...]:
    """Return the tiles that are smallest for their number of iterations, rising.

    >>> balanced_tiles(7)
    (1, 2, 3, 4, 7)
    """
    return tuple(sorted({-(-extent // trips) for trips in range(1, extent + 1)}))


def spread(values: Sequence[int], count: int) -> tuple[int, ...]:
    """Return `count` of the values, evenly, the first and the last among them."""
    if len(values) <= count:
        return tuple(values)
    return tuple(values[place] for place in _even_places(len(values), max(count, 2)))


@cache
def _even_places(length: int, count: int) -> tuple[int, ...]:
    places = np.linspace(0, length - 1, count).round().astype(int)
    return tuple(np.unique(places).tolist())


def neighbours(values: Sequence[int], value: int, count: int) -> tuple[int, ...]:
    """Return up to `count` values around `value`."""
    place = bisect_right(values, value)
    low = max(0, min(place - count // 2, len(values) - count))
    return tuple(values[low : low + count])


# --- what it needs and moves ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """One order of loops and all combinations of some tiles: what each needs and moves.

    Rows are combinations, the tiles of the innermost loop changing fastest.
    """

    box: tuple[int, ...]
    order: tuple[int, ...]
    tiles: Sequence[Sequence[int]]
    """The tiles of each loop."""
    bytes: np.ndarray
    traffic: np.ndarray
    chunks: np.ndarray
    late: np.ndarray

    @classmethod
    def of(
        cls,
        operator: OperatorExtents,
        box: tuple[int, ...],
        streamed: frozenset[int],
        order: tuple[int, ...],
        tiles: Sequence[Sequence[int]],
    ) -> "_Table":
        # every array here has an axis per loop, of length 1 where it does not depend on its tile
        chunk: list[np.ndarray | int] = list(box)
        for dim, column in zip(order, np.ix_(*tiles), strict=True):
            chunk[dim] = column
        trips = [-(-box[dim] // chunk[dim]) for dim in order]
        widened = _widened(operator, box, order, chunk)
        need: np.ndarray | int = 0
        traffic: np.ndarray | int = 0
        late: np.ndarray | int = 0
        for number in streamed:
            use = operator.uses[number]
            moved = _repeats(operator, use, order, trips) * _elements(use, box, order, chunk)
            traffic = traffic + moved * use.element_bytes
            if use.is_late:
                late = late + moved * use.element_bytes
            held = widened if use.is_write and operator.accumulator is None else chunk
            need = need + _aligned(use.largest(held) * use.element_bytes)
        if operator.accumulator is not None:
            sums = prod(widened[dim] for dim in range(len(box)) if dim not in operator.reductions)
            need = need + _aligned(sums * operator.accumulator)
        for scratch in operator.scratch:
            extents = widened if scratch.is_kept else chunk
            cells = prod(extents[dim] for dim in scratch.dims)
            need = need + _aligned(cells * scratch.element_bytes)
        shape = tuple(map(len, tiles))
        columns = (np.broadcast_to(c, shape).ravel() for c in (need, traffic, prod(trips), late))
        return cls(box, order, tiles, *columns)

    def option(self, row: int) -> NestOption:
        """Return one tiling as a nest, without the loops that run once."""
        places = np.unravel_index(row, tuple(map(len, self.tiles)))
        tiles = (column[int(place)] for column, place in zip(self.tiles, places, strict=True))
        pairs = zip(self.order, tiles, strict=True)
        loops = (Loop(d, t) for d, t in pairs if t < self.box[d])
        columns = (self.bytes, self.traffic, self.chunks, self.late)
        size, traffic, chunks, late = (int(column[row]) for column in columns)
        return NestOption(size, traffic, chunks, late, Nest(tuple(loops)))


def _widened(
    operator: OperatorExtents,
    box: tuple[int, ...],
    order: tuple[int, ...],
    chunk: Sequence[np.ndarray | int],
) -> list[np.ndarray | int]:
    """Return the extents of what is accumulated at once: parallel loops inside of a reduction loop
    (one that runs more than once) leave all of their dim in the making."""
    widened = list(chunk)
    in_reduction: np.ndarray | bool = False
    for dim in order:
        if dim in operator.reductions:
            in_reduction = in_reduction | (np.asarray(chunk[dim]) < box[dim])
        else:
            widened[dim] = np.where(in_reduction, box[dim], chunk[dim])
    return widened


def _repeats(
    operator: OperatorExtents, use: Use, order: tuple[int, ...], trips: Sequence[np.ndarray | int]
) -> np.ndarray | int:
    """Return how often the same elements move: once per iteration of the loops outside of the
    innermost that they depend on, which runs more than once."""
    repeats: np.ndarray | int = 1
    inside: np.ndarray | bool = False  # whether a loop further in makes it move again
    for dim, times in zip(reversed(order), reversed(trips), strict=True):
        if dim in use.dims:
            inside = inside | (np.asarray(times) > 1)
        elif inside is not False and not (use.is_late and dim in operator.reductions):
            repeats = repeats * np.where(inside, times, 1)
    return repeats


def _elements(
    use: Use, box: tuple[int, ...], order: tuple[int, ...], chunk: Sequence[np.ndarray | int]
) -> np.ndarray | int:
    """Return the sum of elements over the chunks that differ."""
    total: np.ndarray | int = 1
    for axis in use.axes:
        looped = [dim for dim in axis.dims if dim in order]
        if len(looped) == 1:
            tiles = np.asarray(chunk[looped[0]])
            total = total * axis.totals(looped[0], box, tiles.ravel()).reshape(tiles.shape)
            continue
        extents: list[np.ndarray | int] = list(box)
        for dim in looped:
            extents[dim] = chunk[dim]
            total = total * -(-box[dim] // chunk[dim])
        total = total * axis.largest(extents)
    return total


def _aligned(sizes: np.ndarray | int) -> np.ndarray | int:
    """Return sizes as buffers have them."""
    return -(-sizes // BUFFER_ALIGNMENT_BYTES) * BUFFER_ALIGNMENT_BYTES
