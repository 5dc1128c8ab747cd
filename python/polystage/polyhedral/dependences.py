"""Exact data dependences between statement instances, array by array.

All three kinds are value-based: a flow dependence runs from the *last* write of an element to the
read, an anti dependence from a read to the *next* write, an output dependence from a write to the
next write. Everything else follows by transitivity. An inexact access ("some part of the array")
takes part as a possible one: it never hides an earlier write.

Arrays that only statements outside of loops touch, as in a whole model, are solved pair by pair,
latest writer first; the others by isl's dataflow analysis.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import islpy as isl

from polystage.mlir import ir
from polystage.polyhedral.expressions import linear_terms, used_dims
from polystage.polyhedral.model import Access, Array, Statement, map_from_affs


class DependenceKind(StrEnum):
    """Which accesses a dependence orders."""

    FLOW = "flow"
    """Write, then read of that value."""
    ANTI = "anti"
    """Read, then the next write."""
    OUTPUT = "output"
    """Write, then the next write."""


@dataclass(frozen=True)
class Dependence:
    """Instances of `target` that must run after instances of `source`."""

    kind: DependenceKind
    array: str
    source: str
    target: str
    map: isl.Map = field(repr=False)
    """Source instance to target instance."""


@dataclass(frozen=True)
class Dependences:
    """All dependences of a program, ordered by array, target and source."""

    all: tuple[Dependence, ...]
    live_in: dict[tuple[str, str], isl.Map] = field(repr=False)
    """Statement and array to the reads of elements that no statement has written before."""

    def __iter__(self) -> Iterator[Dependence]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def of_kind(self, kind: DependenceKind | str) -> list[Dependence]:
        """Return the flow, anti or output dependences."""
        return [dependence for dependence in self.all if dependence.kind == kind]

    @cached_property
    def _by_target(self) -> dict[str, list[Dependence]]:
        found: dict[str, list[Dependence]] = defaultdict(list)
        for dependence in self.all:
            found[dependence.target].append(dependence)
        return found

    @cached_property
    def _by_source(self) -> dict[str, list[Dependence]]:
        found: dict[str, list[Dependence]] = defaultdict(list)
        for dependence in self.all:
            found[dependence.source].append(dependence)
        return found

    def into(self, statement: str) -> list[Dependence]:
        """Return the dependences whose target is `statement`."""
        return self._by_target.get(statement, [])

    def out_of(self, statement: str) -> list[Dependence]:
        """Return the dependences whose source is `statement`."""
        return self._by_source.get(statement, [])


@dataclass(frozen=True)
class _Accumulation:
    """Instances that differ in the reduction dims only read and replace one element, in turn."""

    reduction: tuple[int, ...]
    extents: tuple[int, ...]


@dataclass(frozen=True)
class _Event:
    """What one statement does to the array at hand."""

    statement: Statement
    reads: isl.Map | None
    writes: isl.Map | None
    """The exact writes."""
    may_writes: isl.Map | None
    accumulation: _Accumulation | None


def compute_dependences(
    arrays: Mapping[str, Array], statements: Sequence[Statement]
) -> Dependences:
    """Return the dependences of `statements`, which are in program order."""
    touching: dict[str, list[Statement]] = defaultdict(list)
    for statement in statements:
        for array in dict.fromkeys(access.array for access in statement.accesses):
            touching[array].append(statement)
    found: list[Dependence] = []
    live_in: dict[tuple[str, str], isl.Map] = {}
    for array in arrays:
        users = touching.get(array, [])
        if not any(access.array == array for s in users for access in s.writes):
            _note_live_in(array, users, live_in)
        elif all(statement.depth == 0 for statement in users):
            found += _Pairing(array, users, live_in).solve()
        else:
            found += _dataflow(array, users, live_in)
    return Dependences(tuple(found), live_in)


def _note_live_in(
    array: str, users: Sequence[Statement], live_in: dict[tuple[str, str], isl.Map]
) -> None:
    for statement in users:
        reads = _union(access for access in statement.reads if access.array == array)
        if reads is not None:
            live_in[statement.name, array] = reads


def _union(accesses: Iterator[Access] | Sequence[Access]) -> isl.Map | None:
    total: isl.Map | None = None
    for access in accesses:
        total = access.map if total is None else total.union(access.map)
    return total


# -- statements outside of loops ---------------------------------------------------------------


class _Pairing:
    """Dependences on one array between statements that run one after the other."""

    def __init__(
        self, array: str, users: Sequence[Statement], live_in: dict[tuple[str, str], isl.Map]
    ) -> None:
        self.array = array
        self.live_in = live_in
        self.events = [_event(array, statement) for statement in users]
        self._first: dict[int, isl.Map] = {}
        self._last: dict[int, isl.Map] = {}
        self._written: dict[int, isl.Set] = {}
        self.found: list[Dependence] = []

    def solve(self) -> list[Dependence]:
        """Return the dependences on the array."""
        for place, event in enumerate(self.events):
            if event.writes is None or event.may_writes is not None:
                reads_before = reads_after = event.reads
            else:
                reads_before, reads_after = self._self_dependences(place)
                self._forward(DependenceKind.OUTPUT, place, self._last_writes(place).reverse())
            if event.may_writes is not None:
                self._forward(DependenceKind.OUTPUT, place, event.may_writes)
            if reads_before is not None:
                self._backward(place, reads_before)
            if reads_after is not None:
                self._forward(DependenceKind.ANTI, place, reads_after)
        return self.found

    def _add(self, kind: DependenceKind, source: int, target: int, relation: isl.Map) -> None:
        if not relation.is_empty():
            names = (self.events[place].statement.name for place in (source, target))
            self.found.append(Dependence(kind, self.array, *names, relation))

    def _self_dependences(self, place: int) -> tuple[isl.Map | None, isl.Map | None]:
        """Add what the statement depends on itself.

        Return its reads of values from before it, and those of elements that it does not write
        any more.
        """
        event = self.events[place]
        assert event.writes is not None
        if event.accumulation is None:
            return self._general_self_dependences(place)
        shape = event.accumulation
        first = _fixed(event.statement, dict.fromkeys(shape.reduction, 0))
        last = _fixed(event.statement, {dim: shape.extents[dim] - 1 for dim in shape.reduction})
        self._first[place] = event.writes.intersect_domain(first).reverse()
        self._last[place] = event.writes.intersect_domain(last).reverse()
        if any(shape.extents[dim] > 1 for dim in shape.reduction):
            step = _next_instance(event.statement, shape)
            if event.reads is not None:
                self._add(DependenceKind.FLOW, place, place, step)
            self._add(DependenceKind.OUTPUT, place, place, step)
        return (None if event.reads is None else self._first[place].reverse()), None

    def _general_self_dependences(self, place: int) -> tuple[isl.Map | None, isl.Map | None]:
        event = self.events[place]
        live: dict[tuple[str, str], isl.Map] = {}
        self.found += _dataflow(self.array, [event.statement], live)
        if event.reads is None:
            return None, None
        before = live.get((event.statement.name, self.array))
        not_later = isl.Map.lex_le(event.statement.domain.get_space())
        overwritten = not_later.apply_range(self._last_writes(place).reverse())
        return before, event.reads.subtract(overwritten)

    def _backward(self, place: int, reads: isl.Map) -> None:
        """Find the last writer of every element read."""
        for source in range(place - 1, -1, -1):
            event = self.events[source]
            if event.may_writes is not None:
                possible = reads.apply_range(event.may_writes.reverse()).reverse()
                self._add(DependenceKind.FLOW, source, place, possible)
            if event.writes is None:
                continue
            relation = reads.apply_range(self._last_writes(source)).reverse()
            if relation.is_empty():
                continue
            self._add(DependenceKind.FLOW, source, place, relation)
            reads = reads.subtract_range(self._range(source))
            if reads.is_empty():
                return
        self.live_in[self.events[place].statement.name, self.array] = reads

    def _forward(self, kind: DependenceKind, place: int, accesses: isl.Map) -> None:
        """Find the next writer of every element of `accesses`."""
        for target in range(place + 1, len(self.events)):
            event = self.events[target]
            if event.may_writes is not None:
                possible = accesses.apply_range(event.may_writes.reverse())
                self._add(kind, place, target, possible)
            if event.writes is None:
                continue
            relation = accesses.apply_range(self._first_writes(target))
            if relation.is_empty():
                continue
            self._add(kind, place, target, relation)
            accesses = accesses.subtract_range(self._range(target))
            if accesses.is_empty():
                return

    def _first_writes(self, place: int) -> isl.Map:
        if place not in self._first:
            self._first[place] = self._inverse_writes(place).lexmin()
        return self._first[place]

    def _last_writes(self, place: int) -> isl.Map:
        if place not in self._last:
            self._last[place] = self._inverse_writes(place).lexmax()
        return self._last[place]

    def _inverse_writes(self, place: int) -> isl.Map:
        writes = self.events[place].writes
        assert writes is not None
        return writes.reverse()

    def _range(self, place: int) -> isl.Set:
        if place not in self._written:
            writes = self.events[place].writes
            assert writes is not None
            self._written[place] = writes.range()
        return self._written[place]


def _event(array: str, statement: Statement) -> _Event:
    reads = [access for access in statement.reads if access.array == array]
    writes = [access for access in statement.writes if access.array == array]
    return _Event(
        statement,
        _union(reads),
        _union([access for access in writes if access.is_exact]),
        _union([access for access in writes if not access.is_exact]),
        _accumulation(statement, reads, writes),
    )


def _accumulation(
    statement: Statement, reads: list[Access], writes: list[Access]
) -> _Accumulation | None:
    """Recognise a linalg op that touches nothing of the array but the element it replaces."""
    if len(writes) != 1 or writes[0].exprs is None or statement.depth:
        return None
    if any(read.exprs != writes[0].exprs for read in reads):
        return None
    dims = range(len(statement.dims))
    extents = tuple(statement.domain.dim_max_val(dim).to_python() + 1 for dim in dims)
    used = set[int]().union(*map(used_dims, writes[0].exprs))
    reduction = tuple(dim for dim in dims if dim not in used)
    if _is_injective(writes[0], {dim for dim in used if extents[dim] > 1}, reduction):
        return _Accumulation(reduction, extents)
    return None


def _is_injective(write: Access, dims: set[int], reduction: tuple[int, ...]) -> bool:
    """Tell whether instances that differ in `dims` write different elements."""
    alone: set[int] = set()
    for expr in write.exprs or ():
        terms = list(linear_terms(expr)[0])
        if len(terms) == 1 and isinstance(terms[0], ir.AffineDimExpr):
            alone.add(terms[0].position)
    if dims <= alone:
        return True
    parallel = write.map
    for dim in reversed(reduction):
        parallel = parallel.project_out(isl.dim_type.in_, dim, 1)
    return bool(parallel.is_injective())


def _next_instance(statement: Statement, shape: _Accumulation) -> isl.Map:
    """Return the map of every instance to the next one that differs in the reduction dims only."""
    space = statement.domain.get_space()
    local = isl.LocalSpace.from_space(space)
    same = [isl.Aff.var_on_domain(local, isl.dim_type.set, d) for d in range(len(shape.extents))]
    zero = isl.Aff.zero_on_domain(local)
    total: isl.Map | None = None
    for place, stepped in enumerate(shape.reduction):
        if shape.extents[stepped] == 1:
            continue
        target = list(same)
        target[stepped] = same[stepped].add_constant_val(isl.Val(1))
        full: dict[int, int] = {}
        for inner in shape.reduction[place + 1 :]:
            target[inner] = zero
            full[inner] = shape.extents[inner] - 1
        source = _fixed(statement, full)
        source = source.upper_bound_val(
            isl.dim_type.set, stepped, isl.Val(shape.extents[stepped] - 2)
        )
        name = statement.name
        piece = map_from_affs(space, target, name).intersect_domain(source)
        total = piece if total is None else total.union(piece)
    assert total is not None
    return total


def _fixed(statement: Statement, values: Mapping[int, int]) -> isl.Set:
    domain = statement.domain
    for dim, value in values.items():
        domain = domain.fix_val(isl.dim_type.set, dim, isl.Val(value))
    return domain


# -- statements in loops -----------------------------------------------------------------------

_READ, _WRITE = "read of ", "write of "


def _dataflow(
    array: str, users: Sequence[Statement], live_in: dict[tuple[str, str], isl.Map]
) -> list[Dependence]:
    """Return the dependences on `array` by isl's dataflow analysis.

    Reads and writes of a statement become instances of their own, reads one step before the writes.
    """
    empty = isl.UnionMap("{}")
    reads, writes, may_writes, schedule = empty, empty, empty, empty
    length = max(2 * s.depth + 1 + len(s.dims) - s.depth for s in users)
    for statement in users:
        event = _event(array, statement)
        for relation, prefix, step in (
            (event.reads, _READ, 0),
            (event.writes, _WRITE, 1),
            (event.may_writes, _WRITE, 1),
        ):
            if relation is None:
                continue
            tag = prefix + statement.name
            tagged = isl.UnionMap.from_map(relation.set_tuple_name(isl.dim_type.in_, tag))
            if step == 0:
                reads = reads.union(tagged)
            elif relation is event.writes:
                writes = writes.union(tagged)
            else:
                may_writes = may_writes.union(tagged)
            schedule = schedule.union(_tagged_schedule(statement, tag, length, step))
    flow = _flow(reads, writes, may_writes, schedule)
    overwrite = _flow(writes.union(may_writes), writes, reads.union(may_writes), schedule)
    found = _collect(array, flow.get_may_dependence(), users)
    found += _collect(array, overwrite.get_may_dependence(), users)
    for relation in _maps(flow.get_may_no_source()):
        name = relation.get_tuple_name(isl.dim_type.in_).removeprefix(_READ)
        live_in[name, array] = relation.set_tuple_name(isl.dim_type.in_, name)
    order = {statement.name: place for place, statement in enumerate(users)}
    return sorted(found, key=lambda d: (order[d.target], order[d.source], d.kind))


def _tagged_schedule(statement: Statement, tag: str, length: int, step: int) -> isl.UnionMap:
    times = statement.schedule(length)
    times = times.add_dims(isl.dim_type.out, 1).fix_val(isl.dim_type.out, length, isl.Val(step))
    return isl.UnionMap.from_map(times.set_tuple_name(isl.dim_type.in_, tag))


def _flow(
    sink: isl.UnionMap, must: isl.UnionMap, may: isl.UnionMap, schedule: isl.UnionMap
) -> isl.UnionFlow:
    access = isl.UnionAccessInfo.from_sink(sink)
    access = access.set_must_source(must).set_may_source(may).set_schedule_map(schedule)
    return access.compute_flow()


def _maps(union: isl.UnionMap) -> list[isl.Map]:
    maps = union.get_map_list()
    return [maps.get_at(place) for place in range(maps.n_map())]


def _collect(array: str, union: isl.UnionMap, users: Sequence[Statement]) -> list[Dependence]:
    found: list[Dependence] = []
    for relation in _maps(union):
        source = relation.get_tuple_name(isl.dim_type.in_)
        target = relation.get_tuple_name(isl.dim_type.out)
        if target.startswith(_READ):
            kind = DependenceKind.FLOW
        else:
            kind = DependenceKind.ANTI if source.startswith(_READ) else DependenceKind.OUTPUT
        names = [name.removeprefix(_READ).removeprefix(_WRITE) for name in (source, target)]
        relation = relation.set_tuple_name(isl.dim_type.in_, names[0])
        relation = relation.set_tuple_name(isl.dim_type.out, names[1])
        found.append(Dependence(kind, array, names[0], names[1], relation))
    return found
