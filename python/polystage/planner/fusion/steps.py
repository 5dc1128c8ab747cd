"""What is new in each step of a group, and what must be on chip, from what each step needs.

Steps are the points of a box of loops: boxes come as [loop 0, loop 1, .., axes, 2] in the form of
`polystage.planner.fusion.boxes`. Earlier means lexicographically smaller. Needs that are the same
in all steps may have 1 in the place of every loop.
"""

from itertools import pairwise
from math import prod

import numpy as np

from polystage.planner.fusion.boxes import (
    EMPTY,
    is_empty,
    is_nothing,
    lengths,
    settled,
    volumes,
    whole,
    without,
)


def fresh(needed: np.ndarray) -> np.ndarray | None:
    """Return what each step needs and no earlier one did, or None where that is no box.

    Rows of three, shifted by two, are one row old and two rows new:

    >>> steps = np.array([[[0, -3]], [[2, -5]], [[4, -7]]])
    >>> fresh(steps).tolist()
    [[[0, -3]], [[3, -5]], [[5, -7]]]
    """
    swept = new = _without_repeated(needed)
    in_order = _is_swept(swept)
    loops = [level for level in range(needed.ndim - 2) if needed.shape[level] > 1]
    for level in loops:
        earlier = before(swept, level)
        if not in_order and not _is_told_apart(swept, earlier, level, level == loops[-1]):
            return None
        rest = without(new, earlier)
        if rest is None:
            return None
        new = rest
    return new


def _is_told_apart(swept: np.ndarray, earlier: np.ndarray, level: int, is_last: bool) -> bool:
    """Tell whether the hull of earlier iterations of a loop holds nothing that is new, although
    some axis moves in several loops, as rows `64*batch + row` do: where it touches nothing that is
    needed, or there are no loops inside and all moves forwards."""
    if is_last:
        return _moves_forwards(swept, level)
    return bool(is_empty(np.maximum(swept, earlier)).all())


def _without_repeated(needed: np.ndarray) -> np.ndarray:
    """Empty the boxes that lie in the one at the start of any loop."""
    new = needed.copy()
    for level in range(needed.ndim - 2):
        first, later = _along(level, slice(None, 1)), _along(level, slice(1, None))
        is_inside = (needed[first] <= needed[later]).all(axis=(-1, -2))
        new[later][is_inside] = EMPTY
    return new


def _along(level: int, part: slice) -> tuple[slice, ...]:
    """Return the index of a part of a loop's iterations."""
    return (*(slice(None),) * level, part)


def before(needed: np.ndarray, level: int) -> np.ndarray:
    """Return the hull of what earlier iterations of a loop need, with all loops inside of it."""
    reach = _reach(needed, level)
    found = np.full_like(reach, EMPTY)
    earlier, later = _along(level, slice(None, -1)), _along(level, slice(1, None))
    found[later] = np.minimum.accumulate(reach[earlier], axis=level)
    return found


def _reach(needed: np.ndarray, level: int) -> np.ndarray:
    """Return the hull over the loops inside of `level`."""
    inner = tuple(range(level + 1, needed.ndim - 2))
    return needed.min(axis=inner, keepdims=True) if inner else needed


def _is_swept(needed: np.ndarray) -> bool:
    """Tell whether every axis moves in one loop only, and forwards, and whether the steps that need
    nothing are whole iterations of loops: then hulls of earlier steps hold nothing new."""
    levels = needed.ndim - 2
    if sum(extent > 1 for extent in needed.shape[:levels]) == 0:
        return True
    empty = is_nothing(needed)
    is_there = np.ones_like(empty)
    moves = np.zeros(needed.shape[-2], dtype=np.int64)
    low = needed
    high = np.where(empty[..., None, None], -EMPTY, needed)
    for level in range(levels):
        if needed.shape[level] == 1:
            continue
        others = tuple(axis for axis in range(levels) if axis != level)
        is_there &= (~empty).any(axis=others, keepdims=True)
        smallest, largest = low.min(axis=level), high.max(axis=level)
        moves += (largest > smallest).any(axis=(*range(levels - 1), -1))
        if not _moves_forwards(needed, level):
            return False
    return bool((moves <= 1).all() and (is_there == ~empty).all())


def _moves_forwards(needed: np.ndarray, level: int) -> bool:
    """Tell whether starts and stops never go back in a loop."""
    empty = is_nothing(needed)[..., None]
    starts = np.maximum.accumulate(np.where(empty, -EMPTY, needed[..., 0]), axis=level)
    stops = np.minimum.accumulate(needed[..., 1], axis=level)
    forwards = (starts == needed[..., 0]) & (stops == needed[..., 1])
    return bool((forwards | empty).all())


