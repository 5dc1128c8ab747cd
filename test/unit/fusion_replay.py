"""Carries a schedule out element by element, and watches that everybody finds what they read."""

from itertools import product

import numpy as np

from polystage.planner.fusion.decisions import Group, Nest, Place
from polystage.planner.fusion.operators import Operator
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.schedule import GroupSchedule, Purpose, schedule
from polystage.polyhedral import Role
from polystage.polyhedral.expressions import evaluate

NOTHING = -1
TOKENS = 1 << 32
"""More than an array has elements: a slot says which element of which array it holds."""


def touched(access, box, shape) -> np.ndarray:
    """Return the elements that an access touches in a box of iterations, as linear indices, in an
    array over the box; NOTHING where it does not happen."""
    grid = np.meshgrid(*(np.arange(start, stop) for start, stop in box), indexing="ij")
    size = tuple(int(stop - start) for start, stop in box)
    index = [np.broadcast_to(evaluate(expr, grid), size) for expr in access.exprs]
    happens = np.ones(size, dtype=bool)
    for bound in access.where:
        value = evaluate(bound.expr, grid)
        happens &= (value >= bound.low) & (value <= bound.high)
    inside = [np.where(happens, i, 0) for i in index]
    linear = np.ravel_multi_index(inside, shape) if shape else np.zeros(size, dtype=np.int64)
    return np.where(happens, linear, NOTHING)


def elements(box, shape) -> np.ndarray:
    """Return the linear indices of a box of an array."""
    axes = np.ix_(*(np.arange(start, stop) for start, stop in box))
    return np.ravel_multi_index(axes, shape).reshape(-1) if shape else np.zeros(1, dtype=np.int64)


def written_by(operator: Operator) -> set[str]:
    """Return the arrays that an operator writes."""
    return {access.array for access in operator.writes}


