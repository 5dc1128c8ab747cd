"""One call for all memories: heuristics first, exact search where they fail."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from polystage.allocation.first_fit import orders, place_in_order, vary
from polystage.allocation.problem import (
    Allocation,
    AllocationError,
    Buffer,
    DoesNotFitError,
    Memory,
    Problem,
)
from polystage.allocation.search import DEFAULT_EFFORT, search
from polystage.allocation.table import FREE, Int64, Table

VARIATIONS = 50
"""Orders to try between those that are always tried and the exact search."""


def allocate(problem: Problem, effort: int = DEFAULT_EFFORT) -> Allocation:
    """Return an address for every buffer such that buffers live at the same time do not overlap.

    Addresses come from the first order of placement that fits, else from variations of the best
    one, else from an exact search of at most `effort` steps (0: neither). In a memory without a
    capacity they come from the best order. The same problem has the same answer every time.

    Units: bytes.

    Raises:
        DoesNotFitError: a memory is too small, provably or as far as the search got.
    """
    addresses = [0] * len(problem.buffers)
    peaks: dict[str, int] = {}
    bounds: dict[str, int] = {}
    for memory in problem.memories:
        table, found = _solve(problem.buffers, memory, effort)
        write(addresses, problem.buffers, memory, table, found)
        peaks[memory.name], bounds[memory.name] = table.peak(found), table.bound
    return Allocation(tuple(addresses), peaks, bounds)


def _solve(buffers: Sequence[Buffer], memory: Memory, effort: int) -> tuple[Table, Int64]:
    choices = list(tables(buffers, memory))
    if memory.capacity is None:
        return min((best_order(t) for t in choices), key=lambda pair: pair[0].peak(pair[1]))
    possible = [t for t in choices if t.bound <= memory.capacity]
    for table in possible:
        for order in orders(table):
            found = place_in_order(table, order)
            if table.peak(found) <= memory.capacity:
                return table, found
    for table in possible if effort else ():
        varied = _varied(table, memory.capacity)
        if varied is not None:
            return table, varied
    answers = []
    for table in possible:
        answer = search(table, memory.capacity, effort)
        if answer.addresses is not None:
            return table, answer.addresses
        answers.append(answer.proven)
    smallest = min(choices, key=lambda t: t.bound)
    raise DoesNotFitError(*smallest.worst(), memory.capacity, memory.name, proven=all(answers))


def _varied(table: Table, capacity: int) -> Int64 | None:
    """Return addresses within the capacity from variations of the best order, or None."""
    order = min(orders(table), key=lambda order: table.peak(place_in_order(table, order)))
    addresses = place_in_order(table, order)
    chosen = random.Random(0)
    for _ in range(VARIATIONS):
        order, addresses = vary(table, order, addresses, chosen)
        if table.peak(addresses) <= capacity:
            return addresses
    return None


def best_order(table: Table) -> tuple[Table, Int64]:
    """Return the placement of least height among those of all orders, lowest and smallest gaps; the
    first that reaches the bound, if one does."""
    best = table.address
    for order in orders(table) if len(table) else ():
        for smallest in (False, True):
            found = place_in_order(table, order, smallest)
            if best is table.address or table.peak(found) < table.peak(best):
                best = found
            if table.peak(best) <= table.bound:
                return table, best
    return table, best


def write(
    addresses: list[int],
    buffers: Sequence[Buffer],
    memory: Memory,
    table: Table,
    found: Int64,
) -> None:
    """Write the addresses of places to the buffers that lie there; what is never live lies at its
    own address, or at the start."""
    for i, b in enumerate(buffers):
        if b.memory == memory.name:
            addresses[i] = b.address or 0
    for members, address in zip(table.members, found.tolist(), strict=True):
        for i in members:
            addresses[i] = address


def tables(buffers: Sequence[Buffer], memory: Memory) -> Iterator[Table]:
    """Yield the tables to try for a memory: with all that may take the place of something doing so,
    then with nothing doing so."""
    groups = _groups(buffers, memory)
    shared = _in_place(buffers, groups)
    if len(shared) < len(groups):
        yield _checked(Table.of(buffers, shared, memory))
    yield _checked(Table.of(buffers, groups, memory))


def _groups(buffers: Sequence[Buffer], memory: Memory) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for i, b in enumerate(buffers):
        if b.memory == memory.name and b.size and b.live:
            groups.setdefault(i if b.group is None else b.group, []).append(i)
    return list(groups.values())


def _in_place(buffers: Sequence[Buffer], groups: list[list[int]]) -> list[list[int]]:
    """Join groups where a buffer may take the place of another and none else is in its way."""
    of_buffer = {i: list(group) for group in groups for i in group}
    of_name = {buffers[i].name: i for i in of_buffer}
    for i, mine in list(of_buffer.items()):
        other = of_name.get(buffers[i].in_place_of or "")
        if other is None or of_buffer[other] is mine:
            continue
        mine, theirs = of_buffer[i], of_buffer[other]
        apart = not any(
            buffers[a].overlaps(buffers[b]) and (a, b) != (i, other) for a in mine for b in theirs
        )
        addresses = {buffers[k].address for k in mine + theirs} - {None}
        if mine is not theirs and apart and len(addresses) <= 1:
            theirs += mine
            for member in mine:
                of_buffer[member] = theirs
    return list({id(group): group for group in of_buffer.values()}.values())


def _checked(table: Table) -> Table:
    """Return the table if places with an address are apart.

    Raises:
        AllocationError: two of them collide.
    """
    fixed = [p for p in range(len(table)) if table.address[p] != FREE]
    active: list[tuple[int, int]] = []
    ranges = [(k, p) for p in fixed for k in range(table.row[p], table.row[p + 1])]
    for k, p in sorted(ranges, key=lambda pair: int(table.starts[pair[0]])):
        active = [(j, q) for j, q in active if table.ends[j] > table.starts[k]]
        for _, q in active:
            low, high = sorted((p, q), key=lambda place: int(table.address[place]))
            if p != q and table.address[low] + table.size[low] > table.address[high]:
                first, second = (table.buffers[table.members[x][0]] for x in (low, high))
                raise AllocationError(
                    f"buffers '{first.name}' and '{second.name}' are to lie at "
                    f"{table.address[low]} and {table.address[high]}, live at the same time and "
                    f"with {table.size[low]} bytes from the first on",
                    help="move one of them, or leave one without an address",
                )
        active.append((k, p))
    return table
