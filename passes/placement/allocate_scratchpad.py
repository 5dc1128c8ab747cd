"""The pass `npu-allocate-scratchpad`: an address for every on-chip buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from polystage.allocation import (
    BUFFER_ALIGNMENT_BYTES,
    Buffer,
    DoesNotFitError,
    aligned,
    first_fit_decreasing,
)
from polystage.dialects.npu.target import required_target
from polystage.errors import PassError
from polystage.forms import walk
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.placement.live_ranges import Allocation, Sharing, allocations
from polystage.passes.placement.opposite_ends import far_kernels
from polystage.passes.registry import Pass, register_pass


@dataclass(frozen=True)
class _Memory:
    """Bytes per partition of an on-chip memory, and what buffers take a multiple of."""

    text: str
    capacity: int
    granule: int


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
    places do not fit, the largest buffer of several has one less, and so on.

    Where every buffer of a memory has its address already, they stay.

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
            "sbuf": _Memory("sbuf", target.sbuf.bytes_per_partition, BUFFER_ALIGNMENT_BYTES),
            "psum": _Memory("psum", bank * target.psum.banks, bank),
        }
        for space, memory in memories.items():
            mine = [a for a in found if a.space == space]
            if mine and all("address" in a.op.attributes for a in mine):
                self.count("buffers with an address already", len(mine))
                continue
            try:
                places = self._places(mine, memory)
            except DoesNotFitError as error:
                text = f"{memory.text} of '{target.name}'"
                raise PassError(_account(kernel, error, text), help=_REMEDY) from None
            if far:
                places = _from_the_end(mine, places, memory)
            for allocation, addresses in zip(mine, places, strict=True):
                self._write(allocation, addresses)
                self.statistics["peak bytes per partition"] = max(
                    self.statistics.get("peak bytes per partition", 0),
                    max(addresses) + allocation.size,
                )
            self.count("buffers placed", len(mine))

    def _places(self, found: Sequence[Allocation], memory: _Memory) -> list[list[int]]:
        """Return the addresses of all places of every buffer.

        Raises:
            DoesNotFitError: one place of each is too much.
        """
        while True:
            try:
                return _fit(found, memory)
            except DoesNotFitError:
                several = [a for a in found if a.depth > 1]
                if not several:
                    raise
                largest = max(several, key=lambda a: a.size)
            self.remark(
                largest.op,
                f"buffer {largest.name} has {largest.depth - 1} instead of {largest.depth} "
                f"places, for which {memory.text} is too small",
            )
            self.count("places given up")
            largest.op.attributes["buffers"] = _i64(largest.depth - 1)

    def _write(self, allocation: Allocation, addresses: Sequence[int]) -> None:
        op = allocation.op
        op.attributes["address"] = _i64(addresses[0])
        if len(addresses) > 1:
            op.attributes["addresses"] = ir.DenseI64ArrayAttr.get(list(addresses))
            self.count("buffers of several places")
        elif "buffers" in op.attributes:
            del op.attributes["buffers"]


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


def _fit(found: Sequence[Allocation], memory: _Memory) -> list[list[int]]:
    """Return the addresses of all places, with as little sharing as goes into half of the memory,
    else into all of it.

    Raises:
        DoesNotFitError: not even with the most sharing.
    """
    half = memory.capacity // 2 // memory.granule * memory.granule
    error: DoesNotFitError | None = None
    for capacity in (half, memory.capacity):
        for sharing in get_args(Sharing):
            try:
                return _first_fit(found, capacity, sharing, memory.granule)
            except DoesNotFitError as found_error:
                error = found_error
    assert error is not None
    raise error


def _first_fit(
    found: Sequence[Allocation], capacity: int, sharing: Sharing, granule: int
) -> list[list[int]]:
    whole = (0, max((a.loop[1] for a in found), default=0) + 1)
    buffers: list[Buffer] = []
    for a in found:
        size = aligned(a.size, granule) if granule > BUFFER_ALIGNMENT_BYTES else a.size
        buffers += [a.buffer(sharing, whole, size)] * a.depth
    addresses = iter(first_fit_decreasing(buffers, capacity, granule))
    return [[next(addresses) for _ in range(a.depth)] for a in found]


def _from_the_end(
    found: Sequence[Allocation], places: list[list[int]], memory: _Memory
) -> list[list[int]]:
    """Return the mirror image of all places; places that reach into the last, incomplete granule
    have none."""
    top = memory.capacity // memory.granule * memory.granule
    mirrored = [
        [top - aligned(a.size, memory.granule) - address for address in addresses]
        for a, addresses in zip(found, places, strict=True)
    ]
    return mirrored if all(address >= 0 for row in mirrored for address in row) else places


def _account(kernel: func.FuncOp, error: DoesNotFitError, memory: str) -> str:
    listed = ", ".join(f"{b.name} {b.size}" for b in error.live[:6])
    more = f" and {len(error.live) - 6} more" if len(error.live) > 6 else ""
    return (
        f"kernel '{kernel.name.value}' needs {error.demand} bytes per partition at once, "
        f"but {memory} holds {error.capacity}; live are {listed}{more}"
    )
