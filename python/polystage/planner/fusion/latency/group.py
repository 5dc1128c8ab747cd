"""The walk through the steps of one group, in the order in which the lowering writes them."""

from collections import defaultdict
from collections.abc import Sequence

from polystage.planner.fusion.buffers import Buffer, Purpose
from polystage.planner.fusion.decisions import Group, Nest, Place
from polystage.planner.fusion.latency.nest import NestWalk
from polystage.planner.fusion.latency.record import Held, Record
from polystage.planner.fusion.schedule import GroupSchedule


class GroupWalk:
    """The walk through the steps of one group."""

    def __init__(
        self, record: Record, group: Group, steps: GroupSchedule, addresses: Sequence[int]
    ) -> None:
        self.record = record
        self.program = record.program
        self.group = group
        self.steps = steps
        self.last = len(group.operators) - 1
        self.arrays: dict[str, Held] = {}
        self.buffers: dict[str, tuple[Buffer, int]] = {}
        self.local: dict[int, list[tuple[Buffer, int]]] = defaultdict(list)
        for buffer, address in zip(steps.buffers, addresses, strict=True):
            if buffer.purpose is Purpose.ARRAY:
                self.buffers[buffer.array or ""] = buffer, address
            else:
                self.local[buffer.operators[1]].append((buffer, address))

    def run(self) -> None:
        """Walk through all steps."""
        nests = [self._nest(place, number) for place, number in enumerate(self.group.operators)]
        for step in range(self.steps.steps):
            for place in range(len(self.group.operators)):
                self._arrays_from(step, place)
                nests[place].run(step)
                self._stores(step, place)

    def _nest(self, place: int, number: int) -> NestWalk:
        nest = self.group.nests[place] if self.group.nests else Nest()
        boxes, own = self.steps.computes[place], self.local[place]
        return NestWalk(self.record, self.group, number, nest, boxes, own, self.arrays)

    def _arrays_from(self, step: int, place: int) -> None:
        """Reserve and load the arrays that are on chip from an operator on."""
        shares = self.steps.shares
        found = [
            name
            for name in self.group.places
            if self.group.places[name] is not Place.STREAMED
            if self._first(shares.get(name, name)) == place
        ]
        for name in sorted(found, key=shares.__contains__):  # owners of buffers come first
            self.arrays[name] = self._located(name)
        for name in found:
            if name in self.steps.loads:
                box = self.steps.loads[name][step].tolist()
                if all(stop > start for start, stop in box):
                    self.record.load(name, box, self.arrays[name], is_whole=False)

    def _first(self, name: str) -> int:
        """Return the operator of the group from which on an array is on chip."""
        return self.buffers[name][0].operators[0] if name in self.buffers else 0

    def _located(self, name: str) -> Held:
        """Return where an array is on chip."""
        if name in self.steps.shares:
            held = self.arrays[self.steps.shares[name]]
            if self.group.places[name] is Place.RESIDENT:
                self.record.resident.setdefault(name, held)
            return held
        if self.group.places[name] is Place.RESIDENT:
            if name not in self.record.resident:
                shape = self.program.arrays[name].shape
                self.record.resident[name] = self.record.reserve(
                    name, shape, self.record.hints[name], is_window=True
                )
            return self.record.resident[name]
        buffer, address = self.buffers[name]
        if name in self.arrays and buffer.operators == (0, self.last):
            return self.arrays[name]
        return self.record.reserve(name, buffer.shape, address, is_window=True)

    def _stores(self, step: int, place: int) -> None:
        for name, boxes in self.steps.stores.items():
            if self._last_writer(name) == place:
                for box in boxes[step].tolist():
                    if all(stop > start for start, stop in box):
                        self.record.store(name, box, self.arrays[name])

    def _last_writer(self, name: str) -> int:
        writers = self.program.writers(name)
        return max(p for p, number in enumerate(self.group.operators) if number in writers)
