"""Accesses through overlays: which piece an instance reads, where it reads the constant below."""

from collections.abc import Sequence
from dataclasses import replace

import islpy as isl

from polystage.mlir import ir
from polystage.polyhedral.domains import variables
from polystage.polyhedral.expressions import (
    Range,
    from_terms,
    linear_terms,
    to_aff,
    value_range,
)
from polystage.polyhedral.model import Access, Bound


def bounds_inside(
    indices: Sequence[ir.AffineExpr], shape: Sequence[int], ranges: Sequence[Range]
) -> tuple[Bound, ...]:
    """Return what must hold for `indices` to lie inside of an array of `shape`.

    Constants of the indices become part of the limits, limits that the ranges of the dims imply
    become those of the range, and bounds that always hold are left out. A filter of 7 rows, of
    stride 2, on 224 rows with a border of 3:

    >>> with ir.Context():
    ...     h, kh = (ir.AffineExpr.get_dim(dim) for dim in range(2))
    ...     (bound,) = bounds_inside([h * 2 + kh - 3], [224], [(0, 111), (0, 6)])
    ...     print(bound.low, "<=", bound.expr, "<=", bound.high)
    3 <= d0 * 2 + d1 <= 226
    """
    found: list[Bound] = []
    for index, extent in zip(indices, shape, strict=True):
        terms, constant = linear_terms(index)
        expr = from_terms(terms)
        low, high = -constant, extent - 1 - constant
        ends = value_range(expr, ranges)
        if ends is not None:
            if low <= ends[0] and ends[1] <= high:
                continue
            low, high = max(low, ends[0]), min(high, ends[1])
        found.append(Bound(expr, low, high))
    return tuple(found)


def instances_where(domain: isl.Set, where: Sequence[Bound]) -> isl.Set:
    """Return the part of an unnamed `domain` in which all bounds hold."""
    dims = variables(domain.get_space())
    for bound in where:
        aff = to_aff(bound.expr, dims)
        zero = isl.Aff.zero_on_domain(aff.get_domain_local_space())
        domain = domain.intersect(aff.ge_set(zero.add_constant_val(isl.Val(bound.low))))
        domain = domain.intersect(aff.le_set(zero.add_constant_val(isl.Val(bound.high))))
    return domain


def shown_pieces(
    pieces: Sequence[Access], domain: isl.Set, fill: ir.Attribute | None
) -> list[Access]:
    """Restrict the accesses of one operand to the instances that each makes, top piece first.

    `domain` holds the statement's instances, without a name. Pieces that no instance reads are left
    out; so is `fill`, where the pieces leave nothing. If it is all that shows, the last access is
    kept, without instances.
    """
    left = domain
    shown: list[Access] = []
    for access in pieces:
        here = instances_where(left, access.where)
        if here.is_empty():
            continue
        left = left.subtract(here).coalesce()
        name = access.map.get_tuple_name(isl.dim_type.in_)
        relation = access.map.intersect_domain(here.set_tuple_name(name))
        shown.append(replace(access, map=relation))
        if left.is_empty():
            return shown
    if not shown:
        nowhere = isl.Map.empty(pieces[-1].map.get_space())
        shown.append(replace(pieces[-1], map=nowhere))
    shown[-1] = replace(shown[-1], fill=fill)
    return shown
