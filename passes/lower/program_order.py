"""Which operations of a block touch which memory, in program order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import DYNAMIC, VIEW_OPS, defining_op
from polystage.mlir import ir


class Order:
    """The operations of one block, and the place of each."""

    def __init__(self, block: ir.Block) -> None:
        self.block = block
        self.operations = [op.operation for op in block.operations]
        self.place = {op: i for i, op in enumerate(self.operations)}

    def is_touched(self, value: ir.Value, start: int, stop: int) -> bool:
        """Whether one of the operations `start` to `stop` may touch an element of a memref."""
        return any(
            start <= place < stop and touches(other, value)
            for root, _ in _windows(value)
            for place, other in self._accesses.get(root, ())
        )

    @cached_property
    def _accesses(self) -> Mapping[ir.Value, list[tuple[int, ir.Value]]]:
        """By array: the places of the operations that access it, and as which memref."""
        found: dict[ir.Value, list[tuple[int, ir.Value]]] = {}
        for place, op in enumerate(self.operations):
            for value in accessed(op):
                for root, _ in _windows(value):
                    found.setdefault(root, []).append((place, value))
        return found


def accessed(op: ir.Operation) -> Iterator[ir.Value]:
    """Yield the memrefs that an operation, or one in its regions, reads or writes; views do not."""
    if op.name in VIEW_OPS or op.name == overlay.NAME:
        return
    yield from (v for v in op.operands if isinstance(v.type, ir.MemRefType))
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from accessed(inner.operation)


def writes(op: ir.Operation, value: ir.Value) -> bool:
    """Whether an operation may write what it accesses as `value`."""
    if op.name == "linalg.generic":
        return any(value == v for v in op.opview.outputs)
    return not (op.name == "memref.copy" and value == op.operands[0])


def touches(value: ir.Value, other: ir.Value) -> bool:
    """Whether two memrefs may share an element."""
    return any(
        root == other_root and not _are_apart(box, other_box)
        for root, box in _windows(value)
        for other_root, other_box in _windows(other)
    )


_Box = list[tuple[int, int]] | None
"""Hull of a window, by dimension of the array; None is all of it."""


def _windows(value: ir.Value) -> Iterator[tuple[ir.Value, _Box]]:
    """Yield the arrays that a value shows, and of each a box that holds what it may show."""
    for _, source in overlay.pieces(value)[0]:
        root, box = _window(source)
        if overlay.is_overlay(root):
            yield from ((array, None) for array, _ in _windows(root))
        else:
            yield root, box


def _window(value: ir.Value) -> tuple[ir.Value, _Box]:
    """Return the array or overlay that a view shows, and a box that holds everything it shows."""
    box: _Box = None
    while (op := defining_op(value)) is not None and op.name in VIEW_OPS:
        box = None
        if op.name == "memref.subview":
            starts, sizes, steps = (
                list(op.attributes[f"static_{name}"]) for name in ("offsets", "sizes", "strides")
            )
            if DYNAMIC not in starts:
                hulls = zip(starts, sizes, steps, strict=True)
                box = [(start, start + (size - 1) * step + 1) for start, size, step in hulls]
        value = op.operands[0]
    return value, box


def _are_apart(a: _Box, b: _Box) -> bool:
    if a is None or b is None:
        return False
    return any(
        stop <= low or high <= start for (start, stop), (low, high) in zip(a, b, strict=True)
    )
