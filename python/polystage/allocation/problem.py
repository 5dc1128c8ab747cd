"""What is to be placed where, what came of it, and what to say where it does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polystage.errors import PolystageError

BUFFER_ALIGNMENT_BYTES = 16
"""Where on-chip buffers may start: any element type is aligned there."""


def aligned(size: int, alignment: int = BUFFER_ALIGNMENT_BYTES) -> int:
    """Return `size` rounded up to the next place where a buffer may start.

    >>> aligned(17)
    32
    """
    return -(-size // alignment) * alignment


@dataclass(frozen=True)
class Memory:
    """Where buffers go: `capacity` bytes (None: as many as it takes) in units of `granule` bytes,
    of which a buffer takes as many as it touches."""

    name: str = ""
    capacity: int | None = None
    granule: int = 1


@dataclass(frozen=True)
class Buffer:
    """`size` bytes that are live during the half-open interval [start, end) of program positions.

    >>> Buffer("x", 0, 9, 64, gaps=((2, 4), (7, 9))).live
    ((0, 2), (4, 7))
    """

    name: str
    start: int
    end: int
    size: int
    rank: int = 0
    """Buffers of lower rank are placed first, at the lowest addresses."""
    gaps: tuple[tuple[int, int], ...] = ()
    """Intervals in between during which nobody needs what it holds."""
    alignment: int = 1
    """Its address is a multiple of that."""
    memory: str = ""
    """The name of the memory that it goes to."""
    address: int | None = None
    """Where it lies already, if that is fixed."""
    hint: int | None = None
    """Where it might lie: what lies there in an earlier answer, say."""
    group: str | None = None
    """Buffers of a group lie at the same address: they are names of the same bytes."""
    in_place_of: str | None = None
    """The name of a buffer whose address it may take although both are live for a while: an output
    that is written element by element over an input."""

    @property
    def live(self) -> tuple[tuple[int, int], ...]:
        """The intervals during which it is live, in order."""
        ranges: list[tuple[int, int]] = []
        start = self.start
        for gap_start, gap_end in sorted(self.gaps):
            if start < min(gap_start, self.end):
                ranges.append((start, min(gap_start, self.end)))
            start = max(start, gap_end)
        if start < self.end:
            ranges.append((start, self.end))
        return tuple(ranges)

    def overlaps(self, other: Buffer) -> bool:
        """Whether both are live at some position."""
        return any(a < d and c < b for a, b in self.live for c, d in other.live)


@dataclass(frozen=True)
class Problem:
    """Buffers, and the memories that they go to."""

    buffers: Sequence[Buffer]
    memories: Sequence[Memory] = (Memory(),)

    def __post_init__(self) -> None:
        names = {memory.name for memory in self.memories}
        for b in self.buffers:
            if b.memory not in names:
                raise AllocationError(
                    f"buffer '{b.name}' goes to memory '{b.memory}', which does not exist",
                    help=f"the memories are {', '.join(repr(name) for name in sorted(names))}",
                )
            if b.size < 0 or b.alignment < 1 or (b.address or 0) < 0:
                raise AllocationError(
                    f"buffer '{b.name}' has size {b.size}, alignment {b.alignment} and address "
                    f"{b.address}: sizes and addresses are not negative, alignments positive"
                )


@dataclass(frozen=True)
class Allocation:
    """An address for every buffer, and how good that is, by memory."""

    addresses: tuple[int, ...]
    peaks: Mapping[str, int]
    """Where the highest buffer ends."""
    bounds: Mapping[str, int]
    """Less than that is not possible."""

    @property
    def gap(self) -> float:
        """By how much of the bound the peak is above it, in the worst memory.

        >>> Allocation((0, 8), {"sbuf": 15}, {"sbuf": 10}).gap
        0.5
        """
        return max(
            (self.peaks[m] / max(bound, 1) - 1 for m, bound in self.bounds.items()), default=0
        )


class AllocationError(PolystageError):
    """What is asked for contradicts itself."""


class DoesNotFitError(PolystageError):
    """No placement within the capacity was found.

    `live` are the buffers live at the position of greatest demand, largest first, `demand` their
    bytes. `proven` says that there is none; else one may exist, but was not found.
    """

    def __init__(
        self, live: Sequence[Buffer], demand: int, capacity: int, memory: str = "", *, proven: bool
    ) -> None:
        where = f"memory '{memory}' holds" if memory else "the memory holds"
        message = f"{demand} bytes are live at once, and {where} {capacity}"
        if demand <= capacity:
            message += ", but no addresses exist that keep them apart"
            message += "" if proven else ", or they were not found"
        message += f"; live are {account(live)}"
        lacking = max(demand - capacity, 1)
        super().__init__(
            message,
            help=f"make the buffers smaller by {lacking} bytes together, let fewer of them live at "
            "once, or use a larger memory"
            + ("" if proven or demand > capacity else ", or more effort"),
        )
        self.live = list(live)
        self.demand = demand
        self.capacity = capacity
        self.proven = proven


def account(live: Sequence[Buffer]) -> str:
    """Return the largest of what is live at once as text."""
    listed = ", ".join(f"{b.name} {b.size}" for b in live[:6])
    return listed + (f" and {len(live) - 6} more" if len(live) > 6 else "")
