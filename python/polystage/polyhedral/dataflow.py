"""Dependences on one array for any order of statements, loops around them included."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import islpy as isl

from polystage.polyhedral.dependences import Dependence, DependenceKind, event_of
from polystage.polyhedral.model import Statement


@dataclass(frozen=True)
class _Stamped:
    """Accesses of one statement to the array at hand, and when they happen."""

    statement: Statement
    accesses: isl.Map
    times: isl.Map
    """Statement instance to time; reads are one step before the writes of the same instance."""
    is_read: bool


def dataflow(
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
        event = event_of(array, statement)
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