class Replay:
    """One group, from what DRAM holds before it."""

    def __init__(
        self, program: Program, group: Group, schedule: GroupSchedule, resident: frozenset[str]
    ) -> None:
        self.program, self.group, self.schedule = program, group, schedule
        self.operators = [program.operators[index] for index in group.operators]
        self.windows = {
            b.array: np.full(b.shape, NOTHING)
            for b in schedule.buffers
            if b.purpose is Purpose.ARRAY
        }
        self.in_dram = {name: self._before(name) for name in group.places}
        self.written = {name: np.zeros(program.arrays[name].elements, int) for name in group.places}
        self.loaded = {name: np.zeros(program.arrays[name].elements, int) for name in group.places}
        self.stored = {name: np.zeros(program.arrays[name].elements, int) for name in group.places}
        self.used = {name: np.zeros(program.arrays[name].elements, bool) for name in group.places}
        self.tokens = {name: number * TOKENS for number, name in enumerate(group.places)}
        for name, place in group.places.items():
            if place is Place.RESIDENT and name not in schedule.shares:
                self.windows[name] = np.full(program.arrays[name].shape, NOTHING)
        for name, owner in schedule.shares.items():
            self.windows[name] = self.windows[owner]
        for name in resident & group.places.keys():
            self._put(name, np.flatnonzero(self.in_dram[name]))

    def _before(self, name: str) -> np.ndarray:
        """Return which elements somebody has made before the group."""
        array = self.program.arrays[name]
        there = np.full(array.elements, array.is_initialized)
        for index in self.program.writers(name):
            if index < self.group.operators[0]:
                operator = self.program.operators[index]
                for access in operator.writes:
                    if access.array == name:
                        box = [(0, extent) for extent in operator.extents]
                        there[touched(access, box, array.shape).reshape(-1)] = True
        return there

    def run(self) -> None:
        for step in range(self.schedule.steps):
            for name, boxes in self.schedule.loads.items():
                self._load(name, boxes[step])
            for place, operator in enumerate(self.operators):
                box = self.schedule.computes[place][step]
                if (box[:, 1] > box[:, 0]).all():
                    self._compute(place, operator, box)
                self._leave(step, place)
        self._check_end()

    def _leave(self, step: int, place: int) -> None:
        """Store what is complete after an operator, and forget buffers whose time is over."""
        for name, pieces in self.schedule.stores.items():
            writers = [i for i, o in enumerate(self.operators) if name in written_by(o)]
            if place == writers[-1]:
                for box in pieces[step]:
                    self._store(name, box)
        for buffer in self.schedule.buffers:
            is_brief = buffer.operators != (0, len(self.operators) - 1)
            if buffer.purpose is Purpose.ARRAY and is_brief and buffer.operators[1] == place:
                self.windows[buffer.array][...] = NOTHING

    def _load(self, name: str, box: np.ndarray) -> None:
        shape = self.program.arrays[name].shape
        indices = elements(box, shape)
        assert self.in_dram[name][indices].all(), f"{name} is loaded before it is made"
        self.loaded[name][indices] += 1
        self._put(name, indices)

    def _put(self, name: str, indices: np.ndarray) -> None:
        self.windows[name][self._slots(name, indices)] = indices + self.tokens[name]

    def _holds(self, name: str, indices: np.ndarray) -> bool:
        found = self.windows[name][self._slots(name, indices)]
        return bool((found == indices + self.tokens[name]).all())

    def _slots(self, name: str, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        shape = self.program.arrays[name].shape
        window = self.windows[name].shape
        return tuple(x % r for x, r in zip(np.unravel_index(indices, shape), window, strict=True))

    def _is_complete(self, place: int, box: np.ndarray) -> bool:
        operator = self.operators[place]
        return all(box[dim][1] == operator.extents[dim] for dim in operator.reductions)

    def _compute(self, place: int, operator: Operator, box: np.ndarray) -> None:
        complete = self._is_complete(place, box)
        for access in operator.reads:
            if operator.is_epilogue(access) and not complete:
                continue
            shape = self.program.arrays[access.array].shape
            indices = np.unique(touched(access, box, shape))
            indices = indices[indices != NOTHING]
            self.used[access.array][indices] = True
            if self.group.places[access.array] is Place.STREAMED:
                assert self.in_dram[access.array][indices].all()
            else:
                assert self._holds(access.array, indices), f"{operator.name} misses {access.array}"
        if complete:
            self._write(operator, box)

    def _write(self, operator: Operator, box: np.ndarray) -> None:
        box = [
            (0, 1) if dim in operator.reductions else tuple(ends) for dim, ends in enumerate(box)
        ]
        for access in operator.writes:
            indices = touched(access, box, self.program.arrays[access.array].shape).reshape(-1)
            self.written[access.array][indices] += 1
            assert len(np.unique(indices)) == len(indices)
            if self.group.places[access.array] is Place.STREAMED:
                self.stored[access.array][indices] += 1
            else:
                self._put(access.array, indices)

    def _store(self, name: str, box: np.ndarray) -> None:
        indices = elements(box, self.program.arrays[name].shape)
        assert self._holds(name, indices)
        assert (self.written[name][indices] == 1).all(), f"{name} is stored before it is made"
        self.stored[name][indices] += 1

    def _check_end(self) -> None:
        last = self.group.operators[-1]
        for name, place in self.group.places.items():
            array = self.program.arrays[name]
            size = array.element_bytes
            assert (self.loaded[name] <= 1).all()
            assert (self.written[name] <= 1).all()
            made = np.zeros(array.elements, bool)
            for operator in self.operators:
                for access in operator.writes:
                    if access.array == name:
                        everything = [(0, extent) for extent in operator.extents]
                        made[touched(access, everything, array.shape).reshape(-1)] = True
            wanted = self.program.is_used_after(name, last)
            if wanted:
                assert (self.written[name] == made).all()
            else:
                assert (self.written[name][self.used[name] & made] == 1).all()
            leaves = wanted and (place is not Place.RESIDENT or array.role is Role.OUTPUT)
            if leaves or place is Place.STREAMED:
                assert (self.stored[name] == made).all()
            else:
                assert not self.stored[name].any()
            if place is Place.RESIDENT and wanted:
                assert self._holds(name, np.flatnonzero(made))
            assert self.schedule.write_bytes.get(name, 0) == self.stored[name].sum() * size
            if place is not Place.STREAMED:
                assert self.schedule.read_bytes.get(name, 0) == self.loaded[name].sum() * size


def streamed_bytes(
    program: Program, operator: Operator, nest: Nest, box: np.ndarray, index: int
) -> tuple[int, tuple[int, ...]]:
    """Return the bytes that one read brings in one box, and the largest chunk, by running the chunk
    loops one by one."""
    access = operator.reads[index]
    array = program.arrays[access.array]
    loops = list(nest.chunks)
    if program.maps(operator).ends[index]:
        loops = [loop for loop in loops if operator.iterators[loop.dim] != "reduction"]
    used = {dim for expr in access.exprs for dim in range(len(box)) if f"d{dim}" in str(expr)}
    while loops and loops[-1].dim not in used:
        loops.pop()
    total, largest = 0, np.zeros(len(array.shape), dtype=int)
    for starts in product(*(range(*box[loop.dim], loop.tile) for loop in loops)):
        chunk = [tuple(ends) for ends in box]
        for loop, start in zip(loops, starts, strict=True):
            chunk[loop.dim] = (start, min(start + loop.tile, box[loop.dim][1]))
        indices = np.unique(touched(access, chunk, array.shape))
        indices = indices[indices != NOTHING]
        if len(indices):
            places = np.array(np.unravel_index(indices, array.shape)).reshape(len(array.shape), -1)
            extents = places.max(axis=1) - places.min(axis=1) + 1
            total += int(extents.prod())
            largest = np.maximum(largest, extents)
    return total * array.element_bytes, tuple(largest.tolist())


def replayed(program: Program, group: Group):
    found = schedule(program, group)
    Replay(program, group, found, frozenset()).run()
    return found


def window(found, name: str):
    (buffer,) = [b for b in found.buffers if b.array == name and b.purpose is Purpose.ARRAY]
    return buffer
