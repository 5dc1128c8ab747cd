"""Iteration domains of enclosing loops, and access maps over them, as isl objects.

Many statements of a model share extents and index expressions, so both are built once and renamed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import islpy as isl

from polystage.mlir import ir
from polystage.polyhedral.expressions import Range, substitute, to_aff
from polystage.polyhedral.model import map_from_affs


@dataclass(frozen=True)
class Scope:
    """The loops around a piece of the program."""

    domain: isl.Set
    """The instances of the loops, an unnamed tuple."""
    ranges: tuple[Range, ...] = ()
    position: tuple[int, ...] = ()
    """The place in the blocks outside of the innermost loop; see `Statement.position`."""
    indices: tuple[ir.AffineExpr, ...] = ()
    """The index of each loop, in symbols."""

    @property
    def depth(self) -> int:
        """The number of loops."""
        return len(self.ranges)

    def variables(self) -> list[isl.Aff]:
        """Return the loop indices as isl expressions."""
        return variables(self.domain.get_space())

    def aff(self, expr: ir.AffineExpr) -> isl.Aff:
        """Convert an expression in symbols (symbol `k` is loop `k`) to isl."""
        dims = [ir.AffineExpr.get_dim(level) for level in range(self.depth)]
        ranges = self.ranges or ((0, 0),)
        return to_aff(substitute(expr, [], dims, ranges), self.variables())

    def enter(
        self, lower: Sequence[ir.AffineExpr], upper: Sequence[ir.AffineExpr], step: int, ends: Range
    ) -> "Scope":
        """Return the scope in a loop over `n >= 0` with `max(lower) + n * step < min(upper)`.

        With step 1 the new dimension is the loop's index itself, otherwise the iteration number
        `n`.
        """
        inner = replace(
            self, domain=self.domain.add_dims(isl.dim_type.set, 1), ranges=(*self.ranges, ends)
        )
        index = inner.variables()[-1]
        domain = inner.domain
        if step != 1:
            zero = isl.Aff.zero_on_domain(index.get_domain_local_space())
            domain = domain.intersect(zero.le_set(index))
            index = index.scale_val(isl.Val(step)).add(inner.aff(lower[0]))
        else:
            for expr in lower:
                domain = domain.intersect(inner.aff(expr).le_set(index))
        for expr in upper:
            domain = domain.intersect(index.lt_set(inner.aff(expr)))
        return replace(inner, domain=domain)

    def extended(self, extents: Sequence[int]) -> isl.Set:
        """Return the domain of an operation with loops of its own inside of the scope."""
        own = box(tuple(extents))
        return own if self.is_everything else self.domain.flat_product(own)

    @property
    def is_everything(self) -> bool:
        """Whether there is no loop and no condition around."""
        return not self.ranges and bool(self.domain.plain_is_universe())


def outermost() -> Scope:
    """Return the scope of a function body."""
    return Scope(isl.Set.universe(isl.Space.set_alloc(isl.DEFAULT_CONTEXT, 0, 0)))


def range_of(domain: isl.Set, dim: int) -> tuple[int, int]:
    """Return the smallest and largest value of a dim of a bounded set that is not empty."""
    return domain.dim_min_val(dim).to_python(), domain.dim_max_val(dim).to_python()


def ranges_of(domain: isl.Set) -> list[tuple[int, int]]:
    """Return the smallest and largest value of every dim of a bounded set that is not empty.

    >>> ranges_of(isl.Set("{ [i, j] : 0 <= i < 4 and i <= j < 6 }"))
    [(0, 3), (0, 5)]
    """
    return [range_of(domain, dim) for dim in range(domain.dim(isl.dim_type.set))]


def variables(space: isl.Space) -> list[isl.Aff]:
    """Return the dimensions of a set space as expressions; a constant where there are none."""
    local = isl.LocalSpace.from_space(space)
    dims = range(space.dim(isl.dim_type.set))
    found = [isl.Aff.var_on_domain(local, isl.dim_type.set, dim) for dim in dims]
    return found or [isl.Aff.zero_on_domain(local)]


@cache
def box(extents: tuple[int, ...], name: str | None = None) -> isl.Set:
    """Return `{ [d0, ..] : 0 <= d0 < extents[0], .. }`."""
    space = isl.Space.set_alloc(isl.DEFAULT_CONTEXT, 0, len(extents))
    if name is not None:
        space = space.set_tuple_name(isl.dim_type.set, name)
    domain = isl.Set.universe(space)
    for dim, extent in enumerate(extents):
        domain = domain.lower_bound_val(isl.dim_type.set, dim, isl.Val(0))
        domain = domain.upper_bound_val(isl.dim_type.set, dim, isl.Val(extent - 1))
    return domain


class AccessMaps:
    """Builds access maps, each combination of domain and expressions once."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], isl.Map] = {}

    def exact(
        self, domain: isl.Set, key: object, exprs: tuple[ir.AffineExpr, ...], dims: tuple[str, ...]
    ) -> isl.Map:
        """Return the unnamed map of `exprs` on `domain`; equal domains are told by equal `key`s."""
        full_key = (key, exprs, dims)
        if key is None or full_key not in self._known:
            affs = [to_aff(expr, variables(domain.get_space())) for expr in exprs]
            result = map_from_affs(domain.get_space(), affs).intersect_domain(domain)
            for place, dim in enumerate(dims):
                result = result.set_dim_name(isl.dim_type.in_, place, dim)
            if key is None:
                return result
            self._known[full_key] = result
        return self._known[full_key]

    @staticmethod
    def everything(domain: isl.Set, shape: Sequence[int]) -> isl.Map:
        """Return the map of every instance to every element."""
        return isl.Map.from_domain_and_range(domain, box(tuple(shape)))
