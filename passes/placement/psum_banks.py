"""Which bank of psum an instruction uses, where any would do."""

from __future__ import annotations

from collections.abc import Mapping

from polystage.dialects.npu.queue_rules import places_of
from polystage.dialects.npu.views import defining_op, root_alloc, space_of
from polystage.machine.target import Target
from polystage.mlir import ir

Banks = Mapping[int, ir.Value]
"""The buffer that is a bank, by its number."""


def banks_of(block: ir.Block, target: Target) -> Banks:
    """Return the banks of a kernel; none where not every buffer in psum is a whole bank, or where
    they are of different types."""
    found: dict[int, ir.Value] = {}
    buffers = 0
    for view in block.operations:
        op = view.operation
        if op.name != "npu.alloc" or space_of(op.results[0].type) != "psum":
            continue
        buffers += 1
        bank, rest = divmod(places_of(view)[0], target.psum.bank_bytes)
        if not rest and len(places_of(view)) == 1:
            found[bank] = op.results[0]
    is_uniform = len({str(value.type) for value in found.values()}) == 1
    return found if is_uniform and len(found) == buffers else {}


def move_to_banks(op: ir.Operation, banks: Mapping[int, int], buffers: Banks) -> None:
    """Let an instruction use bank `banks[b]` wherever it uses bank b; the new views stand before
    it."""
    number = {buffer: bank for bank, buffer in buffers.items()}
    for i, value in enumerate(op.operands):
        root = None if not isinstance(value.type, ir.MemRefType) else root_alloc(value)
        if root is None or root.results[0] not in number:
            continue
        bank = number[root.results[0]]
        if banks[bank] != bank:
            op.operands[i] = _view(value, buffers[banks[bank]], op)
            _erase(value)


def _view(value: ir.Value, root: ir.Value, before: ir.Operation) -> ir.Value:
    """Return the view of another buffer that `value` is of its own."""
    op = defining_op(value)
    assert op is not None
    if op.name == "npu.alloc":
        return root
    source = _view(op.operands[0], root, before)
    copy = op.clone(ip=ir.InsertionPoint(before))
    copy.operands[0] = source
    return copy.results[0]


def _erase(value: ir.Value) -> None:
    """Erase a view that nobody needs any more, and those that it was made from."""
    op = defining_op(value)
    if op is None or op.name == "npu.alloc" or any(True for _ in value.uses):
        return
    source = op.operands[0]
    op.erase()
    _erase(source)
