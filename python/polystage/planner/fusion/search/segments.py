"""Operators that may run as one group, and the ways to do so."""

from collections.abc import Iterable
from dataclasses import dataclass

from polystage.planner.fusion.decisions import Group, Loop, Nest, Place
from polystage.planner.fusion.program import Program


@dataclass(frozen=True, slots=True)
class GroupOption:
    """One way to run a group, without names, so that it holds for every equal group."""

    bytes: int
    """On chip at the worst moment, with the resident arrays that the group touches."""
    traffic: int
    """DRAM bytes."""
    loops: tuple[Loop, ...]
    nests: tuple[Nest, ...]
    places: tuple[Place, ...]
    """Of the arrays that the group touches, in order of appearance."""


class Span:
    """The operators `start` to `stop` of a program."""

    def __init__(self, program: Program, start: int, stop: int, number: int) -> None:
        self.program = program
        self.start = start
        self.stop = stop
        self.operators = program.operators[start:stop]
        names = (name for operator in self.operators for name in operator.arrays)
        self.arrays = tuple(dict.fromkeys(names))
        """In order of appearance."""
        self.touched = frozenset(self.arrays)
        self.written = frozenset(a.array for o in self.operators for a in o.writes)
        self.number = number
        """The same for spans that are equal up to names."""

    def __len__(self) -> int:
        """Return the number of operators."""
        return self.stop - self.start


@dataclass(frozen=True)
class Segment:
    """A span that runs as one group, and what becomes of the arrays that it touches."""

    span: Span
    held: frozenset[str]
    """Resident arrays among them that are on chip before."""
    kept: frozenset[str]
    """Those that become resident here."""

    @property
    def resident(self) -> frozenset[str]:
        """The arrays that are resident while the group runs."""
        return self.held | self.kept

    def key(self) -> object:
        """Return what makes two segments have the same options."""
        places = tuple((n in self.held) + 2 * (n in self.kept) for n in self.span.arrays)
        return self.span.number, places

    def group(self, option: GroupOption) -> Group:
        """Return an option with the names of this segment."""
        places = dict(zip(self.span.arrays, option.places, strict=True))
        operators = tuple(range(self.span.start, self.span.stop))
        return Group(operators, option.loops, option.nests, places)


def step_places(segment: Segment, streams: frozenset[str], in_place: bool) -> dict[str, Place]:
    """Return the places of a group's arrays; what nobody in the group reads leaves in chunks,
    unless it is where the sums are (`in_place`)."""
    read = {access.array for operator in segment.span.operators for access in operator.reads}
    places: dict[str, Place] = {}
    for name in segment.span.arrays:
        leaves = name in segment.span.written and name not in read and not in_place
        streamed = name in streams or leaves
        places[name] = Place.STREAMED if streamed else Place.WINDOW
    return places | dict.fromkeys(segment.resident, Place.RESIDENT)


def best_of(options: Iterable[GroupOption]) -> tuple[GroupOption, ...]:
    """Return the options of which none needs less and moves less, by rising bytes."""
    kept: list[GroupOption] = []
    for option in sorted(options, key=lambda o: (o.bytes, o.traffic)):
        if not kept or option.traffic < kept[-1].traffic:
            kept.append(option)
    return tuple(kept)
