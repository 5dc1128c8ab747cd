"""When the on-chip buffers of a kernel are in use, in positions of the program text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polystage.allocation import BUFFER_ALIGNMENT_BYTES, Buffer, Memory, aligned
from polystage.dialects.npu import space_of
from polystage.dialects.npu.queue_rules import buffers_of
from polystage.dialects.npu.views import free_bytes
from polystage.mlir import func, ir
from polystage.passes.lower.rotating_buffers import users_of

Sharing = Literal["none", "between loops", "within an iteration"]
"""What may take the place of a buffer: nothing, buffers of other loops, or whatever comes after its
last use."""


@dataclass(frozen=True)
class Allocation:
    """An `npu.alloc`: its memory, its bytes per partition, its last use in an iteration, and the
    loop around all others that it is in.

    `rank` is 0 for what holds weights, which are there for all to load early, else 1.
    """

    op: ir.Operation
    name: str
    space: str
    size: int
    life: tuple[int, int]
    loop: tuple[int, int]
    rank: int
    fixed: tuple[int, ...]
    """The addresses that its places have already, if they have."""
    hint: int | None
    """Where one place lies in an answer that fits, if one is known."""

    @property
    def depth(self) -> int:
        """How many places its executions take in turn."""
        return buffers_of(self.op.opview)

    def places(self, sharing: Sharing, whole: tuple[int, int], memory: Memory) -> list[Buffer]:
        """Return its places in a memory; `whole` is the life of the kernel."""
        start, end = {
            "none": whole,
            "between loops": self.loop,
            "within an iteration": self.life,
        }[sharing]
        rank = self.rank if sharing == "none" else 0
        addresses = self.fixed or (None,) * self.depth
        size = aligned(self.size, memory.granule)
        return [
            Buffer(
                self.name,
                start,
                end,
                size,
                rank,
                alignment=address_unit(memory),
                memory=memory.name,
                address=address,
            )
            for address in addresses
        ]


def address_unit(memory: Memory) -> int:
    """Return the bytes that all addresses in a memory are multiples of."""
    return max(memory.granule, BUFFER_ALIGNMENT_BYTES)


def allocations(kernel: func.FuncOp) -> list[Allocation]:
    """Return every `npu.alloc` of a kernel, in program order.

    A buffer used inside a loop lives to the end of that loop, since the next iteration uses it
    again; a buffer allocated in a loop is a new one in every iteration.
    """
    spans: dict[ir.Operation, tuple[int, int]] = {}
    _number(kernel.entry_block, spans, 0)
    return [_allocation(op, spans) for op in spans if op.name == "npu.alloc"]


def _allocation(op: ir.Operation, spans: dict[ir.Operation, tuple[int, int]]) -> Allocation:
    users = users_of(op)
    end = max((_end(user, op.block, spans) for user, _ in users), default=spans[op][0]) + 1
    type_ = ir.MemRefType(op.results[0].type)
    name = "x".join(map(str, type_.shape)) + f"x{type_.element_type}"
    life = (spans[op][0], end)
    weights = any(_loads_weights(user) for user, _ in users)
    return Allocation(
        op,
        name,
        space_of(type_),
        free_bytes(type_),
        life,
        _outermost_loop(op, spans) or life,
        0 if weights else 1,
        _addresses(op),
        _hint(op),
    )


def _addresses(op: ir.Operation) -> tuple[int, ...]:
    if "addresses" in op.attributes:
        return tuple(ir.DenseI64ArrayAttr(op.attributes["addresses"]))
    if "address" in op.attributes:
        return (ir.IntegerAttr(op.attributes["address"]).value,)
    return ()


def _hint(op: ir.Operation) -> int | None:
    return ir.IntegerAttr(op.attributes["hint"]).value if "hint" in op.attributes else None


def _loads_weights(user: ir.Operation) -> bool:
    return user.name == "npu.dma" and ir.StringAttr(user.attributes["cause"]).value == "weight"


def _number(block: ir.Block, spans: dict[ir.Operation, tuple[int, int]], position: int) -> int:
    """Give every operation the interval of positions that it and the operations in it take."""
    for view in block.operations:
        op, first = view.operation, position
        position += 1
        for region in op.regions:
            for inner in region.blocks:
                position = _number(inner, spans, position)
        spans[op] = (first, position)
    return position


def _outermost_loop(
    op: ir.Operation, spans: dict[ir.Operation, tuple[int, int]]
) -> tuple[int, int] | None:
    found = None
    parent = op.parent
    while parent is not None and parent.operation in spans:
        found = spans[parent.operation]
        parent = parent.operation.parent
    return found


def _end(user: ir.Operation, block: ir.Block, spans: dict[ir.Operation, tuple[int, int]]) -> int:
    """Return the last position of a use: that of the loop of `block` that it is in."""
    while user.block != block:
        user = user.parent.operation
    return spans[user][1] - 1