def spread(needed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Widen boxes so that all steps together need every element of an array of `shape`.

    An axis that does not move is taken whole; one that moves begins with the first element, leaves
    no gaps, and ends with the last. Where nothing is needed, or axes do not move forwards each in a
    loop of its own, the last step needs everything.
    """
    swept = _without_repeated(needed)
    moving = None if is_nothing(swept).all() or not _is_swept(swept) else _moving(swept)
    if moving is None:
        new = fresh(needed)
        if new is not None and int(volumes(new).sum()) == prod(shape):
            return needed
        found = needed.copy()
        found[(-1,) * (needed.ndim - 2)] = whole(shape)
        return found
    found = swept.copy()
    for axis, level in enumerate(moving):
        if level is None:
            found[..., axis, :] = 0, -shape[axis]
        else:
            _close_gaps(found, swept, axis, level, shape[axis])
    found[is_nothing(swept)] = EMPTY
    return np.minimum(found, needed)


def _moving(swept: np.ndarray) -> list[int | None] | None:
    """Return in which loop each axis moves, if in any, or None where two move in one."""
    found: list[int | None] = [None] * swept.shape[-2]
    high = np.where(is_nothing(swept)[..., None, None], -EMPTY, swept)
    for level in range(swept.ndim - 2):
        moves = (high.max(axis=level) > swept.min(axis=level)).any(axis=-1)
        axes = np.flatnonzero(moves.reshape(-1, moves.shape[-1]).any(axis=0)).tolist()
        if len(axes) > 1:
            return None
        for axis in axes:
            found[axis] = level
    return found


def _close_gaps(found: np.ndarray, needed: np.ndarray, axis: int, level: int, extent: int) -> None:
    """Let every iteration of a loop begin where the one before it ends, and the last reach the end
    of the axis."""
    others = tuple(place for place in range(needed.ndim - 2) if place != level)
    ends = needed[..., axis, :].min(axis=others)
    there = np.flatnonzero(~is_empty(ends[:, None, :]))
    starts = found[..., axis, 0].swapaxes(0, level)
    stops = found[..., axis, 1].swapaxes(0, level)
    starts[there[0]] = 0
    for before, place in pairwise(there):
        starts[place] = np.minimum(starts[place], -ends[before, 1])
    stops[there[-1]] = -extent


def carried(needed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return, for each step of loops that run `shape` times, the hull of what an earlier one had
    and a later one needs.

    For each loop, that is what two of its iterations share, one at the step or before, one at the
    step or after it, with all that the loops inside of it do.
    """
    if needed.shape[:-2] != shape:
        return needed
    found = np.full_like(needed, EMPTY)
    if _is_constant(needed):
        if np.count_nonzero(~is_nothing(needed)) > 1:
            found[...] = needed.min(axis=tuple(range(needed.ndim - 2)))
        return found
    for level in range(needed.ndim - 2):
        count = needed.shape[level]
        if count == 1:
            continue
        reach = _reach(needed, level)
        until = np.minimum.accumulate(reach, axis=level)
        after = np.flip(np.minimum.accumulate(np.flip(reach, level), axis=level), level)
        earlier, later = _along(level, slice(None, -1)), _along(level, slice(1, None))
        shared = settled(np.maximum(until[earlier], after[later]))
        np.minimum(found[earlier], shared, out=found[earlier])
        np.minimum(found[later], shared, out=found[later])
    return found


def window_extents(needed: np.ndarray, kept: np.ndarray) -> tuple[int, ...]:
    """Return the extents of a buffer in which element x lies at `x mod extent`, given what each
    step needs and what it finds or leaves for others."""
    held = lengths(np.minimum(needed, kept))
    return tuple(np.maximum(held, 1).reshape(-1, held.shape[-1]).max(axis=0).tolist())


def first_needed(needed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return what is new in each step of loops that run `shape` times, or all of it in the first
    that needs any, where what is new is no box."""
    if needed.shape[:-2] == shape and not _is_constant(needed):
        new = fresh(needed)
        if new is not None:
            return new
    flat = needed.reshape(-1, *needed.shape[-2:])
    first = int(np.argmin(is_nothing(flat)))
    found = np.full((*shape, *needed.shape[-2:]), EMPTY, dtype=np.int64)
    found.reshape(-1, *needed.shape[-2:])[first] = flat.min(axis=0)
    return found


def _is_constant(needed: np.ndarray) -> bool:
    """Tell whether the steps that need anything need the same."""
    flat = needed.reshape(-1, *needed.shape[-2:])
    if len(flat) == 1:
        return True
    return bool(((flat == flat.min(axis=0)) | (flat == EMPTY)).all())
