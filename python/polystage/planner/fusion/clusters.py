"""From statements to operators: fills folded in, elementwise followers joined to what they follow.

before: `acc = 0; acc += a * b; y = relu(acc + bias)` on three arrays
after: one operator that accumulates from 0 and writes `y`; `acc` is no array any more
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import islpy as isl

from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir
from polystage.planner.fusion.attention.matching import find_attention
from polystage.planner.fusion.operators import Operator, OperatorKind
from polystage.planner.fusion.work import accumulator_bytes, lane_operations
from polystage.polyhedral import Access, Kind, Role, Statement, TensorProgram
from polystage.polyhedral.domains import ranges_of, variables
from polystage.polyhedral.expressions import linear_terms, substitute, to_aff
from polystage.polyhedral.model import map_from_affs

_IN = isl.dim_type.in_
_KINDS = {
    Kind.CONTRACTION: OperatorKind.CONTRACTION,
    Kind.GATHER: OperatorKind.GATHER,
    Kind.COPY: OperatorKind.COPY,
    Kind.OPAQUE: OperatorKind.OPAQUE,
}
_ANCHORS = frozenset({Kind.CONTRACTION, Kind.REDUCTION})
_FOLLOWERS = frozenset({Kind.ELEMENTWISE, Kind.COPY})


def operators_of(tensors: TensorProgram) -> tuple[Operator, ...]:
    """Return the operators of a program in program order: each stands where its last statement
    does."""
    return _Clustering(tensors).operators()


@dataclass
class _Cluster:
    """An anchor and what follows it, while it is being found."""

    members: list[int]
    dims: list[Sequence[ir.AffineExpr]]
    """For each member, its dims as expressions in the anchor's."""


