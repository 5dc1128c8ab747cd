"""Executes a box of an operator's iterations chunk by chunk, and moves what is streamed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from polystage.dtypes import byte_width
from polystage.linear import Linear
from polystage.mlir import ir
from polystage.passes.lower.flat.chunk import Chunk, Location, parallel_indices
from polystage.passes.lower.flat.engine import Engine
from polystage.passes.lower.flat.forms import Indices, Operand, OperatorForm
from polystage.passes.lower.flat.indices import Index
from polystage.passes.lower.flat.pieces import Axis, Piece, Refined, refine, resolve, shown
from polystage.passes.lower.flat.transfers import Box, hull, move, move_piece
from polystage.passes.lower.flat.writer import FlatWriter
from polystage.planner.fusion.buffers import Buffer, Purpose
from polystage.planner.fusion.decisions import Loop


@dataclass(frozen=True)
class Memory:
    """Where the arrays of a program are: on chip, if present, and in DRAM."""

    on_chip: Mapping[str, Location]
    in_dram: Mapping[str, Location]
    causes: Mapping[str, str]
    """Why the bytes of an array move."""


@dataclass(frozen=True)
class Hints:
    """Where the planner placed the buffers of one operator."""

    chunks: Mapping[tuple[str, int | None], int]
    """By array, and number of the read, or None for what is written."""
    sums: int | None
    scratch: Sequence[int]

    @classmethod
    def of(cls, placed: Sequence[tuple[Buffer, int]]) -> Hints:
        """Return the hints of an operator's buffers and their addresses."""
        by_purpose = {
            purpose: [p for p in placed if p[0].purpose is purpose] for purpose in Purpose
        }
        chunks = {(b.array or "", b.access): at for b, at in by_purpose[Purpose.CHUNK]}
        sums = next((at for _, at in by_purpose[Purpose.ACCUMULATOR]), None)
        return cls(chunks, sums, [at for _, at in by_purpose[Purpose.SCRATCH]])


@dataclass(frozen=True)
class _State:
    """What is fixed at a point of the nest: the box, and what lies on chip for it."""

    starts: tuple[Linear, ...]
    sizes: tuple[int, ...]
    places: Mapping[int, Location]
    is_first: bool
    sums: Location | None = None
    scratch: tuple[Location, ...] = field(default=())

    def at(self, dim: int, start: Linear, size: int, is_first: bool) -> _State:
        """Return the state in one tile of a dim."""
        return replace(
            self,
            starts=(*self.starts[:dim], start, *self.starts[dim + 1 :]),
            sizes=(*self.sizes[:dim], size, *self.sizes[dim + 1 :]),
            is_first=self.is_first and is_first,
        )


