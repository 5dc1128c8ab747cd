"""Where arrays and weights of a group lie in the scratchpad, and when weights start to come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polystage.allocation import Buffer, DoesNotFitError, aligned, first_fit_decreasing

Life = tuple[int, int]
"""First and last operator that needs a buffer."""


@dataclass(frozen=True)
class Piece:
    """Weights that come in together: before which operator, and to which address."""

    position: int
    address: int


@dataclass(frozen=True)
class Placement:
    """An address for every array, and the pieces of every operator's weights."""

    arrays: tuple[int, ...]
    pieces: tuple[tuple[Piece, ...], ...]


def place(
    arrays: Sequence[tuple[Life, int]], weights: Sequence[Sequence[int]], capacity: int
) -> Placement | None:
    """Return where everything lies, or None where it does not fit.

    Arrays lie at the low end, `weights[n]`, the pieces of operator n, from the high end downwards.
    They are loaded in order, and each starts as early as there is room for it until it is used: so
    transfers run ahead of the engines as far as the scratchpad allows.

    Units: bytes per partition.

    >>> placement = place([((0, 2), 16)], [[32], [32], [32]], 80)
    >>> [(piece.position, piece.address) for (piece,) in placement.pieces]
    [(0, 48), (0, 16), (1, 48)]
    """
    buffers = [Buffer("array", first, last + 1, aligned(size)) for (first, last), size in arrays]
    try:
        addresses = first_fit_decreasing(buffers, capacity)
    except DoesNotFitError:
        return None
    top = capacity // aligned(1) * aligned(1)
    taken = [_Taken(top - a - b.size, b) for a, b in zip(addresses, buffers, strict=True)]
    found: list[tuple[Piece, ...]] = []
    position = 0
    for user, sizes in enumerate(weights):
        pieces: list[Piece] = []
        for size in sizes:
            placed = _earliest(taken, aligned(size), position, user, top)
            if placed is None:
                return None
            taken.append(placed)
            position = placed.buffer.start
            pieces.append(Piece(position, top - placed.end))
        found.append(tuple(pieces))
        taken = [t for t in taken if t.buffer.end > position]
    return Placement(tuple(addresses), tuple(found))


@dataclass(frozen=True)
class _Taken:
    """A buffer at an address that counts from the high end."""

    start: int
    buffer: Buffer

    @property
    def end(self) -> int:
        return self.start + self.buffer.size


def _earliest(
    taken: Sequence[_Taken], size: int, position: int, user: int, capacity: int
) -> _Taken | None:
    """Return the earliest place, from `position` on, that is free until the user has run."""
    for start in range(position, user + 1):
        buffer = Buffer("weights", start, user + 1, size)
        address = _first_gap(taken, buffer)
        if address + size <= capacity:
            return _Taken(address, buffer)
    return None


def _first_gap(taken: Sequence[_Taken], buffer: Buffer) -> int:
    address = 0
    live = (t for t in taken if t.buffer.start < buffer.end and buffer.start < t.buffer.end)
    for other in sorted(live, key=lambda t: t.start):
        if other.start >= address + buffer.size:
            break
        address = max(address, other.end)
    return address
