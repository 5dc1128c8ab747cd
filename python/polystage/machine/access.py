"""Strided accesses as plain numbers: what a shape with strides looks like to the hardware."""

from collections.abc import Sequence


def merge_dims(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return (size, stride) of the fewest dimensions that visit the same elements in order.

    Dimensions of size 1 go, adjacent ones that continue each other become one:

    >>> merge_dims([4, 1, 8, 16], [256, 7, 16, 1])
    [(4, 256), (128, 1)]
    """
    merged: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return merged


def contiguous_run(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many elements follow each other in memory before the next jump.

    >>> [contiguous_run([4, 8], strides) for strides in ([16, 1], [8, 1], [8, 2])]
    [8, 32, 1]
    """
    dims = merge_dims(shape, strides)
    if not dims:
        return 1
    size, stride = dims[-1]
    return size if stride == 1 else 1


def innermost_stride(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return the stride, in elements, of the fastest dimension, 1 for a single element.

    >>> innermost_stride([4, 8, 1], [64, 3, 1]), innermost_stride([1], [5])
    (3, 1)
    """
    dims = merge_dims(shape, strides)
    return abs(dims[-1][1]) if dims else 1