class NestWriter:
    """Writes executions of one operator.

    Loops outside of all reduction loops bound a region, whose running result is on chip. In it all
    chunks contribute; then the parallel loops that are inside of reduction loops run once more, for
    the epilogue and the output.
    """

    def __init__(
        self,
        writer: FlatWriter,
        form: OperatorForm,
        engine: Engine,
        chunks: Sequence[Loop],
        memory: Memory,
        hints: Hints,
    ) -> None:
        self.writer = writer
        self.form = form
        self.engine = engine
        self.chunks = tuple(chunks)
        self.memory = memory
        self.hints = hints
        reductions = form.operator.reductions
        self.inner = next(
            (i for i, loop in enumerate(chunks) if loop.dim in reductions), len(chunks)
        )
        parallel = [loop for loop in self.chunks[self.inner :] if loop.dim not in reductions]
        self.last = tuple(parallel)
        """The loops of the epilogue inside of a region."""

    def run(
        self,
        box: Box,
        is_first: bool = True,
        is_last: bool = True,
        kept: Location | None = None,
    ) -> None:
        """Execute a box.

        `is_first` and `is_last` say whether accumulation starts and ends with it; `kept` holds the
        running result from box to box, beside the output or in its place.
        """
        self.is_last = is_last
        on_chip = self.memory.on_chip
        count = len(self.form.operator.reads) + len(self.form.operator.writes)
        arrays = {n: self.form.array(n) for n in range(count)}
        places = {n: on_chip[name] for n, name in arrays.items() if name in on_chip}
        for number, read in enumerate(self.form.operator.reads):
            if read.exprs is None and number not in places:  # a table that is looked up where it is
                places[number] = self.memory.in_dram[arrays[number]]
        sums = None
        if kept is not None and self.form.operator.accumulator is not None:
            sums = kept
        elif kept is not None:
            places[self.form.output()] = kept
        state = _State(box.starts, box.sizes, places, is_first, sums)
        self._outer(self._load_operands(state, 0), 0)

    # --- the nest ---------------------------------------------------------------------------------

    def _outer(self, state: _State, depth: int) -> None:
        """Write the loops around regions."""
        if depth == self.inner:
            self._region(state)
            return
        for tile in self._tiles(state, self.chunks[depth]):
            self._outer(self._load_operands(tile, depth + 1), depth + 1)

    def _region(self, state: _State) -> None:
        state = self._with_result(state)
        self.engine.begin(self._chunk(state))
        self._contributions(state, self.inner)
        if self.is_last:
            self._finish(state, 0)

    def _contributions(self, state: _State, depth: int) -> None:
        if depth == len(self.chunks):
            self.engine.contribute(self._chunk(state))
            return
        for tile in self._tiles(state, self.chunks[depth]):
            self._contributions(self._load_operands(tile, depth + 1), depth + 1)

    def _finish(self, state: _State, depth: int) -> None:
        if depth < len(self.last):
            for tile in self._tiles(state, self.last[depth]):
                self._finish(self._load_late(tile, depth), depth + 1)
            return
        state = self._with_output(state)
        chunk = self._chunk(state)
        self.engine.finish(chunk)
        self._store(chunk)

    def _chunk(self, state: _State) -> Chunk:
        return Chunk(
            self.form,
            state.starts,
            state.sizes,
            self.writer.ranges,
            state.is_first,
            state.places,
            state.sums,
            state.scratch,
        )

    # --- buffers ----------------------------------------------------------------------------------

    def _with_result(self, state: _State) -> _State:
        """Reserve what a region accumulates into: sums, or the output where that serves."""
        operator = self.form.operator
        if operator.accumulator is not None and state.sums is None:
            dims = operator.parallels
            sizes = [state.sizes[d] for d in dims]
            type_ = self.accumulator_type(operator.accumulator)
            storage = self.writer.alloc(sizes, type_, self.hints.sums)
            starts = [state.starts[d] for d in dims]
            state = replace(state, sums=Location.box(storage, starts, sizes))
        state = replace(state, scratch=tuple(self._scratch(state)))
        return self._with_output(state) if state.sums is None else state

    def accumulator_type(self, element_bytes: int) -> ir.Type:
        """Return the type of running results: the one in which they are written, if that is wide
        enough."""
        op = self.form.operator.statements[0].op
        written = ir.MemRefType(op.operands[len(op.operands) - 1].type).element_type
        return written if byte_width(written) == element_bytes else self.sums_type(element_bytes)

    def sums_type(self, element_bytes: int) -> ir.Type:
        """Return the type of running results beside the output."""
        output = self.memory.in_dram[self.form.array(self.form.output())].storage.element_type
        with output.context:
            if isinstance(output, ir.FloatType):
                if output.width == 8 * element_bytes:
                    return output
                return {4: ir.F32Type, 8: ir.F64Type}[element_bytes].get()
            return ir.IntegerType.get_signless(8 * element_bytes)

    def _scratch(self, state: _State) -> Iterator[Location]:
        tiles = {loop.dim: loop.tile for loop in self.chunks}
        hints = self.hints.scratch or [None] * len(self.form.operator.scratch)
        for scratch, hint in zip(self.form.operator.scratch, hints, strict=True):
            sizes = [state.sizes[d] for d in scratch.dims]
            starts = [state.starts[d] for d in scratch.dims]
            if not scratch.is_kept:  # anew for every chunk, whose start takes the place of zero
                sizes = [min(tiles.get(d, state.sizes[d]), state.sizes[d]) for d in scratch.dims]
                starts = [Linear()] * len(sizes)
            storage = self.writer.alloc(sizes, self.sums_type(scratch.element_bytes), hint)
            yield Location.box(storage, starts, sizes)

    def _with_output(self, state: _State) -> _State:
        """Reserve the part of a streamed output that a chunk makes."""
        places = dict(state.places)
        for number, indices in enumerate(self.form.writes):
            access = self.form.output(number)
            if access in places:
                continue
            box = hull([self._chunk(state).piece], indices)
            assert box is not None
            places[access] = self._reserve(access, box)
        return replace(state, places=places)

    def _reserve(self, access: int, box: Box) -> Location:
        name = self.form.array(access)
        is_read = access < len(self.form.operator.reads)
        hint = self.hints.chunks.get((name, access if is_read else None))
        element = self.memory.in_dram[name].storage.element_type
        storage = self.writer.alloc(box.sizes, element, hint)
        return Location.box(storage, box.starts, box.sizes)

    # --- transfers --------------------------------------------------------------------------------

    def _load_operands(self, state: _State, depth: int) -> _State:
        """Load what depends on the loop before `depth`, and on none inside of it."""
        for operand in self.form.operands:
            is_late = self.form.is_late(operand)
            loops = self.chunks[: self.inner] if is_late else self.chunks
            for access in (a.access for a in operand.alternatives):
                if is_late and not (self.is_last and self._late_depth(access) is None):
                    continue
                dims = self.form.dims(access)
                needed = max((i + 1 for i, x in enumerate(loops) if x.dim in dims), default=0)
                if needed == depth:
                    state = self._load(state, operand, access)
        return state

    def _load_late(self, state: _State, depth: int) -> _State:
        """Load what only the epilogue reads in its loop `depth`."""
        for operand in self.form.operands:
            if self.form.is_late(operand):
                for alternative in operand.alternatives:
                    if self._late_depth(alternative.access) == depth:
                        state = self._load(state, operand, alternative.access)
        return state

    def _late_depth(self, access: int) -> int | None:
        """Return the innermost loop of the epilogue that an access depends on."""
        dims = self.form.dims(access)
        return max((i for i, loop in enumerate(self.last) if loop.dim in dims), default=None)

    def _load(self, state: _State, operand: Operand, access: int) -> _State:
        """Bring what the present box touches of an access, if it is not on chip."""
        if access in state.places:
            return state
        indices = next(a.indices for a in operand.alternatives if a.access == access)
        touched: list[Piece] = []
        for piece, found in refine(
            self._chunk(state).piece, lambda p: shown(operand.alternatives, p)
        ):
            if found is not None and found.access == access:
                touched.append(piece)
        box = hull(touched, indices)
        if box is None:
            return state
        location = self._reserve(access, box)
        name = self.form.array(access)
        move(self.writer, box, self.memory.in_dram[name], location, self.memory.causes[name])
        places = {**state.places, access: location}
        for output in self._outputs_over(operand):
            places[output] = location
        return replace(state, places=places)

    def _outputs_over(self, operand: Operand) -> Iterator[int]:
        """Yield the output that replaces what an operand reads: they share a chunk."""
        op = self.form.operator.statements[-1].op
        first = len(op.operands) - len(self.form.writes)
        if operand.source.op == op and (operand.source.operand or 0) >= first:
            yield self.form.output((operand.source.operand or 0) - first)

    def _store(self, chunk: Chunk) -> None:
        """Store what a chunk made of streamed outputs."""
        flat = chunk.with_sizes(dict.fromkeys(self.form.operator.reductions, 1))
        for number, indices in enumerate(self.form.writes):
            access = self.form.output(number)
            name = self.form.array(access)
            if name in self.memory.on_chip:
                continue
            move_piece(
                self.writer,
                flat.piece,
                indices,
                chunk.places[access],
                self.memory.in_dram[name],
                self.memory.causes[name],
            )

    # --- loops ------------------------------------------------------------------------------------

    def _tiles(self, state: _State, loop: Loop) -> Iterator[_State]:
        """Yield the state in every tile of a loop; tiles that are written alike share a loop.

        Not alike are the first tile of a reduction, tiles that are smaller, and those in which
        addresses are not linear: at a border, or where a window wraps.
        """
        dim, extent = loop.dim, state.sizes[loop.dim]
        start = state.starts[dim]
        is_reduction = dim in self.form.operator.reductions
        tiles = [(at, min(loop.tile, extent - at)) for at in range(0, extent, loop.tile)]
        checks = self._checks(state, dim)
        is_even = all(
            index.advance(dim, loop.tile) is not None
            for access in range(self.form.output(len(self.form.writes)))
            for index in self.form.all_indices(access)
        )

        def kind(tile: tuple[int, int]) -> tuple[int, bool, Hashable]:
            at, size = tile
            opens = is_reduction and at == 0 and state.is_first
            inside = state.at(dim, start + at, size, True)
            return size, opens, _pattern(checks, self._chunk(inside).piece) if checks else ()

        for (size, opens, pattern), run in groupby(tiles, kind):
            same = list(run)
            is_first = opens or not is_reduction
            if len(same) > 1 and pattern is not None and is_even:
                with self.writer.loop(len(same)) as variable:
                    at = start + same[0][0] + variable * loop.tile
                    yield state.at(dim, at, size, is_first)
                continue
            for at, _ in same:
                yield state.at(dim, start + at, size, is_first)

    def _checks(self, state: _State, dim: int) -> list[Callable[[Piece], Hashable]]:
        """Return what may change from tile to tile of a dim: which array an operand shows, where
        windows wrap, digits of indices."""
        checks: list[Callable[[Piece], Hashable]] = []
        for operand in self.form.operands:
            for alternative in operand.alternatives:
                checks += [c.holds for c in alternative.conditions if dim in c.index.variables]
                location = state.places.get(alternative.access)
                checks += _index_checks(alternative.indices, location, dim)
        for number, indices in enumerate(self.form.writes):
            checks += _index_checks(indices, state.places.get(self.form.output(number)), dim)
        if state.sums is not None:
            checks += _index_checks(parallel_indices(self.form), state.sums, dim)
        return checks


