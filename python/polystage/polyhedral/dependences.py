"""Exact data dependences between statement instances, array by array.

All three kinds are value-based: a flow dependence runs from the *last* write of an element to the
read, an anti dependence from a read to the *next* write, an output dependence from a write to the
next write. Everything else follows by transitivity. An inexact access ("some part of the array")
takes part as a possible one: it never hides an earlier write.

Arrays that only statements outside of loops touch, as in a whole model, are solved pair by pair,
latest writer first; the others by parametric integer programming.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
            names = [self.events[place].statement.name for place in (source, target)]
            self.found.append(Dependence(kind, self.array, names[0], names[1], relation))

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
    if statement.domain.is_empty():
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


@dataclass(frozen=True)
class _Stamped:
    """Accesses of one statement to the array at hand, and when they happen."""

    statement: Statement
    accesses: isl.Map
    times: isl.Map
    """Statement instance to time; reads are one step before the writes of the same instance."""
    is_read: bool


def _dataflow(
    array: str, users: Sequence[Statement], live_in: dict[tuple[str, str], isl.Map]
) -> list[Dependence]:
    """Return the dependences on `array` by parametric integer programming over the times.

    The source of an access is the latest write before it: the lexicographic maximum of the times
    of all writes of the element. (isl's own `compute_flow` rejects some triangular nests.)
    """
    reads, writes, may_writes = _stamped_accesses(array, users)
    found: list[Dependence] = []
    for read in reads:
        last = _last_write(read, writes)
        found += _from_last(array, DependenceKind.FLOW, read, last, writes)
        found += _since_last(array, DependenceKind.FLOW, read, last, may_writes)
        unwritten = read.accesses
        if last is not None:
            unwritten = read.accesses.wrap().subtract(last.domain()).unwrap()
        if not unwritten.is_empty():
            live_in[read.statement.name, array] = unwritten
    for write in writes + may_writes:
        last = _last_write(write, writes)
        found += _since_last(array, DependenceKind.ANTI, write, last, reads)
        found += _from_last(array, DependenceKind.OUTPUT, write, last, writes)
        found += _since_last(array, DependenceKind.OUTPUT, write, last, may_writes)
    order = {statement.name: place for place, statement in enumerate(users)}
    found.sort(key=lambda d: (order[d.target], order[d.source], d.kind))
    return _merged(found)


def _stamped_accesses(
    array: str, users: Sequence[Statement]
) -> tuple[list[_Stamped], list[_Stamped], list[_Stamped]]:
    """Return the reads, the exact writes and the possible writes of the array."""
    length = max(s.depth + 1 + len(s.dims) for s in users)
    found: tuple[list[_Stamped], list[_Stamped], list[_Stamped]] = ([], [], [])
    for statement in users:
        event = _event(array, statement)
        times = statement.schedule(length).add_dims(isl.dim_type.out, 1)
        for place, accesses in enumerate((event.reads, event.writes, event.may_writes)):
            if accesses is not None:
                step = isl.Val(0 if place == 0 else 1)
                stamped = times.fix_val(isl.dim_type.out, length, step)
                found[place].append(_Stamped(statement, accesses, stamped, place == 0))
    return found


def _source_times(sink: _Stamped, source: _Stamped) -> isl.Map:
    """Return `[sink instance -> element] -> time` of the source's accesses to that element."""
    instances = sink.accesses.range_map().apply_range(source.accesses.reverse())
    return instances.apply_range(source.times)


def _before(times: isl.Map) -> isl.Map:
    """Return the map of everything to the times before its own."""
    return times.apply_range(isl.Map.lex_gt(times.range().get_space()))


def _earlier(sink: _Stamped) -> isl.Map:
    return _before(sink.accesses.domain_map().apply_range(sink.times))


def _last_write(sink: _Stamped, writes: list[_Stamped]) -> isl.Map | None:
    """Return `[sink instance -> element] -> time` of the last write before the access."""
    times: isl.Map | None = None
    for write in writes:
        own = _source_times(sink, write)
        times = own if times is None else times.union(own)
    return None if times is None else times.intersect(_earlier(sink)).lexmax()


def _from_last(
    array: str,
    kind: DependenceKind,
    sink: _Stamped,
    last: isl.Map | None,
    writes: list[_Stamped],
) -> Iterator[Dependence]:
    """Yield the dependences on the writes that happen at the time `last`."""
    for write in writes:
        if last is not None:
            yield from _dependence(array, kind, write, sink, last)


def _since_last(
    array: str,
    kind: DependenceKind,
    sink: _Stamped,
    last: isl.Map | None,
    sources: list[_Stamped],
) -> Iterator[Dependence]:
    """Yield the dependences on all accesses of the element since its last write."""
    for source in sources:
        times = _source_times(sink, source).intersect(_earlier(sink))
        if last is not None:
            times = times.subtract(_before(last))
        yield from _dependence(array, kind, source, sink, times)


def _dependence(
    array: str, kind: DependenceKind, source: _Stamped, sink: _Stamped, times: isl.Map
) -> Iterator[Dependence]:
    """Yield the dependence on the instances of `source` that run at `times`, if there are any."""
    if source.statement is sink.statement and source.is_read and not sink.is_read:
        same = sink.accesses.domain_map().apply_range(source.times)
        times = times.subtract(same)  # an instance reads before it writes anyway
    instances = times.apply_range(source.times.reverse())
    relation = instances.domain_factor_domain().reverse().coalesce()
    if not relation.is_empty():
        yield Dependence(kind, array, source.statement.name, sink.statement.name, relation)


def _merged(dependences: list[Dependence]) -> list[Dependence]:
    """Unite dependences of the same kind between the same statements."""
    found: dict[tuple[str, str, str], Dependence] = {}
    for d in dependences:
        key = (d.kind, d.source, d.target)
        if key in found:
            d = replace(d, map=found[key].map.union(d.map).coalesce())
        found[key] = d
    return list(found.values())
