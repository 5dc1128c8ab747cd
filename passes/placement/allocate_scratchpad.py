"""The pass `npu-allocate-scratchpad`: an address for every on-chip buffer."""

from __future__ import annotations

from dataclasses import dataclass

from polystage.allocation import (
    BUFFER_ALIGNMENT_BYTES,
    Buffer,
    DoesNotFitError,
    aligned,
    first_fit_decreasing,
)
from polystage.dialects.npu import space_of
from polystage.dialects.npu.target import required_target
from polystage.dialects.npu.views import free_bytes
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.registry import Pass, register_pass


@register_pass
@dataclass
class AllocateScratchpadPass(Pass):
    """Give every `npu.alloc` of a kernel a byte address such that buffers live at the same time do
    not overlap.

    "npu.alloc"()  ->  "npu.alloc"() {address = 4096 : i64}

    Kernels run one after another, so each has the whole scratchpad. A psum buffer takes a bank of
    its own.
    """

    name = "npu-allocate-scratchpad"
    input_form = "npu"
    output_form = "placed"

    def run(self, module: ir.Module) -> None:
        """Place the buffers of all kernels."""
        target = required_target(module)
        with module.context:
            for op in module.body.operations:
                if isinstance(op, func.FuncOp) and "npu.kernel" in op.attributes:
                    self._place(op, target)

    def _place(self, kernel: func.FuncOp, target: Target) -> None:
        allocs = live_ranges(kernel)
        sbuf = [(op, b) for op, b in allocs if space_of(op.results[0].type) == "sbuf"]
        psum = [(op, b) for op, b in allocs if space_of(op.results[0].type) == "psum"]
        bank = target.psum.bank_bytes
        psum = [(op, Buffer(b.name, b.start, b.end, aligned(b.size, bank))) for op, b in psum]
        capacity = target.sbuf.bytes_per_partition
        self._assign(kernel, sbuf, capacity, BUFFER_ALIGNMENT_BYTES, f"sbuf of '{target.name}'")
        self._assign(kernel, psum, bank * target.psum.banks, bank, f"psum of '{target.name}'")

    def _assign(
        self,
        kernel: func.FuncOp,
        allocs: list[tuple[ir.Operation, Buffer]],
        capacity: int,
        alignment: int,
        memory: str,
    ) -> None:
        try:
            addresses = first_fit_decreasing([b for _, b in allocs], capacity, alignment)
        except DoesNotFitError as error:
            raise PassError(_account(kernel, error, memory), help=_REMEDY) from None
        i64 = ir.IntegerType.get_signless(64)
        for (op, buffer), address in zip(allocs, addresses, strict=True):
            op.attributes["address"] = ir.IntegerAttr.get(i64, address)
            self.statistics["peak bytes per partition"] = max(
                self.statistics.get("peak bytes per partition", 0), address + buffer.size
            )
        self.count("buffers placed", len(allocs))


_REMEDY = "use a target with a larger scratchpad, or smaller tiles"


def _account(kernel: func.FuncOp, error: DoesNotFitError, memory: str) -> str:
    listed = ", ".join(f"{b.name} {b.size}" for b in error.live[:6])
    more = f" and {len(error.live) - 6} more" if len(error.live) > 6 else ""
    return (
        f"kernel '{kernel.name.value}' needs {error.demand} bytes per partition at once, "
        f"but {memory} holds {error.capacity}; live are {listed}{more}"
    )


def live_ranges(kernel: func.FuncOp) -> list[tuple[ir.Operation, Buffer]]:
    """Return every `npu.alloc` of a kernel with its live range in positions of the program text.

    A buffer used inside a loop lives to the end of that loop, since the next iteration uses it
    again; a buffer allocated in a
    loop is a new one in every iteration.
    """
    spans: dict[ir.Operation, tuple[int, int]] = {}
    _number(kernel.entry_block, spans, 0)
    result: list[tuple[ir.Operation, Buffer]] = []
    for op, (start, _) in spans.items():
        if op.name == "npu.alloc":
            end = max((_end(user, op.block, spans) for user in _users(op)), default=start) + 1
            type_ = op.results[0].type
            name = "x".join(map(str, ir.MemRefType(type_).shape))
            name += f"x{ir.MemRefType(type_).element_type}"
            result.append((op, Buffer(name, start, end, free_bytes(type_))))
    return result


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


def _users(op: ir.Operation) -> list[ir.Operation]:
    """Return the operations that use a buffer, directly or through views."""
    users: list[ir.Operation] = []
    for result in op.results:
        for use in result.uses:
            user = use.owner.operation
            users.append(user)
            if user.name.startswith("memref."):
                users += _users(user)
    return users


def _end(user: ir.Operation, block: ir.Block, spans: dict[ir.Operation, tuple[int, int]]) -> int:
    """Return the last position of a use: that of the loop of `block` that it is in."""
    while user.block != block:
        user = user.parent.operation
    return spans[user][1] - 1
