"""The walk through the chunks of one operator of a group, in the order of the lowering."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod

import numpy as np

from polystage.allocation import aligned
from polystage.dtypes import cost_dtype
from polystage.machine import cost
from polystage.planner.fusion.attention.operator import Attention
from polystage.planner.fusion.boxes import from_ranges, to_ranges
from polystage.planner.fusion.buffers import Buffer, Purpose
from polystage.planner.fusion.decisions import Group, Nest, Place
from polystage.planner.fusion.latency.instructions import Box
from polystage.planner.fusion.latency.pieces import Form, Iterations, Layout, Part, refine
from polystage.planner.fusion.latency.record import Held, Record
from polystage.planner.fusion.latency.tiles import State, Tiles
from polystage.planner.fusion.latency.work import SUMS, Operand, Work
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.simulator.trace import GATHER


class NestWalk:
    """The walk through the chunks of one operator of a group."""

    def __init__(
        self,
        record: Record,
        group: Group,
        number: int,
        nest: Nest,
        boxes: np.ndarray,
        own: Sequence[tuple[Buffer, int]],
        arrays: Mapping[str, Held],
    ) -> None:
        """`boxes` is what each step computes, `own` are the operator's buffers with their
        addresses, `arrays` says where the arrays of the group are on chip at the moment."""
        self.record = record
        self.group = group
        self.program = record.program
        self.operator: Operator = self.program.operators[number]
        self.work = record.work(number)
        self.tiles = Tiles(record, self.operator, self.work)
        self.boxes = boxes
        self.arrays = arrays
        self.chunks = nest.chunks
        reductions = self.operator.reductions
        self.inner = next(
            (i for i, loop in enumerate(nest.chunks) if loop.dim in reductions), len(nest.chunks)
        )
        self.last = [loop for loop in nest.chunks[self.inner :] if loop.dim not in reductions]
        self.streamed: dict[Operand, int] = {}
        """Addresses of streamed operands."""
        self.chunk_shapes: dict[Operand, tuple[int, ...]] = {}
        for buffer, address in own:
            if buffer.purpose is Purpose.CHUNK:
                self.streamed[self._access(buffer)] = address
                self.chunk_shapes[self._access(buffer)] = buffer.shape
        self.sums = next((found for found in own if found[0].purpose is Purpose.ACCUMULATOR), None)
        self.outputs = {part.access for part in self.work.writes}
        self.kept: dict[Operand, Held] | None = None
        """What carries running results from step to step."""
        self.scratch = [found for found in own if found[0].purpose is Purpose.SCRATCH]
        accesses = (*self.operator.reads, *self.operator.writes)
        self.on_chip = [
            number
            for number, access in enumerate(accesses)
            if group.places[access.array] is not Place.STREAMED
        ]
        self.known: dict[object, list[Work]] = {}
        self.is_last = True

    def _access(self, buffer: Buffer) -> Operand:
        if buffer.access is not None:
            return buffer.access
        first = len(self.operator.reads)
        writes = [write.array for write in self.operator.writes]
        return first + writes.index(buffer.array or "")

    def run(self, step: int) -> None:
        """Walk through what one step computes."""
        box = self.boxes[step].tolist()
        if any(stop <= start for start, stop in box):
            return
        operator = self.operator
        starts = tuple(start for start, _ in box)
        sizes = tuple(stop - start for start, stop in box)
        is_first = all(starts[d] == 0 for d in operator.reductions)
        self.is_last = all(box[d][1] == operator.extents[d] for d in operator.reductions)
        accesses = (*operator.reads, *operator.writes)
        places: dict[Operand, Held] = {
            number: self.arrays[accesses[number].array] for number in self.on_chip
        }
        if any(sizes[d] < operator.extents[d] for d in operator.reductions):
            self.kept = self._reserve_kept() if self.kept is None else self.kept
            places.update(self.kept)
        state = State(Iterations(starts, sizes), places, is_first)
        self._outer(self._load_operands(state, 0), 0)

    # --- the nest ---------------------------------------------------------------------------------

    def _outer(self, state: State, depth: int) -> None:
        if depth == self.inner:
            self._region(state)
            return
        for tile in self.tiles.of(state, self.chunks[depth]):
            self._outer(self._load_operands(tile, depth + 1), depth + 1)

    def _region(self, state: State) -> None:
        state = self._with_result(state)
        self._contributions(state, self.inner)
        if self.is_last:
            self._finish(state, 0)

    def _contributions(self, state: State, depth: int) -> None:
        if depth == len(self.chunks):
            self._execute(state, "contribute")
            return
        for tile in self.tiles.of(state, self.chunks[depth]):
            self._contributions(self._load_operands(tile, depth + 1), depth + 1)

    def _finish(self, state: State, depth: int) -> None:
        if depth < len(self.last):
            for tile in self.tiles.of(state, self.last[depth]):
                self._finish(self._load_late(tile, depth), depth + 1)
            return
        state = self._with_output(state)
        self._execute(state, "finish")
        for part in self.work.writes:
            if part.access in self.streamed:
                self._store(part, state)

    def _store(self, part: Part, state: State) -> None:
        """Store what a chunk made of a streamed output, in the order of its iterations."""
        held = state.places[part.access]
        name = self.operator.writes[part.access - len(self.operator.reads)].array
        layouts = (Layout.box(self.program.arrays[name].shape), held.layout)
        steps = [layout.steps(part.axes) for layout in layouts]
        there, here = ([step.get(d, 0) for d in range(len(state.box.sizes))] for step in steps)
        box = self.work.flat(state.box)
        for piece, _ in refine(box, lambda box: held.layout.check(part.axes, box)):
            touched = self._box_of(part, piece)
            self.record.store_elements(name, touched, held, piece.sizes, (there, here))

    # --- buffers ----------------------------------------------------------------------------------

    def _with_result(self, state: State) -> State:
        """Reserve what a region accumulates into, and what else it needs."""
        state = self._with_scratch(state)
        if self.sums is None:
            return self._with_output(state)
        if SUMS in state.places:
            return state
        buffer, address = self.sums
        sizes = [state.box.sizes[d] for d in self.operator.parallels]
        size = aligned(prod(sizes) * buffer.element_bytes)
        layout = Layout.box(sizes)
        cell = self.record.instructions.reserve(size, address, layout.extents)
        return state.having(SUMS, Held(cell, layout))

    def _reserve_kept(self) -> dict[Operand, Held]:
        """Reserve what carries running results from step to step, where no array on chip does."""
        if self.sums is not None:
            buffer, address = self.sums
            extents = [self.operator.extents[d] for d in self.operator.parallels]
            layout = Layout.circular(buffer.shape, extents)
            cell = self.record.instructions.reserve(buffer.bytes, address, layout.extents)
            return {SUMS: Held(cell, layout)}
        output = self.work.output
        if output not in self.streamed:
            return {}
        name, shape = self.operator.writes[0].array, self.chunk_shapes[output]
        return {output: self.record.reserve(name, shape, self.streamed[output], is_window=True)}

    def _with_scratch(self, state: State) -> State:
        if not isinstance(self.operator, Attention):
            return state
        for name, (buffer, address) in zip(self.operator.scratch_names, self.scratch, strict=True):
            cell = self.record.instructions.reserve(buffer.bytes, address)
            state = state.having(name, Held(cell, Layout.box(buffer.shape)))
        return state

    def _with_output(self, state: State) -> State:
        for part in self.work.writes:
            if part.access in self.streamed and part.access not in state.places:
                state = self._reserve(state, part, self._box_of(part, state.box))
        return state

    def _reserve(self, state: State, part: Part, box: Box) -> State:
        accesses = (*self.operator.reads, *self.operator.writes)
        sizes = [stop - start for start, stop in box]
        name, address = accesses[part.access].array, self.streamed[part.access]
        held = self.record.reserve(name, sizes, address, is_window=False)
        return state.having(part.access, held)

    def _box_of(self, part: Part, box: Iterations) -> list[tuple[int, int]]:
        """Return what an access touches of its array, without what its bounds leave out."""
        accesses = (*self.operator.reads, *self.operator.writes)
        shape = self.program.arrays[accesses[part.access].array].shape
        if not part.axes:
            return [(0, extent) for extent in shape]
        if any(form.curves for form in part.axes):
            return self._image(part.access, box)
        starts, stops = list(box.starts), [a + n for a, n in zip(*box, strict=True)]
        for form, least, greatest in part.bounds:
            if len(form.terms) == 1 and form.terms[0][1] == 1:
                dim = form.terms[0][0]
                starts[dim] = max(starts[dim], least - form.constant)
                stops[dim] = min(stops[dim], greatest - form.constant + 1)
        sizes = tuple(b - a for a, b in zip(starts, stops, strict=True))
        if min(sizes, default=1) <= 0:
            return [(0, 0)] * len(shape)
        inside = Iterations(tuple(starts), sizes)
        ends = [form.ends(inside) for form in part.axes]
        return [(max(low, 0), min(high + 1, n)) for (low, high), n in zip(ends, shape, strict=True)]

    def _image(self, access: int, box: Iterations) -> list[tuple[int, int]]:
        """Return what an access with quotients touches, by its closed form."""
        maps = self.program.maps(self.operator)
        ranges = np.array([[(a, a + n) for a, n in zip(*box, strict=True)]], np.int64)
        image = (*maps.reads, *maps.writes)[access].image(from_ranges(ranges))
        return [(start, stop) for start, stop in to_ranges(image)[0].tolist()]

    # --- transfers --------------------------------------------------------------------------------

    def _load_operands(self, state: State, depth: int) -> State:
        """Load what depends on the loop before `depth`, and on none inside of it."""
        for operand in self.work.operands:
            is_late = operand in self.work.late
            loops = self.chunks[: self.inner] if is_late else self.chunks
            for part in operand:
                if part.access not in self.streamed or part.access in state.places:
                    continue
                if is_late and not (self.is_last and self._late_depth(part) is None):
                    continue
                dims = self._dims(part)
                if max((i + 1 for i, x in enumerate(loops) if x.dim in dims), default=0) == depth:
                    state = self._load(state, part)
        return state

    def _load_late(self, state: State, depth: int) -> State:
        """Load what only the epilogue reads in its loop `depth`."""
        for operand in self.work.late:
            for part in operand:
                if part.access in self.streamed and self._late_depth(part) == depth:
                    state = self._load(state, part)
        return state

    def _late_depth(self, part: Part) -> int | None:
        dims = self._dims(part)
        return max((i for i, loop in enumerate(self.last) if loop.dim in dims), default=None)

    def _dims(self, part: Part) -> frozenset[int]:
        return self.program.maps(self.operator).reads[part.access].used | frozenset(
            dim for form, _, _ in part.bounds for dim, _ in form.terms
        )

    def _load(self, state: State, part: Part) -> State:
        box = self._box_of(part, state.box)
        if any(stop <= start for start, stop in box):
            return state
        state = self._reserve(state, part, box)
        name = self.operator.reads[part.access].array
        self.record.load(name, box, state.places[part.access], is_whole=True)
        return state

    # --- execution --------------------------------------------------------------------------------

    def _execute(self, state: State, what: str) -> None:
        """Add the instructions of a chunk."""
        if self.operator.kind is OperatorKind.OPAQUE:
            return  # no engine of a flat target executes it
        if self.operator.kind is OperatorKind.GATHER and what == "contribute":
            self._gather(state)
            return
        layouts = {operand: held.layout for operand, held in state.places.items()}
        for number in self.streamed:
            layouts.setdefault(number, Layout.box((1,) * 8))
        key = (what, state.is_first, state.box.sizes, self._signature(state, layouts))
        works = self.known.get(key)
        if works is None:
            if what == "finish":
                works = list(self.work.finish(state.box, layouts))
            else:
                works = list(self.work.contribute(state.box, layouts, state.is_first))
            self.known[key] = works
        boxes = {operand: self._touched_by(operand, state) for operand in state.places}
        for work in works:
            self._add(work, state, boxes)

    def _signature(self, state: State, layouts: dict[Operand, Layout]) -> tuple[object, ...]:
        """Return all about a chunk's place that its cost depends on: how its operands lie, where
        windows wrap, what lies beyond a border."""
        found: list[object] = [layouts[number].strides for number in self.streamed]
        if SUMS in layouts:
            found.append(layouts[SUMS].strides)
        box = state.box
        for form, least, greatest in self.bounds:
            low, high = form.ends(box)
            found.append((min(low - least, 0), min(greatest - high, 0)))
        for form, extent in self.wraps:
            found.append(form.ends(box)[0] % extent)
        return tuple(found)

    @cached_property
    def bounds(self) -> list[tuple[Form, int, int]]:
        """The bounds of all accesses."""
        return [bound for part in self.work.parts for bound in part.bounds]

    @cached_property
    def wraps(self) -> list[tuple[Form, int]]:
        """The indices along which a window on chip wraps, with its extent."""
        return [
            (form, extent)
            for part in self.work.accesses
            if part.access in self.on_chip
            for form, extent in zip(
                part.axes, self._array_of(part.access).layout.extents, strict=False
            )
            if extent is not None
        ]

    def _array_of(self, access: int) -> Held:
        accesses = (*self.operator.reads, *self.operator.writes)
        return self.arrays[accesses[access].array]

    def _touched_by(self, operand: Operand, state: State) -> Box | None:
        """Return what a chunk touches of an operand, None for all of it: of an array on chip less
        than its step does, of a result less than its region; the rest need not be waited for."""
        if operand == SUMS:
            ranges = [(a, a + n) for a, n in zip(*state.box, strict=True)]
            return [ranges[d] for d in self.operator.parallels]
        is_shared = bool(self.last or self.kept)  # by chunks of a region, or by steps
        is_part = operand in self.on_chip or (is_shared and operand in self.outputs)
        if not is_part:
            return None
        return self._box_of(self.work.accesses[int(operand)], state.box)

    def _add(self, work: Work, state: State, boxes: Mapping[Operand, Box | None]) -> None:
        places = state.places
        reads = [(places[o].cell, boxes[o]) for o in work.reads if o in places]
        writes = [(places[o].cell, boxes[o]) for o in work.writes if o in places]
        counts = self.record.counts
        if work.macs:
            read = self.operator.reads[0].array
            counts.macs[cost_dtype(self.program.arrays[read].dtype)] += work.macs
        counts.operations += work.operations
        counts.sbuf_bytes += work.sbuf_bytes
        self.record.instructions.add(work.queue, work.busy_ns, work.latency_ns, reads, writes)

    def _gather(self, state: State) -> None:
        """Add a lookup of rows, and what is made of them."""
        operator, target = self.operator, self.record.target
        for number, read in enumerate(operator.reads):
            if read.exprs is not None:
                continue
            array = self.program.arrays[read.array]
            row = array.shape[-1]
            count = max(1, prod(state.box.sizes) // row)
            time = cost.gather(target, count, row * array.element_bytes, row * array.element_bytes)
            made = [
                (held.cell, self._touched_by(operand, state))
                for operand, held in state.places.items()
                if operand != number
            ]
            moved = count * row * array.element_bytes
            self.record.counts.dram_bytes += moved
            self.record.counts.sbuf_bytes += moved
            self.record.counts.gathered += count
            self.record.instructions.add(
                "gpsimd",
                time.dma.busy_ns,
                time.dma.latency_ns - target.dma.startup_ns,
                [],
                made,
                GATHER,
                dram_bytes=moved,
                form_ns=time.gpsimd.busy_ns,
            )
