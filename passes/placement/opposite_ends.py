"""Which kernels lie at the far end of a memory, so that kernels that follow each other meet as
little as possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise


def far_kernels(calls: Sequence[str]) -> set[str]:
    """Return the kernels to place from the end of the memory backwards, the others lying at its
    start, such that few of the `calls` that follow each other have their kernels at the same end.

    Kernels are given ends in the order of their first call; then each moves to the other end as
    long as that parts more calls than it joins (local search for a maximum cut).

    >>> sorted(far_kernels(["a", "b", "c", "d"]))
    ['b', 'd']
    >>> sorted(far_kernels(["a", "b", "a", "c", "a", "c", "b", "a"]))  # b and c meet only once
    ['b', 'c']
    """
    meetings: dict[str, Counter[str]] = {name: Counter() for name in dict.fromkeys(calls)}
    for first, second in pairwise(calls):
        if first != second:
            meetings[first][second] += 1
            meetings[second][first] += 1
    ends: dict[str, int] = {}
    moved = True
    while moved:
        moved = False
        for name, others in meetings.items():
            near = sum(n for other, n in others.items() if ends.get(other) == 0)
            far = sum(n for other, n in others.items() if ends.get(other) == 1)
            here = ends.get(name)
            if here is None:
                ends[name], moved = int(near > far), True
            elif (near, far)[here] > (near, far)[1 - here]:
                ends[name], moved = 1 - here, True
    return {name for name, end in ends.items() if end}
