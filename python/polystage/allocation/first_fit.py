"""Addresses one after another: the lowest gap, or the smallest, among what lives at the same
time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from polystage.allocation.problem import Buffer, DoesNotFitError, Memory
from polystage.allocation.table import FREE, Int64, Table
from polystage.compiled import _core, uses_core


def place_in_order(table: Table, order: Int64, best: bool = False) -> Int64:
    """Return an address for every place: those of `order`, one after another, get the lowest that
    is free during all of their life (or the lowest of the smallest gap, for `best`).

    Places with an address keep it.

    Cost: a pass over what is placed, for every place; in the compiled core, or as array operations.
    """
    order = np.ascontiguousarray(order[table.address[order] == FREE])
    if uses_core():
        t = table
        return _core.place_in_order(
            t.row, t.starts, t.ends, t.size, t.alignment, t.address, order, best
        )
    placement = _Placement(table)
    for p in np.flatnonzero(table.address != FREE).tolist():
        placement.put(p, int(table.address[p]))
    for p in order.tolist():
        placement.put(p, placement.find(p, best))
    return placement.addresses


class _Placement:
    """Live ranges of what is placed, by address."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.addresses = table.address.copy()
        self.placed = np.zeros((0, 4), np.int64)  # address, top, start, end

    def put(self, p: int, address: int) -> None:
        t = self.table
        rows = slice(t.row[p], t.row[p + 1])
        ranges = [
            (address, address + t.size[p], start, end)
            for start, end in zip(t.starts[rows], t.ends[rows], strict=True)
        ]
        at = int(np.searchsorted(self.placed[:, 0], address, side="right"))
        self.placed = np.insert(self.placed, at, np.array(ranges).reshape(-1, 4), axis=0)
        self.addresses[p] = address

    def find(self, p: int, best: bool) -> int:
        t = self.table
        meets = np.zeros(len(self.placed), bool)
        for k in range(t.row[p], t.row[p + 1]):
            meets |= (self.placed[:, 2] < t.ends[k]) & (t.starts[k] < self.placed[:, 3])
        met = self.placed[meets]
        tops = -(-met[:, 1] // t.alignment[p]) * t.alignment[p]
        free = np.concatenate([[0], np.maximum.accumulate(tops)])
        gaps = met[:, 0] - free[:-1]
        enough = np.flatnonzero(gaps >= t.size[p])
        if not enough.size:
            return int(free[-1])
        return int(free[enough[gaps[enough].argmin() if best else 0]])


def first_fit_decreasing(buffers: Sequence[Buffer], capacity: int, alignment: int = 1) -> list[int]:
    """Return an address for every buffer such that buffers live at the same time do not overlap.

    The buffers of the lowest rank, of these the largest, are placed first, each at the lowest
    address that is free during its whole life.

    Units: bytes.

    Raises:
        DoesNotFitError: a buffer ends beyond `capacity`.
    """
    result = [0] * len(buffers)
    live = [i for i, b in enumerate(buffers) if b.live]
    if not live:
        return result
    table = Table.of(buffers, [[i] for i in live], Memory())
    table = replace(table, alignment=np.lcm(table.alignment, alignment))
    addresses = decreasing_within(table, capacity)
    if addresses is None:
        raise DoesNotFitError(*table.worst(), capacity, proven=table.bound > capacity)
    for i, address in zip(live, addresses.tolist(), strict=True):
        result[i] = address
    return result


def decreasing_within(table: Table, capacity: int) -> Int64 | None:
    """Return the addresses of the largest first, each in its lowest gap, or None where they do not
    end within the capacity."""
    if table.bound > capacity:
        return None
    addresses = place_in_order(table, decreasing(table))
    return addresses if table.peak(addresses) <= capacity else None


def decreasing(table: Table) -> Int64:
    """Return the places by rank, then the largest first."""
    return np.lexsort((table.starts[table.row[:-1]], -table.size, table.rank))


def orders(table: Table) -> Iterator[Int64]:
    """Yield orders of placement that have proved good: by size, by area, by length, by demand, and
    by the addresses of an earlier answer."""
    start = table.starts[table.row[:-1]]
    yield decreasing(table)
    if (table.hint != FREE).any():
        yield np.argsort(table.hint, kind="stable")
    sections = table.sections
    demand = np.maximum.reduceat(sections.demand[sections.section], sections.start[:-1])
    area = table.size * table.length
    yield np.lexsort((start, -area))
    yield np.lexsort((start, -table.size, -table.length))
    yield np.lexsort((start, -area, -demand))
    yield np.lexsort((start, -table.length, -table.size))
    yield np.lexsort((-table.size, start))


def vary(
    table: Table, order: Int64, addresses: Int64, chosen: random.Random
) -> tuple[Int64, Int64]:
    """Return an order in which something that lies highest is placed earlier, and its addresses, if
    they are no higher; else the given ones."""
    tops = addresses + table.size
    highest = chosen.choice(np.flatnonzero(tops == tops.max()).tolist())
    at = int(np.flatnonzero(order == highest)[0])
    varied = np.insert(np.delete(order, at), chosen.randrange(at + 1), highest)
    found = place_in_order(table, varied)
    return (varied, found) if table.peak(found) <= table.peak(addresses) else (order, addresses)
