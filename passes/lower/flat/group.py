"""Carries out one group of a plan: step by step, what is loaded, computed and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from polystage.passes.lower.flat.chunk import Location
from polystage.passes.lower.flat.engine import Engine
from polystage.passes.lower.flat.forms import OperatorForm
from polystage.passes.lower.flat.nest import Hints, Memory, NestWriter
from polystage.passes.lower.flat.transfers import Box, move
from polystage.passes.lower.flat.writer import FlatWriter
from polystage.planner.fusion.decisions import Group, Place
from polystage.planner.fusion.operators import Operator
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import Buffer, GroupSchedule, Purpose


@dataclass
class Arrays:
    """Where the arrays of the program are; `resident` are on chip from group to group, `hints` says
    where the planner placed those."""

    in_dram: Mapping[str, Location]
    causes: Mapping[str, str]
    hints: Mapping[str, int]
    resident: dict[str, Location] = field(default_factory=dict[str, Location])


class GroupWriter:
    """Writes one group."""

    def __init__(
        self,
        writer: FlatWriter,
        program: Program,
        group: Group,
        schedule: GroupSchedule,
        arrays: Arrays,
        engines: Mapping[int, tuple[OperatorForm, Engine]],
        addresses: Sequence[int],
    ) -> None:
        """`addresses` are where the planner placed the buffers of the schedule, if it did."""
        self.writer = writer
        self.program = program
        self.group = group
        self.schedule = schedule
        self.arrays = arrays
        self.on_chip: dict[str, Location] = {}
        memory = Memory(self.on_chip, arrays.in_dram, arrays.causes)
        self.placed = list(zip(schedule.buffers, addresses, strict=False))
        self.nests = [
            NestWriter(writer, *engines[number], nest.chunks, memory, self._hints(place))
            for place, (number, nest) in enumerate(zip(group.operators, group.nests, strict=True))
        ]
        self.buffers = {b.array: b for b in schedule.buffers if b.purpose is Purpose.ARRAY}
        self.array_hints = {b.array: at for b, at in self.placed if b.purpose is Purpose.ARRAY}
        self.kept: Location | None = None

    def write(self) -> None:
        """Write all steps."""
        for step in range(self.schedule.steps):
            for place in range(len(self.group.operators)):
                self._arrays_from(step, place)
                self._compute(step, place)
                self._store(step, place)

    # --- arrays -----------------------------------------------------------------------------------

    def _arrays_from(self, step: int, place: int) -> None:
        """Reserve and load the arrays that are on chip from an operator on."""
        shares = self.schedule.shares
        found = [name for name in self._touched if self._first(shares.get(name, name)) == place]
        for name in sorted(found, key=shares.__contains__):
            self.on_chip[name] = self._place(name)
            if self.group.places[name] is Place.RESIDENT:
                self.arrays.resident[name] = self.on_chip[name]
        for name in found:
            if name in self.schedule.loads:
                self.writer.layer = self._operator(place).layer
                self._move_in(name, self.schedule.loads[name][step])

    def _place(self, name: str) -> Location:
        """Return where an array is from now on, which is reserved where it is a new place."""
        if name in self.schedule.shares:
            return self.on_chip[self.schedule.shares[name]]
        if self.group.places[name] is Place.RESIDENT:
            if name in self.arrays.resident:
                return self.arrays.resident[name]
            shape, hint = self.program.arrays[name].shape, self.arrays.hints.get(name)
        elif name in self.on_chip and not self._is_anew(self.buffers[name]):
            return self.on_chip[name]
        else:
            shape, hint = self.buffers[name].shape, self.array_hints.get(name)
        return self._reserve(name, shape, hint)

    @property
    def _touched(self) -> list[str]:
        """The arrays that are on chip in this group."""
        return [n for n, place in self.group.places.items() if place is not Place.STREAMED]

    def _first(self, owner: str) -> int:
        """Return the operator of the group from which on there is a buffer of an array."""
        return self.buffers[owner].operators[0] if owner in self.buffers else 0

    def _is_anew(self, buffer: Buffer) -> bool:
        """Whether a buffer is a new one in every step."""
        return buffer.operators != (0, len(self.group.operators) - 1)

    def _reserve(self, name: str, shape: tuple[int, ...], hint: int | None) -> Location:
        element = self.arrays.in_dram[name].storage.element_type
        storage = self.writer.alloc(shape, element, hint)
        return Location.circular(storage, shape, self.program.arrays[name].shape)

    def _move_in(self, name: str, ranges: np.ndarray) -> None:
        box = Box.of_ranges(ranges.tolist())
        if not box.is_empty:
            source, cause = self.arrays.in_dram[name], self.arrays.causes[name]
            move(self.writer, box, source, self.on_chip[name], cause)

    def _store(self, step: int, place: int) -> None:
        """Store what no later operator of the group adds to."""
        self.writer.layer = self._operator(place).layer
        for name, boxes in self.schedule.stores.items():
            if self._last_writer(name) != place:
                continue
            for ranges in boxes[step].tolist():
                box = Box.of_ranges(ranges)
                if not box.is_empty:
                    target, cause = self.arrays.in_dram[name], self.arrays.causes[name]
                    move(self.writer, box, self.on_chip[name], target, cause)

    def _last_writer(self, name: str) -> int:
        writers = self.program.writers(name)
        return max(p for p, number in enumerate(self.group.operators) if number in writers)

    # --- operators --------------------------------------------------------------------------------

    def _operator(self, place: int) -> Operator:
        return self.program.operators[self.group.operators[place]]

    def _hints(self, place: int) -> Hints:
        """Return where the buffers of one operator are; the sink's may last over steps."""
        return Hints.of(
            [
                (buffer, address)
                for buffer, address in self.placed
                if buffer.purpose is not Purpose.ARRAY and buffer.operators[1] == place
            ]
        )

    def _compute(self, step: int, place: int) -> None:
        box = Box.of_ranges(self.schedule.computes[place][step].tolist())
        if box.is_empty:
            return
        operator = self._operator(place)
        self.writer.layer = operator.layer
        first = all(box.starts[d].constant == 0 for d in operator.reductions)
        last = all(
            box.starts[d].constant + box.sizes[d] == operator.extents[d]
            for d in operator.reductions
        )
        carries = any(box.sizes[d] < operator.extents[d] for d in operator.reductions)
        self.nests[place].run(box, first, last, self._kept(place) if carries else None)

    def _kept(self, place: int) -> Location | None:
        """Return where the running result is that a loop of the group over a reduction dim carries;
        None where the output is on chip and serves."""
        operator, form = self._operator(place), self.nests[place].form
        array = form.array(form.output())
        if self.kept is None and operator.accumulator is not None:
            buffer = next(b for b in self._lasting if b.purpose is Purpose.ACCUMULATOR)
            type_ = self.nests[place].accumulator_type(operator.accumulator)
            storage = self.writer.alloc(buffer.shape, type_, self.nests[place].hints.sums)
            extents = [operator.extents[d] for d in operator.parallels]
            self.kept = Location.circular(storage, buffer.shape, extents)
        elif self.kept is None and self.group.places[array] is Place.STREAMED:
            buffer = next(b for b in self._lasting if b.array == array and b.access is None)
            hint = self.nests[place].hints.chunks.get((array, None))
            self.kept = self._reserve(array, buffer.shape, hint)
        return self.kept

    @property
    def _lasting(self) -> list[Buffer]:
        """The buffers of the sink that last over the steps."""
        everyone = (0, len(self.group.operators) - 1)
        return [b for b in self.schedule.buffers if b.operators == everyone]
