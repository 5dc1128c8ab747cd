"""What attention has to move through a scratchpad of a given size."""

import numpy as np

from polystage.planner.fusion.attention.operator import Attention

_PHASES = np.geomspace(1 / 64, 64, 193)
"""Lengths of a phase, over the capacity, of which the best is taken."""


def attention_words(
    heads: int, queries: int, keys: int, depth: int, values: int, capacity: int
) -> int:
    """Return the least words that any schedule moves which computes each score once and keeps it
    on chip until it is used.

    Cut a schedule into phases of T words moved. A score that lives across the border of two phases
    is one of at most W on chip. All others of a phase combine `a` rows of Q with `b` rows of K and
    V that were on chip at its start or were loaded, `a d + b (d + v) <= W + T`, so that there are
    at most `(W + T)^2 / (4 d (d + v))`. With n m scores in each of H heads

        words >= T (H n m / ((W + T)^2 / (4 d (d + v)) + W) - 1)        for every T,

    about `2 H n m d^2 / W` where v = d, and never less than Q, K, V and the result once. One pass
    over the keys per tile of queries moves `4 H n m d^2 / W`: twice as much, since the result's
    running rows take half of the scratchpad, which the argument leaves out.

    >>> attention_words(1, 1024, 1024, 64, 64, 524288) == 4 * 1024 * 64
    True
    """
    once = heads * (queries * (depth + values) + keys * (depth + values))
    moved = _PHASES * capacity
    inside = (capacity + moved) ** 2 / (4 * depth * (depth + values))
    least = moved * (heads * queries * keys / (inside + capacity) - 1)
    return max(once, int(least.max()))


def attention_bytes(operator: Attention, element_bytes: int, capacity_bytes: int) -> int:
    """Return the bytes of `attention_words` for an operator whose narrowest operand has
    `element_bytes` per element."""
    queries, keys, depth, values = operator.extents[-4:]
    heads = int(np.prod(operator.extents[:-4], dtype=np.int64))
    capacity = capacity_bytes // element_bytes
    return attention_words(heads, queries, keys, depth, values, capacity) * element_bytes
