"""Accesses, then statements: from what an operation touches through views to sets and maps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import islpy as isl

from polystage.mlir import ir
from polystage.polyhedral.domains import AccessMaps, Scope
from polystage.polyhedral.expressions import NotAffineError, Range, substitute, used_dims
from polystage.polyhedral.model import Access, Array, Bound, Kind, Statement
from polystage.polyhedral.names import Names, dimension_names, location_name, loop_names
from polystage.polyhedral.overlays import bounds_inside, shown_pieces
from polystage.polyhedral.scalar import classify
from polystage.polyhedral.views import View

Exprs = tuple[ir.AffineExpr, ...] | None


@dataclass(frozen=True)
class Part:
    """What an access is of which there are several for one value, each in other instances."""

    place: int
    """How many others come first."""
    where: tuple[Bound, ...] | None = None
    """Bounds over the same dims as the indices; None where these must lie inside of the view."""
    fill: ir.Attribute | None = None
    """What is read where none of the accesses happens."""


@dataclass(frozen=True)
class Touch:
    """An access before its statement is known: a view, and the index into it."""

    view: View
    indices: tuple[ir.AffineExpr, ...] | None
    """Dims are the operation's own loops, symbols the enclosing ones; None where not affine."""
    op: Any
    operand: int | None
    reason: str = ""
    part: Part | None = None

    @property
    def is_below(self) -> bool:
        """Whether other accesses for the same value come first."""
        return self.part is not None and self.part.place > 0

    @property
    def why(self) -> str:
        """The reason why the access is not exact."""
        return self.reason or self.view.reason


class Body:
    """What an operation reads, computes and writes."""

    def __init__(self, values: list[ir.Value], kind: Kind | None = None, reason: str = "") -> None:
        self.values = values
        self.kind = kind
        self.reason = reason
        self.reads: list[Touch] = []
        self.writes: list[Touch] = []
        self.leaf_of: dict[ir.Value, int] = {}
        self.carries: list[int | None] = []
        """For each write, the read of the value that it replaces, where that is used."""

    def add_read(self, value: ir.Value, touch: Touch) -> int | None:
        """Note that `value` comes from `touch`, unless nothing uses it."""
        if value in self.leaf_of:
            return self.leaf_of[value]
        if next(iter(value.uses), None) is None:
            return None
        self.leaf_of[value] = len(self.reads)
        self.reads.append(touch)
        return self.leaf_of[value]

    def add_parts(self, value: ir.Value, touches: Sequence[Touch]) -> None:
        """Note that `value` comes from the first of several accesses that happens."""
        if self.add_read(value, touches[0]) is not None:
            self.reads += touches[1:]

    def drop_reads(self, values: Iterable[ir.Value]) -> None:
        """Forget what `values` are read from."""
        dropped: set[int] = set()
        for value in values:
            index = self.leaf_of.pop(value, None)
            while index is not None and index < len(self.reads):
                dropped.add(index)
                index += 1
                if index == len(self.reads) or not self.reads[index].is_below:
                    break
        kept = [index for index in range(len(self.reads)) if index not in dropped]
        place = {index: number for number, index in enumerate(kept)}
        self.reads = [self.reads[index] for index in kept]
        self.leaf_of = {value: place[index] for value, index in self.leaf_of.items()}
        self.carries = [None if carry is None else place.get(carry) for carry in self.carries]


class StatementBuilder:
    """Makes statements of touches, with unique names."""

    def __init__(self, arrays: Mapping[str, Array], names: Names) -> None:
        self._arrays = arrays
        self._names = names
        self._maps = AccessMaps()

    def build(
        self,
        op: Any,
        body: Body,
        scope: Scope,
        position: tuple[int, ...],
        extents: Sequence[int],
        iterators: tuple[str, ...],
    ) -> Statement:
        """Return the statement of `op`, whose own loops have `extents` and `iterators`."""
        reads = [_exprs(touch, scope, extents) for touch in body.reads]
        writes = [_exprs(touch, scope, extents) for touch in body.writes]
        all_iterators = ("sequential",) * scope.depth + iterators
        kind = _kind(body, reads, writes, all_iterators)
        own = _own_names(kind, all_iterators, body, reads, writes)
        dims = (*loop_names(scope.depth), *own[scope.depth :])
        name = self._name(op, kind)
        domain = scope.extended(extents)
        place = _Instances(name, dims, domain, scope, extents)
        return Statement(
            name=name,
            kind=kind,
            domain=_named_domain(domain, name, dims),
            dims=dims,
            reads=self._accesses(place, body.reads, reads),
            writes=self._accesses(place, body.writes, writes),
            position=position,
            iterators=all_iterators,
            op=op,
            reason=body.reason or next((t.why for t in (*body.reads, *body.writes) if t.why), ""),
            location=location_name(op.location),
            loop_indices=_loop_indices(scope),
        )

    def _name(self, op: Any, kind: Kind) -> str:
        layer = location_name(op.location)
        suffix = f"_{kind}" if kind in (Kind.FILL, Kind.COPY) else ""
        return self._names.unique(f"{layer}{suffix}" if layer else str(kind))

    def _accesses(
        self, instances: "_Instances", touches: list[Touch], exprs: list[Exprs]
    ) -> tuple[Access, ...]:
        operands: list[list[tuple[Touch, Access]]] = []
        for touch, index in zip(touches, exprs, strict=True):
            access = self._access(instances, touch, index)
            if touch.is_below:
                operands[-1].append((touch, access))
            else:
                operands.append([(touch, access)])
        accesses: dict[tuple[Any, ...], Access] = {}
        for operand in operands:
            for access in _shown(instances, operand):
                key = (access.array, access.exprs, access.where, access.operand, access.op)
                accesses.setdefault(key, access)
        return tuple(accesses.values())

    def _access(self, instances: "_Instances", touch: Touch, index: Exprs) -> Access:
        """Return the access of all instances."""
        array = touch.view.array
        assert array is not None
        if index is None:
            relation = self._maps.everything(instances.domain, self._arrays[array].shape)
        else:
            relation = self._maps.exact(instances.domain, instances.key, index, instances.dims)
        relation = relation.set_tuple_name(isl.dim_type.in_, instances.name)
        relation = relation.set_tuple_name(isl.dim_type.out, array)
        return Access(array, relation, index, touch.op, touch.operand)


