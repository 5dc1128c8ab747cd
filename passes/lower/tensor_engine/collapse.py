"""Merges adjacent loop dimensions that every operand walks contiguously."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polystage.passes.lower.generic_op import Access, GenericOp, Linear
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.mosaic import Array


def collapse_dims(
    builder: KernelBuilder, generic: GenericOp, values: Sequence[Array]
) -> tuple[GenericOp, list[Array]]:
    """Return the operation with as few loop dimensions as possible, and its collapsed operands.

    A 1x1 convolution over 56 x 56 becomes a matmul with 3136 columns:

        out[m, h, w] += weight[m, c] * in[c, h, w]    ->    out[m, hw] += weight[m, c] * in[c, hw]

    Unit dimensions must have been removed from the loops.
    """
    values = list(values)
    generic = _with_arrays(generic, values)
    while (pair := _mergeable_pair(generic)) is not None:
        generic = _merge(builder, generic, values, *pair)
    return generic, values


def _with_arrays(generic: GenericOp, values: Sequence[Array]) -> GenericOp:
    """Return the operation on the arguments of its kernel."""
    return generic.map_accesses(lambda a: replace(a, array=values[a.argument]))


def _accesses(generic: GenericOp) -> list[Access]:
    """Return the operands that matter: outputs, riders, and inputs that the body reads."""
    read = (a for a in generic.inputs if generic.is_read(a))
    return [*read, *generic.outputs, *generic.riders]


def _mergeable_pair(generic: GenericOp) -> tuple[int, int] | None:
    for access in _accesses(generic):
        for outer, inner in zip(access.index, access.index[1:], strict=False):
            d, e = outer.single, inner.single
            if d is None or e is None or (d in generic.reductions) != (e in generic.reductions):
                continue
            if all(_agrees(generic, a, d, e) for a in _accesses(generic)):
                return d, e
    return None


def _agrees(generic: GenericOp, access: Access, d: int, e: int) -> bool:
    """Whether the operand does not depend on d and e, or walks them as one contiguous dimension."""
    if d not in access.dims and e not in access.dims:
        return True
    position = _position(access, d)
    if position is None or position + 1 >= len(access.index):
        return False
    inner = access.index[position + 1]
    if inner.single != e or access.shape[position + 1] != generic.extents[e]:
        return False
    return access.continues(position)


def _position(access: Access, d: int) -> int | None:
    """Return the operand dimension that is exactly loop dimension d, where d occurs nowhere
    else."""
    places = [i for i, linear in enumerate(access.index) if d in linear.dims]
    if len(places) != 1 or access.index[places[0]].single != d:
        return None
    return places[0]


def _merge(
    builder: KernelBuilder, generic: GenericOp, values: list[Array], d: int, e: int
) -> GenericOp:
    """Return the operation with dimension e merged into d, and collapse the operands in
    `values`."""
    kept = [i for i in range(len(generic.extents)) if i != e]

    def rewrite(access: Access) -> Access:
        index = [Linear(x.constant, tuple(x.coefficients[i] for i in kept)) for x in access.index]
        position = _position(access, d)
        if position is not None and e in access.dims and access in _accesses(generic):
            groups = [1] * len(index)
            groups[position] = 2
            del groups[position + 1]
            values[access.argument] = builder.collapse(values[access.argument], groups)
            del index[position + 1]
        return replace(access, array=values[access.argument], index=tuple(index))

    extents = list(generic.extents)
    extents[d] *= extents[e]
    place = {old: new for new, old in enumerate(kept)}
    return replace(
        generic.map_accesses(rewrite),
        extents=tuple(extents[i] for i in kept),
        reductions=frozenset(place[i] for i in generic.reductions if i != e),
    )