@dataclass
class _Clustering:
    tensors: TensorProgram
    taken: set[int] = field(default_factory=set[int])
    """Statements that are part of an operator which is not made of them alone."""
    initial: dict[int, ir.Attribute] = field(default_factory=dict[int, ir.Attribute])
    """By accumulating statement."""

    def __post_init__(self) -> None:
        self.statements = self.tensors.statements
        self.touching: defaultdict[str, list[int]] = defaultdict(list)
        """By array, the statements that read or write it, in program order."""
        for index, statement in enumerate(self.statements):
            for array in dict.fromkeys(access.array for access in statement.accesses):
                self.touching[array].append(index)

    def operators(self) -> tuple[Operator, ...]:
        """Return everything, ordered by last statements."""
        place = {statement.name: index for index, statement in enumerate(self.statements)}
        found = self._loops()
        for operator in find_attention(self.tensors):
            members = [place[statement.name] for statement in operator.statements]
            self.taken.update(members)
            found.append((max(members), operator))
        self._fold_fills()
        for index in reversed(range(len(self.statements))):  # the last producer takes an addition
            if index not in self.taken and self.statements[index].kind in _ANCHORS:
                cluster = self._grow(index)
                found.append((cluster.members[-1], self._operator(cluster)))
        for index, statement in enumerate(self.statements):
            if index not in self.taken:
                found.append((index, self._operator(_Cluster([index], [_own_dims(statement)]))))
        return tuple(operator for _, operator in sorted(found, key=lambda pair: pair[0]))

    # -- loops ---------------------------------------------------------------------------------

    def _loops(self) -> list[tuple[int, Operator]]:
        """Make one opaque operator of all statements in a loop nest."""
        found: list[tuple[int, Operator]] = []
        inside = [index for index, statement in enumerate(self.statements) if statement.depth]
        for _, group in groupby(inside, key=lambda index: self.statements[index].position[0]):
            members = list(group)
            self.taken.update(members)
            statements = [self.statements[index] for index in members]
            found.append((members[-1], _opaque(statements, "it is a loop nest")))
        return found

    # -- fills ---------------------------------------------------------------------------------

    def _fold_fills(self) -> None:
        """Find the fills that only say from what an accumulation starts."""
        for index, statement in enumerate(self.statements):
            value = _filled_value(statement)
            if value is None or index in self.taken:
                continue
            accumulation = self._accumulation(index)
            if accumulation is not None and accumulation not in self.initial:
                self.initial[accumulation] = value
                self.taken.add(index)

    def _accumulation(self, fill: int) -> int | None:
        """Return the statement that accumulates into just what `fill` writes, if nothing touches
        that before."""
        (write,) = self.statements[fill].writes
        filled = write.map.range()
        for index in self.touching[write.array]:
            if index <= fill:
                continue
            other = self.statements[index]
            touched = [a for a in other.accesses if a.array == write.array]
            if all(a.map.range().is_disjoint(filled) for a in touched):
                continue
            is_fold = other.kind in _ANCHORS and len(other.writes) == 1 and not other.depth
            is_same = all(a.exprs == other.writes[0].exprs and not a.where for a in touched)
            is_all = bool(other.writes[0].map.range().is_equal(filled))
            return index if is_fold and is_same and is_all and index not in self.taken else None
        return None

    # -- epilogues -----------------------------------------------------------------------------

    def _grow(self, anchor: int) -> _Cluster:
        """Return the anchor with the elementwise statements that alone read its result."""
        cluster = _Cluster([anchor], [_own_dims(self.statements[anchor])])
        while (follower := self._follower(cluster)) is not None:
            index, dims = follower
            cluster.members.append(index)
            cluster.dims.append(dims)
        self.taken.update(cluster.members)
        return cluster

    def _follower(self, cluster: _Cluster) -> tuple[int, Sequence[ir.AffineExpr]] | None:
        """Return the statement that can join, and its dims in those of the anchor."""
        last = self.statements[cluster.members[-1]]
        if len(last.writes) != 1 or last.writes[0].exprs is None:
            return None
        result = last.writes[0].array
        users = [
            index
            for index in self.touching[result]
            if index not in cluster.members and not self._is_folded_into(index, cluster.members[0])
        ]
        if self.tensors.arrays[result].role is not Role.INTERMEDIATE or len(users) != 1:
            return None
        index = users[0]
        statement = self.statements[index]
        if index in self.taken or index < cluster.members[-1] or statement.depth:
            return None
        if statement.kind not in _FOLLOWERS or any(a.exprs is None for a in statement.accesses):
            return None
        if self._moving_breaks(cluster, index):
            return None
        dims = self._follower_dims(cluster, statement, result)
        return None if dims is None else (index, dims)

    def _is_folded_into(self, index: int, anchor: int) -> bool:
        """Tell whether a statement is the fill of what the anchor accumulates."""
        return (
            anchor in self.initial
            and index in self.taken
            and self.statements[index].kind is Kind.FILL
            and index < anchor
        )

    def _moving_breaks(self, cluster: _Cluster, index: int) -> bool:
        """Tell whether something between would change what the cluster reads, if it ran at `index`,
        or the statement there writes what those before it read."""
        first = cluster.members[0]
        members = [self.statements[member] for member in cluster.members]
        read = {access.array for statement in members for access in statement.reads}
        if any(access.array in read for access in self.statements[index].writes):
            return True
        between = self.statements[first + 1 : index]
        return any(
            access.array in read
            for place, statement in enumerate(between, first + 1)
            if place not in cluster.members
            for access in statement.writes
        )

    def _follower_dims(
        self, cluster: _Cluster, statement: Statement, result: str
    ) -> Sequence[ir.AffineExpr] | None:
        """Return the statement's dims in those of the anchor, where each instance takes the result
        of one iteration of the anchor's parallel dims, and the other way round."""
        anchor = self.statements[cluster.members[0]]
        reads = [access for access in statement.reads if access.array == result]
        if any(a.exprs != reads[0].exprs or a.where for a in reads):
            return None
        ranges = ranges_of(anchor.domain)
        own = ranges_of(statement.domain)
        (write,) = self.statements[cluster.members[-1]].writes
        written = [substitute(e, cluster.dims[-1], (), ranges) for e in write.exprs or ()]
        found: dict[int, ir.AffineExpr] = {}
        for source, target in zip(written, reads[0].exprs or (), strict=True):
            here, there = _only_dim(source, ranges), _only_dim(target, own)
            if here is None or there is None or here[1] != there[1]:
                return None
            if (here[0] is None) != (there[0] is None):
                return None
            if here[0] is not None and there[0] is not None:
                if ranges[here[0]] != own[there[0]] or there[0] in found:
                    return None
                found[there[0]] = ir.AffineExpr.get_dim(here[0])
        wide = [dim for dim, ends in enumerate(own) if ends != (0, 0)]
        parallel = [
            dim
            for dim, ends in enumerate(ranges)
            if ends != (0, 0) and anchor.iterators[dim] != "reduction"
        ]
        if sorted(found) != wide or len(found) != len(parallel):
            return None
        zero = ir.AffineExpr.get_constant(0)
        return [found.get(dim, zero) for dim in range(len(own))]

    # -- operators -----------------------------------------------------------------------------

    def _operator(self, cluster: _Cluster) -> Operator:
        statements = tuple(self.statements[index] for index in cluster.members)
        anchor = statements[0]
        reason = _why_opaque(anchor)
        if reason:
            return _opaque(statements, reason)
        extents = tuple(high + 1 for _, high in ranges_of(anchor.domain))
        initial = self.initial.get(cluster.members[0])
        inner = {statement.writes[0].array for statement in statements[:-1]}
        if initial is not None and len(statements) == 1:
            inner = {anchor.writes[0].array}
        reads = [
            _over(access, anchor, dims)
            for statement, dims in zip(statements, cluster.dims, strict=True)
            for access in statement.reads
            if access.array not in inner or (statement is anchor and initial is None)
        ]
        kind = _KINDS.get(anchor.kind, OperatorKind.LANES)
        macs = 1 if kind is OperatorKind.CONTRACTION else 0
        for extent in extents:
            macs *= extent
        writes = tuple(_over(access, anchor, cluster.dims[-1]) for access in statements[-1].writes)
        return Operator(
            name=anchor.name,
            kind=kind,
            statements=statements,
            extents=extents,
            iterators=anchor.iterators,
            reads=tuple(reads),
            writes=writes,
            initial=initial,
            macs=macs,
            lane_operations=lane_operations(statements),
            accumulator=accumulator_bytes(statements, self.tensors.arrays),
        )