@dataclass(frozen=True)
class _Instances:
    """The instances of a statement."""

    name: str
    dims: tuple[str, ...]
    domain: isl.Set
    """An unnamed tuple."""
    scope: Scope
    extents: Sequence[int]

    @property
    def key(self) -> tuple[int, ...] | None:
        """What tells equal domains."""
        return tuple(self.extents) if self.scope.is_everything else None


def _shown(instances: _Instances, operand: list[tuple[Touch, Access]]) -> list[Access]:
    """Return the accesses for one value, each restricted to the instances that make it."""
    part = operand[0][0].part
    if part is None:
        return [operand[0][1]]
    accesses = [replace(access, where=_where(touch, instances)) for touch, access in operand]
    return shown_pieces(accesses, instances.domain, part.fill)


def _where(touch: Touch, instances: _Instances) -> tuple[Bound, ...]:
    """Return the bounds of an access over the statement's dims."""
    scope = instances.scope
    ranges = _ranges(scope, instances.extents)
    if touch.part is None or touch.part.where is None:
        return bounds_inside(_own_indices(touch, scope, ranges), touch.view.shape, ranges)
    where = touch.part.where
    exprs = _over_dims([bound.expr for bound in where], scope, ranges)
    return tuple(replace(bound, expr=expr) for bound, expr in zip(where, exprs, strict=True))


def _loop_indices(scope: Scope) -> tuple[ir.AffineExpr, ...]:
    dims = [ir.AffineExpr.get_dim(level) for level in range(scope.depth)]
    return tuple(substitute(e, [], dims, scope.ranges) for e in scope.indices)


def _exprs(touch: Touch, scope: Scope, extents: Sequence[int]) -> Exprs:
    """Return the index into the array over the statement's dims, or None if not affine."""
    if touch.indices is None or touch.view.exprs is None:
        return None
    ranges = _ranges(scope, extents)
    loops = [ir.AffineExpr.get_dim(level) for level in range(scope.depth)]
    try:
        indices = _own_indices(touch, scope, ranges)
        return tuple(substitute(e, indices, loops, ranges) for e in touch.view.exprs)
    except NotAffineError:
        return None


def _ranges(scope: Scope, extents: Sequence[int]) -> list[Range]:
    """Return the ranges of a statement's dims."""
    return [*scope.ranges, *((0, extent - 1) for extent in extents)]


def _own_indices(touch: Touch, scope: Scope, ranges: list[Range]) -> list[ir.AffineExpr]:
    """Return the index into the view over the statement's dims."""
    return _over_dims(touch.indices or (), scope, ranges)


def _over_dims(
    exprs: Sequence[ir.AffineExpr], scope: Scope, ranges: list[Range]
) -> list[ir.AffineExpr]:
    """Return expressions in the operation's own dims, and symbols, over the statement's dims."""
    dims = [ir.AffineExpr.get_dim(dim) for dim in range(len(ranges))]
    depth = scope.depth
    return [substitute(expr, dims[depth:], dims[:depth], ranges) for expr in exprs]


def _kind(body: Body, reads: list[Exprs], writes: list[Exprs], iterators: tuple[str, ...]) -> Kind:
    if body.kind is not None:
        return body.kind
    if any(touch.indices is None for touch in body.reads):
        return Kind.GATHER
    if set(iterators) <= {"sequential"}:
        return _kind_of_store(body, reads, writes, iterators)
    return classify(body.values, body.leaf_of, body.carries, "reduction" in iterators)


def _kind_of_store(
    body: Body, reads: list[Exprs], writes: list[Exprs], iterators: tuple[str, ...]
) -> Kind:
    """Tell by whether the old value is part of the new one, and comes up more than once."""
    array = body.writes[0].view.array
    carries = (
        place
        for place, touch in enumerate(body.reads)
        if touch.view.array == array and reads[place] == writes[0]
    )
    carry = next(carries, None)
    used = set[int]().union(*map(used_dims, writes[0] or ()))
    is_reduction = carry is not None and len(used) < len(iterators)
    return classify(body.values, body.leaf_of, [carry], is_reduction)


def _own_names(
    kind: Kind,
    iterators: tuple[str, ...],
    body: Body,
    reads: list[Exprs],
    writes: list[Exprs],
) -> tuple[str, ...]:
    carried = {carry for carry in body.carries if carry is not None}
    carried |= {index for index, touch in enumerate(body.reads) if touch.is_below}
    exact = [read for index, read in enumerate(reads) if read is not None and index not in carried]
    if not writes or writes[0] is None or len(exact) < len(reads) - len(carried):
        return tuple(f"d{dim}" for dim in range(len(iterators)))
    return dimension_names(kind, iterators, exact, writes[0])


def _named_domain(domain: isl.Set, name: str, dims: tuple[str, ...]) -> isl.Set:
    domain = domain.set_tuple_name(name)
    for place, dim in enumerate(dims):
        domain = domain.set_dim_name(isl.dim_type.set, place, dim)
    return domain
