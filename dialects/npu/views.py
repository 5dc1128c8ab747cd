"""What an on-chip memref value is: its memory, its buffer, its partitions, its access pattern."""

from __future__ import annotations

from dataclasses import dataclass

from polystage.dialects.npu.attributes import attribute_name
from polystage.mlir import ir

DYNAMIC = ir.ShapedType.get_dynamic_stride_or_offset()

VIEW_OPS = (
    "memref.subview",
    "memref.transpose",
    "memref.collapse_shape",
    "memref.expand_shape",
    "memref.reinterpret_cast",
    "memref.cast",
)


@dataclass(frozen=True)
class PatternDim:
    """One dimension of an access pattern: how often, and how far apart in elements."""

    size: int
    stride: int


def space_of(type_: ir.Type) -> str:
    """Return `dram`, `sbuf` or `psum`: the memory that a memref type names."""
    space = ir.MemRefType(type_).memory_space
    return "dram" if space is None else attribute_name(space)


def is_in_dram(type_: ir.Type) -> bool:
    """Tell whether a memref type names no memory on chip."""
    return ir.MemRefType(type_).memory_space is None


def strides_of(type_: ir.Type) -> list[int]:
    """Return the strides of a memref type in elements."""
    return ir.MemRefType(type_).get_strides_and_offset()[0]


def access_pattern(
    sizes: list[int], strides: list[int], max_size: int | None = None
) -> list[PatternDim]:
    """Return the fewest dimensions that describe the same walk through memory.

    Unit dimensions vanish and dimensions that continue each other merge, as long as none has more
    than `max_size` elements:

    >>> access_pattern([4, 1, 8], [8, 99, 1])
    [PatternDim(size=32, stride=1)]
    >>> access_pattern([2, 4, 8], [32, 8, 1], max_size=32)
    [PatternDim(size=2, stride=32), PatternDim(size=32, stride=1)]
    """
    merged: list[PatternDim] = []  # innermost first
    for size, stride in reversed(list(zip(sizes, strides, strict=True))):
        if size == 1:
            continue
        if merged and stride == merged[-1].stride * merged[-1].size:
            joined = merged[-1].size * size
            if max_size is None or joined <= max_size:
                merged[-1] = PatternDim(joined, merged[-1].stride)
                continue
        merged.append(PatternDim(size, stride))
    merged.reverse()
    return merged


def defining_op(value: ir.Value) -> ir.Operation | None:
    """Return the operation that defines `value`, or None for a block argument."""
    owner = value.owner
    return None if isinstance(owner, ir.Block) else owner.operation


def root_alloc(value: ir.Value) -> ir.Operation | None:
    """Return the `npu.alloc` that `value` is a view of, or None."""
    op = defining_op(value)
    while op is not None:
        name = op.name
        if name == "npu.alloc":
            return op
        if name not in VIEW_OPS:
            return None
        op = defining_op(op.operands[0])
    return None


def partition_start(value: ir.Value) -> int | None:
    """Return the first partition of an on-chip view, or None where it is not a constant."""
    return alloc_and_start(value)[1]


def alloc_and_start(value: ir.Value) -> tuple[ir.Operation | None, int | None]:
    """Return `root_alloc` and `partition_start`; a buffer of one partition has no other than 0."""
    views: list[ir.Operation] = []
    op = defining_op(value)
    while op is not None and op.name in VIEW_OPS:
        views.append(op)
        op = defining_op(op.operands[0])
    if op is None or op.name != "npu.alloc":
        return None, _start(views)
    return op, 0 if shape_of(op.results[0])[0] == 1 else _start(views)


def _start(views: list[ir.Operation]) -> int | None:
    """Return by how many partitions views move the start, or None where that is not a constant."""
    start = 0
    for op in views:
        if op.name not in ("memref.subview", "memref.reinterpret_cast"):
            continue
        offset = op.attributes["static_offsets"][0]
        if offset == DYNAMIC:
            return None
        is_window = op.name == "memref.subview"
        start += offset if is_window else offset // strides_of(op.operands[0].type)[0]
    return start


def shape_of(value: ir.Value) -> list[int]:
    """Return the shape of a memref value."""
    return list(ir.MemRefType(value.type).shape)


def _element_bytes(type_: ir.Type) -> int:
    element = ir.MemRefType(type_).element_type
    if isinstance(element, ir.IndexType):
        return 8
    return (element.width + 7) // 8


def free_bytes(type_: ir.Type) -> int:
    """Return the bytes that a contiguous on-chip memref takes in each partition."""
    size = _element_bytes(type_)
    for extent in list(ir.MemRefType(type_).shape)[1:]:
        size *= extent
    return size


def product(values: list[int]) -> int:
    """Return the product of extents."""
    result = 1
    for value in values:
        result *= value
    return result
