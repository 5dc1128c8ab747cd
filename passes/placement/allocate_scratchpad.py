"""The pass `npu-allocate-scratchpad`: an address for every on-chip buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

import numpy as np

from polystage.allocation import (
    Buffer,
    DoesNotFitError,
    Memory,
    Problem,
    account,
    aligned,
    allocate,
)
from polystage.allocation.first_fit import decreasing_within, place_in_order
from polystage.allocation.table import Table
from polystage.dialects.npu.target import required_target
from polystage.errors import PassError
from polystage.forms import walk
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.placement.demand import Demand
from polystage.passes.placement.live_ranges import Allocation, Sharing, address_unit, allocations
from polystage.passes.placement.opposite_ends import far_kernels
from polystage.passes.registry import Pass, register_pass

EFFORT = 100_000_000
"""Steps of the exact search for one memory of one kernel: half a second of the compiled core."""


@register_pass
@dataclass
class AllocateScratchpadPass(Pass):
    """Give every `npu.alloc` of a kernel a byte address such that buffers live at the same time do
    not overlap.

    "npu.alloc"()                            ->  "npu.alloc"() {address = 4096 : i64}
    "npu.alloc"() {buffers = 2 : i64}        ->  "npu.alloc"() {address = 0 : i64,
                                                     addresses = array<i64: 0, 4096>,
                                                     buffers = 2 : i64}

    A psum buffer takes a bank of its own. Buffers share a place only where they have to. Where the
    places do not fit, the largest buffer of several live where most is has one less, and so on.

    Addresses that are there already stay. Where the lowest gaps for the largest buffers first do
    not lead to addresses that fit, buffers come in the order of their `hint`: where the planner has
    them lie such that one place of each has room. Without hints other orders are tried, then an
    exact search.

    Kernels that follow each other lie at opposite ends of the memory, each within its half of it
    if it fits there: so the weights of one come in while the kernel before still computes.
    """

    name = "npu-allocate-scratchpad"
    input_form = "npu"
    output_form = "placed"

    opposite_ends: bool = True
    """Place kernels that follow each other at opposite ends of the memory; else all start at 0."""

    def run(self, module: ir.Module) -> None:
        """Place the buffers of all kernels."""
        target = required_target(module)
        with module.context:
            far = far_kernels(_calls(module)) if self.opposite_ends else set[str]()
            for op in module.body.operations:
                if isinstance(op, func.FuncOp) and "npu.kernel" in op.attributes:
                    self._place(op, target, op.name.value in far)
        self.count("kernels at the far end", len(far))

    def _place(self, kernel: func.FuncOp, target: Target, far: bool) -> None:
        found = allocations(kernel)
        bank = target.psum.bank_bytes
        memories = {
            "sbuf": Memory("sbuf", target.sbuf.bytes_per_partition),
            "psum": Memory("psum", bank * target.psum.banks, bank),
        }
        for space, memory in memories.items():
            mine = [a for a in found if a.space == space]
            fixed = sum(bool(a.fixed) for a in mine)
            if fixed:
                self.count("buffers with an address already", fixed)
            if fixed == len(mine):
                continue
            try:
                places = self._places(mine, memory)
            except DoesNotFitError as error:
                text = f"{memory.name} of '{target.name}'"
                raise PassError(_account(kernel, error, text), help=_REMEDY) from None
            if far and not fixed:
                places = _from_the_end(mine, places, memory)
            for allocation, addresses in zip(mine, places, strict=True):
                self._write(allocation, addresses)
                self.statistics["peak bytes per partition"] = max(
                    self.statistics.get("peak bytes per partition", 0),
                    max(addresses) + allocation.size,
                )
            self.count("buffers placed", len(mine) - fixed)

    def _places(self, found: Sequence[Allocation], memory: Memory) -> list[list[int]]:
        """Return the addresses of all places of every buffer.

        Raises:
            DoesNotFitError: one place of each is too much.
        """
        assert memory.capacity is not None
        demand = Demand(found, memory.granule)
        while demand.greatest > memory.capacity and self._give_up(demand, memory, anywhere=False):
            pass
        if any(a.hint is not None for a in found):
            places = _apart(found, memory) or self._as_hinted(found, memory)
            if places is not None:
                return places
        places, count = _fit(found, memory, EFFORT), 1
        while places is None and self._give_up(demand, memory, anywhere=True):
            for _ in range(count - 1):
                self._give_up(demand, memory, anywhere=True)
            places, count = _fit(found, memory, EFFORT // 8), 2 * count
        return places or _packed(found, memory, EFFORT)

    def _as_hinted(self, found: Sequence[Allocation], memory: Memory) -> list[list[int]] | None:
        """Return the addresses where a place of each buffer comes in the order of the hints, which
        puts it no higher than its hint, and further places, small ones first, where there is room;
        None where one of each is too much."""
        assert memory.capacity is not None
        starts = np.cumsum([0, *(a.depth for a in found)])
        first = starts[:-1]
        table = _table(_buffers(found, memory, "within an iteration"))
        hints = np.array([np.inf if a.hint is None else a.hint for a in found])
        others = np.setdiff1d(np.arange(len(table)), first)
        order = [first[np.argsort(hints, kind="stable")], others[np.argsort(table.size[others])]]
        addresses = place_in_order(table, np.concatenate(order))
        fits = addresses + table.size <= memory.capacity
        if not fits[first].all():
            return None
        rows = [slice(start, end) for start, end in pairwise(starts.tolist())]
        for allocation, row in zip(found, rows, strict=True):
            self._leave(allocation, int(fits[row].sum()), memory)
        return [addresses[row][fits[row]].tolist() for row in rows]

    def _give_up(self, demand: Demand, memory: Memory, *, anywhere: bool) -> bool:
        """Take one place from a buffer of several, if there is one."""
        allocation = demand.give_up(anywhere)
        if allocation is None:
            return False
        self._leave(allocation, allocation.depth - 1, memory)
        return True

    def _leave(self, allocation: Allocation, places: int, memory: Memory) -> None:
        """Let a buffer have so many places."""
        depth = allocation.depth
        if places == depth:
            return
        self.remark(
            allocation.op,
            f"buffer {allocation.name} has {places} instead of {depth} places, for which "
            f"{memory.name} is too small",
        )
        self.count("places given up", depth - places)
        allocation.op.attributes["buffers"] = _i64(places)

    def _write(self, allocation: Allocation, addresses: Sequence[int]) -> None:
        op = allocation.op
        op.attributes["address"] = _i64(addresses[0])
        if len(addresses) > 1:
            op.attributes["addresses"] = ir.DenseI64ArrayAttr.get(list(addresses))
            self.count("buffers of several places")
        elif "buffers" in op.attributes:
            del op.attributes["buffers"]
        if "hint" in op.attributes:
            del op.attributes["hint"]


_REMEDY = "use a target with a larger scratchpad, or smaller tiles"


def _i64(value: int) -> ir.IntegerAttr:
    return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)


def _calls(module: ir.Module) -> list[str]:
    """Return the kernels that are called, in program order."""
    return [
        ir.FlatSymbolRefAttr(op.attributes["callee"]).value
        for op in walk(module.operation)
        if op.name == "func.call"
    ]


def _apart(found: Sequence[Allocation], memory: Memory) -> list[list[int]] | None:
    """Return the addresses of all places, with as little sharing as goes into half of the memory,
    else into all of it; None where the largest first do not go in."""
    assert memory.capacity is not None
    half = memory.capacity // 2 // address_unit(memory) * address_unit(memory)
    tables = [_table(_buffers(found, memory, sharing)) for sharing in get_args(Sharing)]
    for capacity in (half, memory.capacity):
        for table in tables:
            addresses = decreasing_within(table, capacity)
            if addresses is not None:
                return _by_allocation(found, addresses.tolist())
    return None


def _table(places: Sequence[Buffer]) -> Table:
    return Table.of(places, [[i] for i in range(len(places))], Memory())


def _fit(found: Sequence[Allocation], memory: Memory, effort: int) -> list[list[int]] | None:
    """Return the addresses of all places, apart if they go in that way, else with the most sharing;
    None where that needs more than `effort`, or cannot be."""
    apart = _apart(found, memory)
    if apart is not None:
        return apart
    try:
        return _packed(found, memory, effort)
    except DoesNotFitError:
        return None


def _packed(found: Sequence[Allocation], memory: Memory, effort: int) -> list[list[int]]:
    """Return the addresses of all places, with the most sharing.

    Raises:
        DoesNotFitError: none were found.
    """
    problem = Problem(_buffers(found, memory, get_args(Sharing)[-1]), (memory,))
    return _by_allocation(found, allocate(problem, effort).addresses)


def _buffers(found: Sequence[Allocation], memory: Memory, sharing: Sharing) -> list[Buffer]:
    whole = (0, max((a.loop[1] for a in found), default=0) + 1)
    return [place for a in found for place in a.places(sharing, whole, memory)]


def _by_allocation(found: Sequence[Allocation], addresses: Sequence[int]) -> list[list[int]]:
    rest = iter(addresses)
    return [[next(rest) for _ in range(a.depth)] for a in found]


def _from_the_end(
    found: Sequence[Allocation], places: list[list[int]], memory: Memory
) -> list[list[int]]:
    """Return the mirror image of all places; places that reach into the last, incomplete granule
    have none."""
    assert memory.capacity is not None
    top = memory.capacity // address_unit(memory) * address_unit(memory)
    mirrored = [
        [top - aligned(a.size, address_unit(memory)) - address for address in addresses]
        for a, addresses in zip(found, places, strict=True)
    ]
    return mirrored if all(address >= 0 for row in mirrored for address in row) else places


def _account(kernel: func.FuncOp, error: DoesNotFitError, memory: str) -> str:
    needs = f"kernel '{kernel.name.value}' needs {error.demand} bytes per partition at once"
    if error.demand > error.capacity:
        holds = f"but {memory} holds {error.capacity}"
    else:
        none = "no addresses" if error.proven else "no addresses were found that"
        holds = f"which {memory} with {error.capacity} would hold, but {none} keep them apart"
    return f"{needs}, {holds}; live are {account(error.live)}"
