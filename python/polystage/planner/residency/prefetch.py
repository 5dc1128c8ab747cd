"""When the weights of every operator of a group start to come in."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.allocation import Buffer, DoesNotFitError, aligned, first_fit_decreasing

Life = tuple[int, int]
"""First and last operator that needs a buffer."""

PARTS = 8
"""Into how many steps the room for weights is cut when buffers do not fit as they fall."""


def load_positions(
    weights: Sequence[int], arrays: Sequence[tuple[Life, int]], capacity: int
) -> list[int] | None:
    """Return the operator before which the weights of each start to load: as early as they fit
    beside arrays and other weights; None where some operator does not fit at all.

    `weights` are the bytes of every operator's weights, `arrays` the lives and bytes of arrays.
    Loads are carried out in order, so nothing starts before what comes before it. First fit has to
    find a place for every buffer, too: where it does not, loads start later.

    Units: bytes per partition.

    >>> load_positions([4, 4, 4], [((0, 2), 2)], 10)
    [0, 0, 1]
    """
    for part in range(PARTS, 0, -1):
        room = capacity * part // PARTS
        positions = _earliest(weights, arrays, room, capacity)
        if positions is None:
            return None
        if _fits(weights, arrays, positions, capacity):
            return positions
    positions = list(range(len(weights)))
    return positions if _fits(weights, arrays, positions, capacity) else None


def _earliest(
    weights: Sequence[int], arrays: Sequence[tuple[Life, int]], room: int, capacity: int
) -> list[int] | None:
    """Return the positions with at most `room` bytes in use, except where one operator alone needs
    more of the `capacity`."""
    used = [0] * len(weights)
    for (first, last), size in arrays:
        for position in range(first, last + 1):
            used[position] += size
    positions: list[int] = []
    for number, size in enumerate(weights):
        if used[number] + size > capacity:
            return None
        position = number
        least = positions[-1] if positions else 0
        while position > least and used[position - 1] + size <= room:
            position -= 1
        for between in range(position, number + 1):
            used[between] += size
        positions.append(position)
    return positions


def _fits(
    weights: Sequence[int],
    arrays: Sequence[tuple[Life, int]],
    positions: Sequence[int],
    capacity: int,
) -> bool:
    buffers = [Buffer("array", a, b + 1, aligned(size)) for (a, b), size in arrays]
    buffers += [
        Buffer("weights", position, number + 1, aligned(size))
        for number, (position, size) in enumerate(zip(positions, weights, strict=True))
        if size
    ]
    try:
        first_fit_decreasing(buffers, capacity)
    except DoesNotFitError:
        return False
    return True