def _own_dims(statement: Statement) -> Sequence[ir.AffineExpr]:
    return [ir.AffineExpr.get_dim(dim) for dim in range(len(statement.dims))]


def _only_dim(
    expr: ir.AffineExpr, ranges: Sequence[tuple[int, int]]
) -> tuple[int | None, int] | None:
    """Return dim and constant of `dim + constant`, no dim where there is but one value of it, or
    None for any other expression."""
    terms, constant = linear_terms(expr)
    wide: list[int] = []
    for atom, factor in terms.items():
        if not isinstance(atom, ir.AffineDimExpr):
            return None
        if ranges[atom.position] == (0, 0):
            continue
        if factor != 1:
            return None
        wide.append(atom.position)
    if len(wide) > 1:
        return None
    return (wide[0] if wide else None), constant


def _over(access: Access, anchor: Statement, dims: Sequence[ir.AffineExpr]) -> Access:
    """Return an access over the dims of the anchor, given its own in those."""
    if access.map.get_tuple_name(_IN) == anchor.name or access.exprs is None:
        return access
    ranges = ranges_of(anchor.domain)
    exprs = tuple(substitute(expr, dims, (), ranges) for expr in access.exprs)
    where = tuple(replace(b, expr=substitute(b.expr, dims, (), ranges)) for b in access.where)
    space = anchor.domain.get_space()
    affs = [to_aff(expr, variables(space)) for expr in dims]
    instances = map_from_affs(space, affs, access.map.get_tuple_name(_IN))
    relation = instances.intersect_domain(anchor.domain).apply_range(access.map)
    return replace(access, map=relation, exprs=exprs, where=where)


def _filled_value(statement: Statement) -> ir.Attribute | None:
    """Return the constant that a statement writes everywhere, or None."""
    if statement.kind is not Kind.FILL or statement.depth or len(statement.writes) != 1:
        return None
    if statement.op.name != "linalg.generic" or statement.writes[0].exprs is None:
        return None
    block = statement.op.regions[0].blocks[0]
    constant = defining_op(list(block.operations)[-1].operands[0])
    if constant is None or constant.name != "arith.constant":
        return None
    return constant.attributes["value"]


def _why_opaque(statement: Statement) -> str:
    """Return why the planner cannot model a statement outside of loops, or nothing."""
    if statement.kind is Kind.OPAQUE:
        return statement.reason or "it is not understood"
    if any(access.exprs is None for access in statement.writes):
        return statement.reason or "it writes where the data says"
    if statement.domain.is_empty() or not statement.domain.is_box():
        return "its iterations are no box"
    for write in statement.writes:
        for read in statement.reads:
            if read.array != write.array or (read.exprs == write.exprs and not read.where):
                continue
            if not read.map.range().is_disjoint(write.map.range()):
                return f"it reads other elements of '{write.array}' than those it replaces"
    return ""


def _opaque(statements: Iterable[Statement], reason: str) -> Operator:
    """Return an operator that touches all of every array that the statements name."""
    statements = tuple(statements)
    reads = {access.array: access for s in statements for access in s.reads}
    writes = {access.array: access for s in statements for access in s.writes}
    return Operator(
        name=statements[0].name,
        kind=OperatorKind.OPAQUE,
        statements=statements,
        extents=(),
        iterators=(),
        reads=tuple(replace(access, exprs=None, where=()) for access in reads.values()),
        writes=tuple(replace(access, exprs=None, where=()) for access in writes.values()),
        reason=reason,
    )
