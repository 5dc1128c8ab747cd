"""Arrays that take the place of another as it dies: sums in place.

An operator that reads an element of one array and writes the same element of another may write it
over the one it reads, where nobody wants that any more. The second array then lies in the buffer of
the first, element by element, however the two are on chip.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from polystage.allocation import aligned
from polystage.planner.fusion.boxes import is_empty, is_nothing
from polystage.planner.fusion.buffers import Buffer, Purpose
from polystage.planner.fusion.decisions import Place
from polystage.planner.fusion.demand import Demand
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.program import Program
from polystage.planner.fusion.steps import before, window_extents
from polystage.polyhedral import Access, Role
from polystage.polyhedral.expressions import linear_terms


@dataclass(frozen=True)
class Succession:
    """An array that may take the place of another, where `operator` makes it."""

    operator: int
    dying: str
    made: str


@dataclass(frozen=True)
class Window:
    """What of an array, or of several in one buffer, is on chip in the steps of a group.

    Boxes are [loop 0, .., axes, 2] in the form of `boxes`.
    """

    needed: np.ndarray
    """What each step has to do with."""
    kept: np.ndarray | None
    """What it finds or leaves for others; None where there is one step."""
    operators: tuple[int, int]
    """The first and the last operator (index in the group) that touch it in a step."""
    element_bytes: int
    whole: tuple[int, ...] | None = None
    """The extents of the array, if all of it has a place."""

    @property
    def is_kept(self) -> bool:
        """Whether it lasts over steps."""
        if self.kept is None:
            return False
        return self.whole is not None or not bool(is_nothing(self.kept).all())

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of its buffer."""
        if self.whole is not None:
            return self.whole
        return window_extents(self.needed, self.needed if self.kept is None else self.kept)

    def lives(self, operators: int) -> tuple[int, int]:
        """Return the first and the last of so many operators during which the buffer is live."""
        return (0, operators - 1) if self.is_kept else self.operators

    def buffer(self, name: str, operators: int) -> Buffer:
        """Return its buffer in a group of so many operators."""
        lives = self.lives(operators)
        return Buffer(Purpose.ARRAY, name, lives, self.shape, self.element_bytes)

    def joined(self, other: "Window") -> "Window":
        """Return the window of both in one buffer."""
        kept = None
        if self.kept is not None and other.kept is not None:
            kept = np.minimum(self.kept, other.kept)
        first, last = zip(self.operators, other.operators, strict=True)
        return replace(
            self,
            needed=np.minimum(self.needed, other.needed),
            kept=kept,
            operators=(min(first), max(last)),
            whole=self.whole or other.whole,
        )


def successions(program: Program) -> tuple[Succession, ...]:
    """Return which arrays of a program may take the place of another, each once at most.

    The operator reads the dying array once, element by element as it writes, and last of all; what
    it writes is complete then, so that sums under way are elsewhere.
    """
    return program.remembered("successions", lambda: _successions(program))


def _successions(program: Program) -> tuple[Succession, ...]:
    found: list[Succession] = []
    for index, operator in enumerate(program.operators):
        taken: set[str] = set()
        for write in operator.writes:
            if program.writers(write.array) != (index,):
                continue
            for read in operator.reads:
                if read.array not in taken and _succeeds(program, index, read, write):
                    taken.add(read.array)
                    found.append(Succession(index, read.array, write.array))
                    break
    return tuple(found)


def _succeeds(program: Program, index: int, read: Access, write: Access) -> bool:
    """Tell whether what an operator writes may take the place of what it reads."""
    operator = program.operators[index]
    dying, made = program.arrays[read.array], program.arrays[write.array]
    if operator.kind not in (OperatorKind.CONTRACTION, OperatorKind.LANES, OperatorKind.COPY):
        return False
    is_wanted = dying.role is Role.OUTPUT or program.is_used_after(read.array, index)
    is_alike = (dying.shape, dying.dtype) == (made.shape, made.dtype)
    if is_wanted or not is_alike or program.writers(read.array)[-1:] >= (index,):
        return False
    if [access.array for access in operator.reads].count(read.array) > 1 or read.where:
        return False
    element = _element(operator, write)
    return element is not None and element == _element(operator, read) and _is_late(operator, read)


