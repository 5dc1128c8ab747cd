"""How one operator executes boxes of its iterations chunk by chunk: buffers, and bytes that move.

Chunk loops run in the order of the nest. Where parallel loops stand inside of a reduction loop,
sums of all their chunks are under way at once; when these are complete, the parallel loops run once
more, with epilogue and stores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polystage.errors import PlanError
from polystage.planner.fusion.attention.operator import Attention, check_attention_nest
from polystage.planner.fusion.boxes import BoxMap, OperatorMaps, from_ranges, lengths, volumes
from polystage.planner.fusion.buffers import Buffer, Purpose
from polystage.planner.fusion.decisions import Loop, Nest, Place
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.program import Program


@dataclass(frozen=True)
class NestPieces:
    """How an operator executes boxes of its iterations under a nest."""

    chunk: np.ndarray
    """[boxes, dims]: extents of a full chunk."""
    trips: np.ndarray
    """[boxes, loops]: how often each chunk loop runs, the last time perhaps for less."""
    accumulator: np.ndarray
    """[boxes, parallel dims]: over what sums run at once: of a dim that is looped inside of a
    reduction loop all of the box, of others the chunk."""


def nest_pieces(operator: Operator, nest: Nest, boxes: np.ndarray) -> NestPieces:
    """Return how `boxes` (int64 [boxes, dims, 2] of start and stop) are executed.

    Raises: PlanError for a nest that the operator cannot have.
    """
    check_nest(operator, nest)
    sizes = boxes[..., 1] - boxes[..., 0]
    if isinstance(operator, Attention) and len(boxes):
        check_attention_nest(operator, nest, sizes.max(axis=0).tolist())
    chunk, region = sizes.copy(), sizes.copy()
    trips = np.ones((*sizes.shape[:-1], len(nest.chunks)), dtype=np.int64)
    outer = region_loops(operator, nest)
    for place, loop in enumerate(nest.chunks):
        chunk[..., loop.dim] = np.minimum(sizes[..., loop.dim], loop.tile)
        trips[..., place] = -(-sizes[..., loop.dim] // loop.tile)
        if loop in outer:
            region[..., loop.dim] = chunk[..., loop.dim]
    return NestPieces(chunk, trips, region[..., list(operator.parallels)])


def check_nest(operator: Operator, nest: Nest) -> None:
    """Refuse loops over dims that there are not, twice over one dim, or in steps below 1.

    Raises: PlanError.
    """
    rank = len(operator.extents)
    dims = [loop.dim for loop in nest.chunks]
    if any(not 0 <= dim < rank for dim in dims) or len(set(dims)) < len(dims):
        raise PlanError(
            f"'{operator.name}' has dims 0 to {rank - 1}, but its chunk loops run over {dims}",
            help="give each chunk loop a dim of its own",
        )
    for loop in nest.chunks:
        if loop.tile < 1:
            raise PlanError(
                f"a chunk of '{operator.name}' has {loop.tile} iterations of dim {loop.dim}",
                help="choose a tile of at least 1",
            )


def region_loops(operator: Operator, nest: Nest) -> tuple[Loop, ...]:
    """Return the parallel chunk loops outside of all reduction loops: what one of their iterations
    covers is accumulated at once."""
    found: list[Loop] = []
    for loop in nest.chunks:
        if operator.iterators[loop.dim] == "reduction":
            return tuple(found)
        found.append(loop)
    return tuple(found)


def nest_buffers(
    program: Program,
    operator: Operator,
    nest: Nest,
    boxes: np.ndarray,
    places: Mapping[str, Place],
) -> tuple[Buffer, ...]:
    """Return the chunk buffers, the accumulator and the scratch of one operator, each large enough
    for all `boxes`; lifetimes are `(0, 0)`.

    Raises: PlanError for a nest that the operator cannot have.
    """
    return Execution(program, operator, nest, boxes, places).buffers()


def nest_traffic(
    program: Program,
    operator: Operator,
    nest: Nest,
    boxes: np.ndarray,
    places: Mapping[str, Place],
    completing: np.ndarray | None = None,
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes that streamed arrays bring and take, exactly, over all `boxes`.

    A streamed operand is loaded in the innermost chunk loop that it depends on, again in each
    iteration of it; borders are clipped, remainders are as small as they are. Operands of the
    epilogue and the output move once per chunk of the parallel dims, when its sums are complete:
    in those boxes that `completing` says, or all.

    Raises: PlanError for a nest that the operator cannot have.
    """
    return Execution(program, operator, nest, boxes, places).traffic(completing)


