"""Static allocation: buffers with live ranges to addresses of one memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BUFFER_ALIGNMENT_BYTES = 16
"""Where on-chip buffers may start: any element type is aligned there."""


def aligned(size: int, alignment: int = BUFFER_ALIGNMENT_BYTES) -> int:
    """Return `size` rounded up to the next place where a buffer may start.

    >>> aligned(17)
    32
    """
    return -(-size // alignment) * alignment


@dataclass(frozen=True)
class Buffer:
    """`size` bytes that are live during the half-open interval [start, end) of program
    positions.

    Buffers of lower `rank` are placed first, at the lowest addresses.
    """

    name: str
    start: int
    end: int
    size: int
    rank: int = 0

    def overlaps(self, other: Buffer) -> bool:
        """Whether both are live at some position."""
        return self.start < other.end and other.start < self.end


class DoesNotFitError(Exception):
    """No placement within the capacity was found.

    `live` are the buffers live at the position of greatest demand, `demand` their bytes.
    """

    def __init__(self, live: list[Buffer], demand: int, capacity: int) -> None:
        super().__init__(f"{demand} bytes are live at once, {capacity} are there")
        self.live = live
        self.demand = demand
        self.capacity = capacity


def first_fit_decreasing(buffers: Sequence[Buffer], capacity: int, alignment: int = 1) -> list[int]:
    """Return an address for every buffer such that buffers live at the same time do not overlap.

    The buffers of the lowest rank, of these the largest, are placed first, each at the lowest
    address that is free during its whole life.

    Units: bytes.

    Raises:
        DoesNotFitError: a buffer ends beyond `capacity`.
    """
    order = sorted(
        range(len(buffers)),
        key=lambda i: (buffers[i].rank, -buffers[i].size, buffers[i].start, i),
    )
    placed: list[tuple[int, Buffer]] = []
    addresses = [0] * len(buffers)
    for i in order:
        address = _lowest_gap(buffers[i], placed, alignment)
        if address + buffers[i].size > capacity:
            raise DoesNotFitError(*peak(buffers), capacity)
        addresses[i] = address
        placed.append((address, buffers[i]))
    return addresses


def _lowest_gap(buffer: Buffer, placed: list[tuple[int, Buffer]], alignment: int) -> int:
    address = 0
    for start, other in sorted(
        ((a, b) for a, b in placed if b.overlaps(buffer)), key=lambda pair: pair[0]
    ):
        if start >= address + buffer.size:
            break
        end = start + other.size
        address = max(address, aligned(end, alignment))
    return address


def peak(buffers: Sequence[Buffer]) -> tuple[list[Buffer], int]:
    """Return the buffers live at the position of greatest demand, largest first, and that demand
    in bytes."""
    best: tuple[list[Buffer], int] = ([], 0)
    for position in sorted({b.start for b in buffers}):
        live = [b for b in buffers if b.start <= position < b.end]
        demand = sum(b.size for b in live)
        if demand > best[1]:
            best = (sorted(live, key=lambda b: -b.size), demand)
    return best