def _is_late(operator: Operator, read: Access) -> bool:
    """Tell whether the output is written only when the read has happened."""
    if operator.epilogue:
        return operator.accumulator is not None and operator.is_epilogue(read)
    return not operator.reductions


def _element(operator: Operator, access: Access) -> tuple[int | None, ...] | None:
    """Return the dim that counts each axis of an access, None for an axis of one element, if every
    iteration of the parallel dims has an element of its own; else None."""
    found: list[int | None] = []
    for expr in access.exprs or ():
        terms, constant = linear_terms(expr)
        dims = {atom.maybe_downcast(): factor for atom, factor in terms.items()}
        if constant or not all(hasattr(dim, "position") for dim in dims):
            return None
        moving = [(d.position, f) for d, f in dims.items() if operator.extents[d.position] > 1]
        if len(moving) > 1 or any(factor != 1 for _, factor in moving):
            return None
        found.append(moving[0][0] if moving else None)
    counting = [dim for dim in found if dim is not None]
    wanted = {dim for dim in operator.parallels if operator.extents[dim] > 1}
    return tuple(found) if len(counting) == len(wanted) and {*counting} == wanted else None


def bytes_shared(program: Program, operator: int, resident: Collection[str]) -> int:
    """Return the bytes of arrays which an operator alone in its group writes over others, where
    both are resident."""
    return sum(
        aligned(program.arrays[link.made].size_bytes)
        for link in successions(program)
        if link.operator == operator and link.made in resident and link.dying in resident
    )


def share(
    demand: Demand, windows: dict[str, Window], places: Mapping[str, Place]
) -> dict[str, str]:
    """Let arrays of a group take the place of others: return in whose buffer each of them lies.

    Joins `windows` where nowhere more is live for it, and removes those of arrays that lie in
    another's buffer.
    """
    owners: dict[str, str] = {}
    first, last = demand.group.operators[0], demand.group.operators[-1]
    for link in successions(demand.program):
        if not first <= link.operator <= last:
            continue
        boxes = _made(demand, link)
        if boxes is None or not _dies_in_time(demand, link, boxes):
            continue
        owner, made = owners.get(link.dying, link.dying), link.made
        if places.get(link.dying, Place.STREAMED) is Place.STREAMED:
            continue
        if places.get(made, Place.STREAMED) is Place.STREAMED:
            continue
        if places[owner] is Place.RESIDENT:
            owners[made] = owner
            windows.pop(made, None)
        elif places[made] is Place.RESIDENT:
            owners |= {name: made for name, other in owners.items() if other == owner}
            owners[owner] = made
            windows.pop(owner)
        else:
            both = windows[owner].joined(windows[made])
            if _is_no_more(both, windows[owner], windows[made], len(demand.group.operators)):
                owners[made] = owner
                windows[owner] = both
                windows.pop(made)
    return owners


def _made(demand: Demand, link: Succession) -> np.ndarray | None:
    """Return what each step makes of the array that may take another's place, if any does."""
    made = demand.writes.get(link.made, [])
    operators = demand.group.operators
    return next((boxes for place, boxes in made if operators[place] == link.operator), None)


def _dies_in_time(demand: Demand, link: Succession, made: np.ndarray) -> bool:
    """Tell whether no step touches an element of the dying array after one that made the element
    which takes its place."""
    if demand.steps == 1:
        return True
    operators = demand.group.operators
    reads = demand.reads[link.dying]
    touched = [boxes for place, boxes in reads if operators[place] != link.operator]
    touched += [boxes for _, boxes in demand.writes.get(link.dying, [])]
    for level in range(len(demand.shape)):
        earlier = before(made, level)
        if any(not is_empty(np.maximum(boxes, earlier)).all() for boxes in touched):
            return False
    return True


def _is_no_more(both: Window, one: Window, other: Window, operators: int) -> bool:
    """Tell whether a joined buffer needs no more than the two apart, during every operator."""
    joined, *apart = (window.buffer("", operators) for window in (both, one, other))
    first, last = joined.operators
    return all(
        joined.bytes <= sum(b.bytes for b in apart if b.operators[0] <= place <= b.operators[1])
        for place in range(first, last + 1)
    )