@dataclass
class Execution:
    """All executions of an operator in a group."""

    program: Program
    operator: Operator
    nest: Nest
    boxes: np.ndarray
    places: Mapping[str, Place]

    def __post_init__(self) -> None:
        self.pieces = nest_pieces(self.operator, self.nest, self.boxes)
        self.maps: OperatorMaps = self.program.maps(self.operator)
        loops = self.nest.chunks
        kinds = self.operator.iterators
        self.parallel = tuple(loop for loop in loops if kinds[loop.dim] != "reduction")

    def _streamed_reads(self) -> list[tuple[int, str, BoxMap, Sequence[Loop]]]:
        """Return index, array, map, and loops inside of which it moves, of each streamed read."""
        found: list[tuple[int, str, BoxMap, Sequence[Loop]]] = []
        for index, access in enumerate(self.operator.reads):
            if self.places.get(access.array) is Place.STREAMED:
                loops = self.parallel if self.maps.ends[index] else self.nest.chunks
                found.append((index, access.array, self.maps.reads[index], loops))
        return found

    def _is_gathered(self, index: int) -> bool:
        gathers = self.operator.kind is OperatorKind.GATHER
        return gathers and self.operator.reads[index].exprs is None

    def buffers(self) -> tuple[Buffer, ...]:
        """Return chunks, running results and scratch."""
        return (*self.read_chunks(), *self.results(), *self.scratch())

    def read_chunks(self) -> list[Buffer]:
        """Return a buffer for every streamed read that happens; what is gathered has none."""
        found: list[Buffer] = []
        for index, array, form, loops in self._streamed_reads():
            if self._is_gathered(index):
                continue
            shape = Chunks(form, loops, self.boxes).largest()
            if min(shape, default=1) > 0:
                found.append(self._chunk(array, shape, index))
        return found

    def results(self) -> list[Buffer]:
        """Return the buffers of streamed outputs, and that of running results beside the output."""
        found: list[Buffer] = []
        sums = bool(self.operator.reductions) and self.operator.accumulator is None
        for access, form in zip(self.operator.writes, self.maps.writes, strict=True):
            if self.places.get(access.array) is Place.STREAMED:
                loops = region_loops(self.operator, self.nest) if sums else self.parallel
                found.append(self._chunk(access.array, Chunks(form, loops, self.boxes).largest()))
        if self.operator.accumulator is not None:
            shape = self.pieces.accumulator.max(axis=0)
            size = self.operator.accumulator
            found.append(Buffer(Purpose.ACCUMULATOR, None, (0, 0), tuple(shape.tolist()), size))
        return found

    def scratch(self) -> list[Buffer]:
        """Return what else the operator needs for a chunk."""
        chunk = self.pieces.chunk.max(axis=0).tolist()
        region = list(chunk)
        for dim, extent in zip(
            self.operator.parallels, self.pieces.accumulator.max(axis=0).tolist(), strict=True
        ):
            region[dim] = extent
        found: list[Buffer] = []
        for scratch in self.operator.scratch:
            extents = region if scratch.is_kept else chunk
            shape = tuple(extents[dim] for dim in scratch.dims)
            found.append(Buffer(Purpose.SCRATCH, None, (0, 0), shape, scratch.element_bytes))
        return found

    def _chunk(self, array: str, shape: tuple[int, ...], access: int | None = None) -> Buffer:
        size = self.program.arrays[array].element_bytes
        return Buffer(Purpose.CHUNK, array, (0, 0), shape, size, access)

    def traffic(self, completing: np.ndarray | None) -> tuple[dict[str, int], dict[str, int]]:
        """Return bytes read and written, by array."""
        ending = self.boxes if completing is None else self.boxes[completing]
        read: dict[str, int] = {}
        for index, array, form, loops in self._streamed_reads():
            boxes = ending if self.maps.ends[index] else self.boxes
            if self._is_gathered(index):
                count = int(volumes(from_ranges(boxes)).sum())
            else:
                count = Chunks(form, loops, boxes).elements()
            self._add(read, array, count)
        written: dict[str, int] = {}
        results = from_ranges(ending)[..., list(self.operator.parallels), :]
        for access, form in zip(self.operator.writes, self.maps.writes, strict=True):
            if self.places.get(access.array) is Place.STREAMED:
                count = int(volumes(results).sum()) if access.exprs else int(np.prod(form.shape))
                self._add(written, access.array, count)
        return read, written

    def _add(self, total: dict[str, int], array: str, elements: int) -> None:
        size = self.program.arrays[array].element_bytes
        total[array] = total.get(array, 0) + elements * size


