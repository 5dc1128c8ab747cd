"""When a plan is done: its steps one after the other, on a model of the machine's queues.

The walk goes through groups, steps, operators and chunks in the order in which the lowering writes
them. Each load, each chunk on the array or the lanes and each store becomes one instruction, with
the time that the machine's rules give it (`latency_work.py`), and waits for those that touch the
same bytes (`latency_trace.py`).
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, pairwise
from math import prod
from typing import NamedTuple

import numpy as np

from polystage.allocation import aligned
from polystage.dtypes import cost_dtype
from polystage.machine import Target, cost, energy
from polystage.planner.fusion.attention import Attention
from polystage.planner.fusion.boxes import from_ranges, to_ranges
from polystage.planner.fusion.buffers import Buffer, Purpose
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place, Plan
from polystage.planner.fusion.latency_attention import AttentionWork
from polystage.planner.fusion.latency_pieces import Form, Iterations, Layout, Part
from polystage.planner.fusion.latency_places import LoopText
from polystage.planner.fusion.latency_trace import Box, Cell, Instructions, Touch
from polystage.planner.fusion.latency_work import SUMS, ChunkWork, Operand, Work, contiguous_bytes
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.placement import Placement
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import GroupSchedule
from polystage.simulator.trace import DMA, GATHER

SAMPLES = 12
"""Iterations of a loop that are walked through, where there are more."""


@dataclass(frozen=True)
class Latency:
    """When a plan is done, and what it takes."""

    total_ns: float
    groups_ns: tuple[float, ...]
    """By how much each group moves the end."""
    energy_pj: float


def latency_of(
    program: Program,
    target: Target,
    plan: Plan,
    schedules: Sequence[GroupSchedule],
    placement: Placement,
) -> Latency:
    """Return the time and the energy of a plan, whose buffers lie where `placement` has them."""
    walk = _ProgramWalk(program, target, placement)
    for group, steps, addresses in zip(plan.groups, schedules, placement.groups, strict=True):
        walk.group(group, steps, addresses)
    return walk.result()


class _Held(NamedTuple):
    """Where an operand is, and which box of it an operator touches in a step."""

    cell: Cell
    layout: Layout
    box: Box | None


@dataclass
class _Counts:
    """What costs energy."""

    macs: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    operations: float = 0
    gathered: float = 0
    sbuf_bytes: float = 0
    dram_bytes: float = 0

    def copy(self) -> "_Counts":
        """Return what there is now."""
        return replace(self, macs=defaultdict(float, self.macs))

    def add(self, before: "_Counts", after: "_Counts", times: float) -> None:
        """Add what came between two moments, so many times."""
        for dtype, count in after.macs.items():
            self.macs[dtype] += (count - before.macs[dtype]) * times
        for name in ("operations", "gathered", "sbuf_bytes", "dram_bytes"):
            more = (getattr(after, name) - getattr(before, name)) * times
            setattr(self, name, getattr(self, name) + more)


@dataclass(frozen=True)
class _Skipped:
    """Iterations of a loop that are not walked through: as many `trips`, of which each takes what
    the instructions from `start` to `stop` took for `walked`; they come before instruction `at`."""

    start: int
    stop: int
    walked: int
    trips: int
    at: int


class _ProgramWalk:
    """The walk through all groups."""

    def __init__(self, program: Program, target: Target, placement: Placement) -> None:
        self.program = program
        self.target = target
        self.instructions = Instructions(target)
        self.counts = _Counts()
        self.works: dict[int, ChunkWork] = {}
        self.in_dram = {
            name: Cell((None,) * len(array.shape)) for name, array in program.arrays.items()
        }
        self.resident: dict[str, _Held] = {}
        self.hints = placement.resident
        self.skipped: list[_Skipped] = []
        self.ends: list[int] = []

    def group(self, group: Group, steps: GroupSchedule, addresses: Sequence[int]) -> None:
        """Walk through a group."""
        _GroupWalk(self, group, steps, addresses).run()
        self.ends.append(self.instructions.count)

    def work(self, number: int) -> ChunkWork:
        """Return what an operator's chunks cost."""
        if number not in self.works:
            operator = self.program.operators[number]
            kind = AttentionWork if isinstance(operator, Attention) else ChunkWork
            self.works[number] = kind(self.program, operator, self.target)
        return self.works[number]

    def result(self) -> Latency:
        """Return when all of it is done."""
        ends = np.maximum.accumulate(self.instructions.ends_ns())
        places = [skip.at for skip in self.skipped]
        later = [0.0]  # by how much the first skipped loops move what follows

        def done_ns(count: int) -> float:
            """Return when the first `count` instructions are done, with what was skipped."""
            before = later[bisect_right(places, count, hi=len(later) - 1)]
            return before + (float(ends[count - 1]) if count else 0.0)

        for skip in self.skipped:
            each = (done_ns(skip.stop) - done_ns(skip.start)) / skip.walked
            later.append(later[-1] + each * skip.trips)
        done = [0.0, *(done_ns(end) for end in self.ends)]
        groups = tuple(float(d) for d in np.diff(done))
        return Latency(done[-1], groups, self._energy_pj(done[-1]))

    def _energy_pj(self, total_ns: float) -> float:
        counts, target = self.counts, self.target
        return (
            sum(
                energy.mac_pj(target, n, dtype) + energy.register_pj(target, n, dtype)
                for dtype, n in counts.macs.items()
            )
            + energy.op_pj(target, "vector", counts.operations)
            + energy.op_pj(target, "gpsimd", counts.gathered)
            + energy.access_pj(target, "sbuf", counts.sbuf_bytes)
            + energy.access_pj(target, "dram", counts.dram_bytes)
            + energy.static_pj(target, total_ns)
        )

    # --- transfers --------------------------------------------------------------------------------

    def load(self, name: str, box: Box, held: _Held, is_whole: bool) -> None:
        """Bring a box of an array; `is_whole` says that it is all that the buffer holds."""
        role = str(self.program.arrays[name].role)
        queue = self._dma_queue("weight" if role == "weight" else "load")
        for piece in _unwrapped(box, held.layout):
            time, size = self._transfer(name, piece, held.layout)
            source, to = (self.in_dram[name], piece), (held.cell, None if is_whole else piece)
            self._move(queue, time, size, source, to)

    def store(self, name: str, box: Box, held: _Held, is_whole: bool) -> None:
        """Take a box of an array away."""
        queue = self._dma_queue("store")
        for piece in _unwrapped(box, held.layout):
            time, size = self._transfer(name, piece, held.layout)
            source, to = (held.cell, None if is_whole else piece), (self.in_dram[name], piece)
            self._move(queue, time, size, source, to)

    def _move(self, queue: str, time: cost.Cost, size: int, source: Touch, to: Touch) -> None:
        alone = time.latency_ns - self.target.dma.startup_ns
        self.counts.sbuf_bytes += size
        self.counts.dram_bytes += size
        self.instructions.add(queue, time.busy_ns, alone, [source], [to], DMA, dram_bytes=size)

    def _transfer(self, name: str, box: Box, layout: Layout) -> tuple[cost.Cost, int]:
        array = self.program.arrays[name]
        sizes = [stop - start for start, stop in box]
        total = prod(sizes) * array.element_bytes
        there = Layout.box(array.shape).strides
        runs = [contiguous_bytes(sizes, s, array.element_bytes) for s in (there, layout.strides)]
        return cost.dma(self.target, total, *runs), total

    def _dma_queue(self, kind: str) -> str:
        classes = ("load", "weight", "store", "copy")
        return f"dma{classes.index(kind) * self.target.dma.queues // len(classes)}"


