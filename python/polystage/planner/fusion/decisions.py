"""What the planner decides for a whole program: groups of operators, their tiles, places of arrays.

A plan is complete: a group's schedule, its buffers and its traffic follow from it without further
choice (`polystage.planner.fusion.schedule`), and the lowering carries it out as it stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Place(StrEnum):
    """Where the elements of an array are while a group runs."""

    RESIDENT = "resident"
    """All of it on chip, from the group that makes or first loads it to the last that reads it."""
    WHOLE = "whole"
    """All of it on chip for this group, loaded before the first step."""
    WINDOW = "window"
    """On chip what the steps of this group need: an element comes once, when the first step needs
    it, and its bytes are free for others after the last step that does."""
    STREAMED = "streamed"
    """In DRAM; every execution of an operator brings what each of its chunks needs."""


@dataclass(frozen=True, slots=True)
class Loop:
    """`range(0, extent, tile)` over a dimension of an operator; the last tile may be smaller."""

    dim: int
    tile: int


@dataclass(frozen=True, slots=True)
class Nest:
    """How an operator executes the box of its iterations that a step asks for: chunk by chunk.

    `chunks` are loops over its own dimensions, outermost first; dimensions without one are taken
    whole. Streamed operands are loaded in the innermost of those loops that they depend on.
    """

    chunks: tuple[Loop, ...] = ()


@dataclass(frozen=True)
class Group:
    """Operators that run together, step by step.

    `loops`, outermost first, run over dimensions of the last operator, the sink. Each combination
    of their tiles is a step. In a step every operator, in order, computes what the operators after
    it need for their part of the step and what has not been computed before. Of arrays which are
    used after the group, everything is computed: gaps between what two steps need with the second,
    what remains in the end with the last.
    """

    operators: tuple[int, ...]
    """Indices into the program's operators, ascending and without gaps."""
    loops: tuple[Loop, ...] = ()
    nests: tuple[Nest, ...] = ()
    """One per operator."""
    places: Mapping[str, Place] = field(default_factory=dict[str, Place])
    """The place of every array that the group touches, by name; for an array that only this group
    touches, WINDOW or WHOLE."""


@dataclass(frozen=True)
class Plan:
    """The groups of a program, in program order; every operator is in exactly one."""

    groups: tuple[Group, ...]

    @property
    def resident(self) -> frozenset[str]:
        """The arrays that stay on chip between groups."""
        return frozenset(
            name
            for group in self.groups
            for name, place in group.places.items()
            if place is Place.RESIDENT
        )