def _index_checks(
    indices: Indices, location: Location | None, dim: int
) -> list[Callable[[Piece], Hashable]]:
    if not indices:  # of one element, or looked up where the data says
        return []
    axes = location.axes if location is not None else [Axis(1)] * len(indices)
    found: list[Callable[[Piece], Hashable]] = []
    for index, axis in zip(indices, axes, strict=True):
        if dim not in index.variables:
            continue
        if axis.extent is not None:
            found.append(_Block(index, axis.extent))
        elif index.digits:
            found.append(_Block(index, None))
    return found


@dataclass(frozen=True)
class _Block:
    """Which round of a circular window a piece lies in."""

    index: Index
    extent: int | None

    def __call__(self, piece: Piece) -> Hashable:
        form = resolve(self.index, piece)
        if self.extent is None:
            return 0
        low, high = form.range(piece.ranges)
        if low // self.extent != high // self.extent:
            raise piece.cut_where(form, (low // self.extent + 1) * self.extent)
        return low // self.extent


def _pattern(checks: Sequence[Callable[[Piece], Hashable]], piece: Piece) -> Hashable | None:
    """Return what all checks say of a piece, or None where one would have to cut it."""
    found: list[Hashable] = []
    for check in checks:
        current = piece
        while True:
            try:
                found.append(check(current))
                break
            except Refined as refined:
                current, *others = refined.pieces
                if others:
                    return None
    return tuple(found)