def _unwrapped(box: Box, layout: Layout) -> Iterator[list[tuple[int, int]]]:
    """Yield the parts of a box that lie in one round of a circular window."""
    parts: list[list[tuple[int, int]]] = [[]]
    for (start, stop), extent in zip(box, layout.extents, strict=True):
        ranges = [(start, stop)]
        if extent is not None and start // extent != (stop - 1) // extent:
            edges = range((start // extent + 1) * extent, stop, extent)
            ends = [start, *edges, stop]
            ranges = list(pairwise(ends))
        parts = [[*part, piece] for part in parts for piece in ranges]
    yield from parts


def _pattern(
    checks: Sequence[tuple[Form, int, int, int | None]], box: Iterations
) -> tuple[int, ...] | None:
    """Return what all checks say of a box, or None where one would have to cut it."""
    found: list[int] = []
    for form, least, greatest, extent in checks:
        low, high = form.ends(box)
        if extent is not None:
            if low // extent != high // extent:
                return None
            found.append(low // extent)
        elif low >= least and high <= greatest:
            found.append(1)
        elif high < least or low > greatest:
            found.append(0)
        else:
            return None
    return tuple(found)


class _GroupWalk:
    """The walk through the steps of one group."""

    def __init__(
        self, walk: _ProgramWalk, group: Group, steps: GroupSchedule, addresses: Sequence[int]
    ) -> None:
        self.walk = walk
        self.program = walk.program
        self.group = group
        self.steps = steps
        self.last = len(group.operators) - 1
        self.arrays: dict[str, _Held] = {}
        self.buffers: dict[str, tuple[Buffer, int]] = {}
        self.local: dict[int, list[tuple[Buffer, int]]] = defaultdict(list)
        for buffer, address in zip(steps.buffers, addresses, strict=True):
            if buffer.purpose is Purpose.ARRAY:
                self.buffers[buffer.array or ""] = buffer, address
            else:
                self.local[buffer.operators[1]].append((buffer, address))

    def run(self) -> None:
        """Walk through all steps."""
        nests = [
            _NestWalk(self, place, number, self.group.nests[place] if self.group.nests else Nest())
            for place, number in enumerate(self.group.operators)
        ]
        for step in range(self.steps.steps):
            for place in range(len(self.group.operators)):
                self._arrays_from(step, place)
                nests[place].run(step)
                self._stores(step, place)

    def is_on_chip(self, name: str) -> bool:
        """Tell whether an array is on chip in this group."""
        return self.group.places[name] is not Place.STREAMED

    def _arrays_from(self, step: int, place: int) -> None:
        """Reserve and load the arrays that are on chip from an operator on."""
        shares = self.steps.shares
        found = [
            name
            for name in self.group.places
            if self.is_on_chip(name) and self._first(shares.get(name, name)) == place
        ]
        for name in sorted(found, key=shares.__contains__):  # owners of buffers come first
            self.arrays[name] = self._located(name)
        for name in found:
            if name in self.steps.loads:
                box = self.steps.loads[name][step].tolist()
                if all(stop > start for start, stop in box):
                    self.walk.load(name, box, self.arrays[name], is_whole=False)

    def _first(self, name: str) -> int:
        """Return the operator of the group from which on an array is on chip."""
        return self.buffers[name][0].operators[0] if name in self.buffers else 0

    def _located(self, name: str) -> _Held:
        """Return where an array is on chip."""
        if name in self.steps.shares:
            held = self.arrays[self.steps.shares[name]]
            if self.group.places[name] is Place.RESIDENT:
                self.walk.resident.setdefault(name, held)
            return held
        if self.group.places[name] is Place.RESIDENT:
            if name not in self.walk.resident:
                shape = self.program.arrays[name].shape
                self.walk.resident[name] = self._reserve(name, shape, self.walk.hints[name])
            return self.walk.resident[name]
        buffer, address = self.buffers[name]
        if name in self.arrays and buffer.operators == (0, self.last):
            return self.arrays[name]
        return self._reserve(name, buffer.shape, address)

    def _reserve(self, name: str, shape: tuple[int, ...], address: int) -> _Held:
        array = self.program.arrays[name]
        layout = Layout.circular(shape, array.shape)
        size = aligned(prod(shape) * array.element_bytes)
        is_weight = str(array.role) == "weight"
        cell = self.walk.instructions.reserve(size, address, layout.extents, is_weight)
        return _Held(cell, layout, None)

    def _stores(self, step: int, place: int) -> None:
        for name, boxes in self.steps.stores.items():
            if self._last_writer(name) == place:
                for box in boxes[step].tolist():
                    if all(stop > start for start, stop in box):
                        self.walk.store(name, box, self.arrays[name], is_whole=False)

    def _last_writer(self, name: str) -> int:
        writers = self.program.writers(name)
        return max(p for p, number in enumerate(self.group.operators) if number in writers)


@dataclass(frozen=True)
class _State:
    """What is fixed at a point of a nest."""

    box: Iterations
    places: dict[Operand, _Held]
    is_first: bool

    def at(self, dim: int, start: int, size: int, is_first: bool) -> "_State":
        """Return the state in one tile of a dim."""
        starts = (*self.box.starts[:dim], start, *self.box.starts[dim + 1 :])
        sizes = (*self.box.sizes[:dim], size, *self.box.sizes[dim + 1 :])
        return _State(Iterations(starts, sizes), self.places, self.is_first and is_first)

    def having(self, operand: Operand, held: _Held) -> "_State":
        """Return the state with one more operand on chip."""
        return replace(self, places={**self.places, operand: held})


class _NestWalk:
    """The walk through the chunks of one operator of a group."""

    def __init__(self, group: _GroupWalk, place: int, number: int, nest: Nest) -> None:
        self.walk = group.walk
        self.group = group
        self.operator: Operator = group.program.operators[number]
        self.work = group.walk.work(number)
        self.chunks = nest.chunks
        reductions = self.operator.reductions
        self.inner = next(
            (i for i, loop in enumerate(nest.chunks) if loop.dim in reductions), len(nest.chunks)
        )
        self.last = [loop for loop in nest.chunks[self.inner :] if loop.dim not in reductions]
        self.boxes = group.steps.computes[place]
        own = group.local[place]
        self.streamed: dict[Operand, int] = {}
        """Addresses of streamed operands."""
        for buffer, address in own:
            if buffer.purpose is Purpose.CHUNK:
                self.streamed[self._access(buffer)] = address
        self.sums = next((found for found in own if found[0].purpose is Purpose.ACCUMULATOR), None)
        self.kept: _Held | None = None
        """The sums, where they last over steps."""
        self.scratch = [found for found in own if found[0].purpose is Purpose.SCRATCH]
        self.touched = self._touched()
        self.known: dict[object, list[Work]] = {}
        self.is_last = True

    def _access(self, buffer: Buffer) -> Operand:
        if buffer.access is not None:
            return buffer.access
        first = len(self.operator.reads)
        writes = [write.array for write in self.operator.writes]
        return first + writes.index(buffer.array or "")

    def _touched(self) -> dict[Operand, list[list[list[int]]]]:
        """Return the boxes of arrays on chip that the operator touches in each step."""
        boxes = from_ranges(self.boxes)
        maps = self.group.program.maps(self.operator)
        accesses = (*self.operator.reads, *self.operator.writes)
        forms = (*maps.reads, *maps.writes)
        return {
            number: to_ranges(form.image(boxes)).tolist()
            for number, (access, form) in enumerate(zip(accesses, forms, strict=True))
            if self.group.is_on_chip(access.array)
        }

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
        places: dict[Operand, _Held] = {
            number: self.group.arrays[accesses[int(number)].array]._replace(box=boxes[step])
            for number, boxes in self.touched.items()
        }
        state = _State(Iterations(starts, sizes), places, is_first)
        self._outer(self._load_operands(state, 0), 0)

    # --- the nest ---------------------------------------------------------------------------------

    def _outer(self, state: _State, depth: int) -> None:
        if depth == self.inner:
            self._region(state)
            return
        for tile in self._tiles(state, self.chunks[depth]):
            self._outer(self._load_operands(tile, depth + 1), depth + 1)

    def _region(self, state: _State) -> None:
        state = self._with_result(state)
        self._contributions(state, self.inner)
        if self.is_last:
            self._finish(state, 0)

    def _contributions(self, state: _State, depth: int) -> None:
        if depth == len(self.chunks):
            self._execute(state, "contribute")
            return
        for tile in self._tiles(state, self.chunks[depth]):
            self._contributions(self._load_operands(tile, depth + 1), depth + 1)

    def _finish(self, state: _State, depth: int) -> None:
        if depth < len(self.last):
            for tile in self._tiles(state, self.last[depth]):
                self._finish(self._load_late(tile, depth), depth + 1)
            return
        state = self._with_output(state)
        self._execute(state, "finish")
        for part in self.work.writes:
            if part.access in self.streamed:
                held = state.places[part.access]
                name = self.operator.writes[part.access - len(self.operator.reads)].array
                self.walk.store(name, self._box_of(part, self.work.flat(state.box)), held, True)

    def _tiles(self, state: _State, loop: Loop) -> Iterator[_State]:
        """Yield the state in every tile of a loop; tiles that are written alike share a loop of the
        program. Of many alike only the first and the last are walked through."""
        start, extent = state.box.starts[loop.dim], state.box.sizes[loop.dim]
        is_reduction = loop.dim in self.operator.reductions
        checks = self._checks(state, loop.dim)

        def tile(at: int) -> _State:
            size = min(loop.tile, extent - at)
            return state.at(loop.dim, start + at, size, at == 0 or not is_reduction)

        def kind(found: _State) -> tuple[object, ...]:
            opens = is_reduction and found.is_first
            return found.box.sizes[loop.dim], opens, _pattern(checks, found.box)

        tiles = [tile(at) for at in range(0, extent, loop.tile)]
        for (_, _, pattern), run in groupby(tiles, kind):
            same = list(run)
            if len(same) == 1 or pattern is None:
                yield from same
                continue
            with self.walk.instructions.loop(len(same)) as text:
                yield from self._sampled(same, text)

    def _sampled(self, tiles: Sequence[_State], loop: LoopText) -> Iterator[_State]:
        """Yield tiles that are alike: all, or of many enough to tell how long each takes."""
        walk, text = self.walk, self.walk.instructions.text
        is_sampled = len(tiles) > SAMPLES + 2
        start, before = 0, walk.counts
        for number, tile in enumerate(tiles):
            if is_sampled and SAMPLES <= number < len(tiles) - 1:
                continue
            text.begin(loop)
            yield tile
            if is_sampled and number == SAMPLES // 2 - 1:
                start, before = walk.instructions.count, walk.counts.copy()
            if is_sampled and number == SAMPLES - 1:
                stop, walked = walk.instructions.count, SAMPLES - SAMPLES // 2
                skipped = len(tiles) - SAMPLES - 1
                walk.skipped.append(_Skipped(start, stop, walked, skipped, stop + 1))
                walk.counts.add(before, walk.counts.copy(), skipped / walked)

    def _checks(self, state: _State, dim: int) -> list[tuple[Form, int, int, int | None]]:
        """Return what may change from tile to tile of a dim, as (index, least, greatest, extent):
        which array an operand shows, where windows wrap."""
        found: list[tuple[Form, int, int, int | None]] = []
        for part in (*self.work.parts, *self.work.writes):
            for form, least, greatest in part.bounds:
                if form.depends_on(dim):
                    found.append((form, least, greatest, None))
            if part.access in state.places:
                extents = state.places[part.access].layout.extents
                for form, extent in zip(part.axes, extents, strict=False):
                    if extent is not None and form.depends_on(dim):
                        found.append((form, 0, 0, extent))
        if SUMS in state.places:
            extents = state.places[SUMS].layout.extents
            for parallel, extent in zip(self.operator.parallels, extents, strict=True):
                if extent is not None and parallel == dim:
                    found.append((Form(0, ((dim, 1),)), 0, 0, extent))
        return found

    # --- buffers ----------------------------------------------------------------------------------

    def _with_result(self, state: _State) -> _State:
        """Reserve what a region accumulates into, and what else it needs."""
        state = self._with_scratch(state)
        if self.sums is None:
            return self._with_output(state)
        buffer, address = self.sums
        if self._lasts(buffer):
            if self.kept is None:
                extents = [self.operator.extents[d] for d in self.operator.parallels]
                layout = Layout.circular(buffer.shape, extents)
                cell = self.walk.instructions.reserve(buffer.bytes, address)
                self.kept = _Held(cell, layout, None)
            return state.having(SUMS, self.kept)
        sizes = [state.box.sizes[d] for d in self.operator.parallels]
        size = aligned(prod(sizes) * buffer.element_bytes)
        cell = self.walk.instructions.reserve(size, address)
        return state.having(SUMS, _Held(cell, Layout.box(sizes), None))

    def _lasts(self, buffer: Buffer) -> bool:
        """Tell whether sums are carried from step to step."""
        dims = {loop.dim for loop in self.group.group.loops}
        return buffer.operators == (0, self.group.last) and not dims.isdisjoint(
            self.operator.reductions
        )

    def _with_scratch(self, state: _State) -> _State:
        if not isinstance(self.operator, Attention):
            return state
        for name, (buffer, address) in zip(self.operator.scratch_names, self.scratch, strict=True):
            cell = self.walk.instructions.reserve(buffer.bytes, address)
            state = state.having(name, _Held(cell, Layout.box(buffer.shape), None))
        return state

    def _with_output(self, state: _State) -> _State:
        for part in self.work.writes:
            if part.access in self.streamed and part.access not in state.places:
                state = self._reserve(state, part, self._box_of(part, state.box))
        return state

    def _reserve(self, state: _State, part: Part, box: Box) -> _State:
        sizes = [stop - start for start, stop in box]
        accesses = (*self.operator.reads, *self.operator.writes)
        array = self.group.program.arrays[accesses[part.access].array]
        cell = self.walk.instructions.reserve(
            aligned(prod(sizes) * array.element_bytes),
            self.streamed[part.access],
            is_weight=str(array.role) == "weight",
        )
        return state.having(part.access, _Held(cell, Layout.box(sizes), None))

    def _box_of(self, part: Part, box: Iterations) -> list[tuple[int, int]]:
        """Return what an access touches of its array, without what its bounds leave out."""
        accesses = (*self.operator.reads, *self.operator.writes)
        shape = self.group.program.arrays[accesses[part.access].array].shape
        if not part.axes:
            return [(0, extent) for extent in shape]
        starts, stops = list(box.starts), [a + n for a, n in zip(*box, strict=True)]
        for form, least, greatest in part.bounds:
            if len(form.terms) == 1 and form.terms[0][1] == 1:
                dim = form.terms[0][0]
                starts[dim] = max(starts[dim], least - form.constant)
                stops[dim] = min(stops[dim], greatest - form.constant + 1)
        sizes = tuple(max(b - a, 0) for a, b in zip(starts, stops, strict=True))
        inside = Iterations(tuple(starts), sizes)
        ends = [form.ends(inside) for form in part.axes]
        return [(max(low, 0), min(high + 1, n)) for (low, high), n in zip(ends, shape, strict=True)]

    # --- transfers --------------------------------------------------------------------------------

    def _load_operands(self, state: _State, depth: int) -> _State:
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

    def _load_late(self, state: _State, depth: int) -> _State:
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
        return self.group.program.maps(self.operator).reads[part.access].used | frozenset(
            dim for form, _, _ in part.bounds for dim, _ in form.terms
        )

    def _load(self, state: _State, part: Part) -> _State:
        box = self._box_of(part, state.box)
        if any(stop <= start for start, stop in box):
            return state
        state = self._reserve(state, part, box)
        name = self.operator.reads[part.access].array
        self.walk.load(name, box, state.places[part.access], is_whole=True)
        return state

    # --- execution --------------------------------------------------------------------------------

    def _execute(self, state: _State, what: str) -> None:
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
        for work in works:
            self._add(work, state)

    def _signature(self, state: _State, layouts: dict[Operand, Layout]) -> tuple[object, ...]:
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
            for part in (*self.work.parts, *self.work.writes)
            if part.access in self.touched
            for form, extent in zip(
                part.axes, self._array_of(part.access).layout.extents, strict=False
            )
            if extent is not None
        ]

    def _array_of(self, access: int) -> _Held:
        accesses = (*self.operator.reads, *self.operator.writes)
        return self.group.arrays[accesses[access].array]

    def _add(self, work: Work, state: _State) -> None:
        places = state.places
        reads = [(places[o].cell, places[o].box) for o in work.reads if o in places]
        writes = [(places[o].cell, places[o].box) for o in work.writes if o in places]
        counts = self.walk.counts
        if work.macs:
            read = self.operator.reads[0].array
            counts.macs[cost_dtype(self.group.program.arrays[read].dtype)] += work.macs
        counts.operations += work.operations
        counts.sbuf_bytes += work.sbuf_bytes
        self.walk.instructions.add(work.queue, work.busy_ns, work.latency_ns, reads, writes)

    def _gather(self, state: _State) -> None:
        """Add a lookup of rows, and what is made of them."""
        operator, target = self.operator, self.walk.target
        for number, read in enumerate(operator.reads):
            if read.exprs is not None:
                continue
            array = self.group.program.arrays[read.array]
            row = array.shape[-1]
            count = max(1, prod(state.box.sizes) // row)
            time = cost.gather(target, count, row * array.element_bytes, row * array.element_bytes)
            reads = [(h.cell, h.box) for o, h in state.places.items() if o != number]
            moved = count * row * array.element_bytes
            self.walk.counts.dram_bytes += moved
            self.walk.counts.sbuf_bytes += moved
            self.walk.counts.gathered += count
            self.walk.instructions.add(
                "gpsimd",
                time.dma.busy_ns,
                time.dma.latency_ns - target.dma.startup_ns,
                [],
                reads,
                GATHER,
                dram_bytes=moved,
                form_ns=time.gpsimd.busy_ns,
            )
