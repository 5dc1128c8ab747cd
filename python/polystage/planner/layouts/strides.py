"""How an access walks through an array that is stored with one dimension outermost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from polystage.mlir import ir
from polystage.polyhedral.expressions import linear_terms, used_dims
from polystage.polyhedral.model import Access


@dataclass(frozen=True)
class IndexForm:
    """Where one dimension of an array is accessed: every loop's coefficient, and how many indices
    are touched.

    A loop under a division or a remainder has coefficient 0: it walks, but not in steps.
    """

    coefficients: dict[int, int]
    touched: int


@dataclass(frozen=True)
class Walk:
    """What one partition takes from DRAM at once: `elements`, in runs of `run_elements` neighbours.

    `partition_stride` is the distance between the first elements of neighbouring partitions, in
    elements; `wide_dims` counts the array dimensions within a partition with more than one element.
    """

    partition_stride: int
    elements: int
    run_elements: int
    wide_dims: int


def index_forms(access: Access, extents: Sequence[int], shape: Sequence[int]) -> list[IndexForm]:
    """Return how every dimension of the array is accessed; `extents` are those of the loops."""
    assert access.exprs is not None
    return [_form(e, extents, n) for e, n in zip(access.exprs, shape, strict=True)]


def _form(expr: ir.AffineExpr, extents: Sequence[int], size: int) -> IndexForm:
    coefficients: dict[int, int] = {}
    for term, coefficient in linear_terms(expr)[0].items():
        plain = isinstance(term, ir.AffineDimExpr)
        for loop in used_dims(term):
            coefficients[loop] = coefficient if plain else 0
    spans = [max(abs(c), 1) * (extents[loop] - 1) for loop, c in coefficients.items()]
    return IndexForm(coefficients, min(size, 1 + sum(spans)))


def dimension_of(forms: Sequence[IndexForm], loop: int) -> int | None:
    """Return the dimension of the array that `loop` walks with the largest steps, or None."""
    places = [
        (-abs(f.coefficients[loop]), i) for i, f in enumerate(forms) if loop in f.coefficients
    ]
    return min(places)[1] if places else None


def strides_with_outermost(shape: Sequence[int], home: int) -> list[int]:
    """Return the strides of an array stored with dimension `home` outermost, the others in order.

    >>> strides_with_outermost([4, 3, 5], 1)
    [5, 20, 1]
    """
    order = [home, *(d for d in range(len(shape)) if d != home)]
    strides = [0] * len(shape)
    for place, d in enumerate(order):
        strides[d] = prod(shape[e] for e in order[place + 1 :])
    return strides


def walk(
    forms: Sequence[IndexForm],
    extents: Sequence[int],
    shape: Sequence[int],
    home: int,
    loop: int,
) -> Walk:
    """Return how an access runs through an array stored with `home` outermost, with the iterations
    of `loop` across the partitions."""
    strides = strides_with_outermost(shape, home)
    inside: list[tuple[int, int]] = []
    partition_stride = 0
    wide = 0
    for form, stride in zip(forms, strides, strict=True):
        if loop not in form.coefficients:
            inside.append((stride, form.touched))
            wide += form.touched > 1
            continue
        step = max(abs(form.coefficients[loop]), 1) * stride
        partition_stride = min(partition_stride, step) if partition_stride else step
        others = {o: c for o, c in form.coefficients.items() if o != loop and c and extents[o] > 1}
        inside += [(abs(c) * stride, extents[o]) for o, c in others.items()]
        wide += bool(others)
    run = 1
    for stride, size in sorted(inside):
        if size > 1 and stride == run:
            run *= size
    elements = prod(size for _, size in inside)
    return Walk(partition_stride, elements, run, wide)