class Chunks:
    """The parts of an operand that the chunks of boxes touch, without enumerating all of them.

    Axes whose indices have no looped dim in common go through their parts independently: the
    elements of all parts are the product of what each such set of axes sums up to.
    """

    def __init__(self, form: BoxMap, loops: Sequence[Loop], boxes: np.ndarray) -> None:
        self._form = form
        self._boxes = boxes
        used = frozenset[int]().union(*form.dims) if form.dims else frozenset[int]()
        depth = max((place + 1 for place, loop in enumerate(loops) if loop.dim in used), default=0)
        self._loops = {loop.dim: loop.tile for loop in loops[:depth]}
        self._used = used
        self._sets = self._independent_axes()

    def _independent_axes(self) -> list[tuple[set[int], set[int]]]:
        """Return sets of axes with the looped dims that they depend on."""
        sets: list[tuple[set[int], set[int]]] = []
        for axis, dims in enumerate(self._form.dims):
            axes, looped = {axis}, set(dims & self._loops.keys())
            apart: list[tuple[set[int], set[int]]] = []
            for other in sets:
                if other[1] & looped:
                    axes, looped = axes | other[0], looped | other[1]
                else:
                    apart.append(other)
            sets = [*apart, (axes, looped)]
        return sets

    def _lengths(self, looped: set[int]) -> np.ndarray:
        """Return [boxes, chunk 0, chunk 1, .., axes] for chunks along some dims, others whole."""
        dims = sorted(looped)
        ranges = self._boxes.reshape(len(self._boxes), *(1,) * len(dims), *self._boxes.shape[1:])
        for place, dim in enumerate(dims):
            tile = self._loops[dim]
            sizes = self._boxes[:, dim, 1] - self._boxes[:, dim, 0]
            count = int(-(-sizes.max(initial=0) // tile))
            along = [1] * (len(dims) + 1)
            along[place + 1] = count
            ranges = np.repeat(ranges, count, axis=place + 1)
            starts = ranges[..., dim, 0] + tile * np.arange(count).reshape(along)
            ranges[..., dim, 1] = np.minimum(starts + tile, ranges[..., dim, 1])
            ranges[..., dim, 0] = np.minimum(starts, ranges[..., dim, 1])
        return np.maximum(lengths(self._form.image(from_ranges(ranges))), 0)

    def largest(self) -> tuple[int, ...]:
        """Return the largest extent along each axis."""
        shape = [0] * len(self._form.shape)
        for axes, looped in self._sets:
            found = self._lengths(looped)
            for axis in axes:
                shape[axis] = int(found[..., axis].max(initial=0))
        return tuple(shape)

    def elements(self) -> int:
        """Return the elements of all parts, as often as they are loaded."""
        total = np.ones(len(self._boxes), dtype=np.int64)
        for dim, tile in self._loops.items():
            if dim not in self._used:
                total *= -(-(self._boxes[:, dim, 1] - self._boxes[:, dim, 0]) // tile)
        for axes, looped in self._sets:
            parts = self._lengths(looped)[..., sorted(axes)].prod(axis=-1)
            total *= parts.reshape(len(self._boxes), -1).sum(axis=-1)
        return int(total.sum())
