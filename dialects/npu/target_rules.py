"""The legality rules of npu operations that depend on the limits of a target.

As in `rules`, one hardware rule is one function whose docstring is the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from polystage.dialects.npu.queue_rules import places_of
from polystage.dialects.npu.views import (
    access_pattern,
    free_bytes,
    partition_start,
    product,
    shape_of,
    space_of,
    strides_of,
)
from polystage.linear import linear_form
from polystage.machine.target import Target
from polystage.mlir import ir

TargetRule = Callable[[ir.OpView, Target], str | None]


def alloc_fits(op: ir.OpView, target: Target) -> str | None:
    """A buffer has at most as many partitions and bytes as its memory, if there is that memory; its
    places, where it has addresses, lie in the memory and side by side, in psum each in one bank."""
    type_ = ir.MemRefType(op.results[0].type)
    space = space_of(type_)
    partitions, size = shape_of(op.results[0])[0], free_bytes(type_)
    memory = target.sbuf if space == "sbuf" else target.psum
    if memory.bytes == 0:
        return f"allocates in {space}, which '{target.name}' has not; its sums lie in sbuf"
    capacity = (
        target.sbuf.bytes_per_partition
        if space == "sbuf"
        else target.psum.banks * target.psum.bank_bytes
    )
    if partitions > memory.partitions:
        return (
            f"takes {partitions} partitions, but {space} of '{target.name}' has {memory.partitions}"
        )
    limit = capacity if space == "sbuf" else target.psum.bank_bytes
    if size > limit:
        what = "a partition of sbuf" if space == "sbuf" else "one psum bank"
        return f"takes {size} bytes per partition, but {what} of '{target.name}' holds {limit}"
    return _misplaced(places_of(op), size, capacity, limit, f"{space} of '{target.name}'")


def _misplaced(places: list[int], size: int, capacity: int, limit: int, memory: str) -> str | None:
    """Return what is wrong with places of `size` bytes of which none may cross `limit`."""
    end = 0
    for address in sorted(places):
        if address < 0 or address + size > capacity:
            return f"lies at bytes [{address}, {address + size}), but {memory} ends at {capacity}"
        if size and address // limit != (address + size - 1) // limit:
            return (
                f"lies at bytes [{address}, {address + size}) "
                f"and crosses a psum bank of {limit} bytes"
            )
        if address < end:
            return (
                f"has overlapping places at bytes [{end - size}, {end}) "
                f"and [{address}, {address + size})"
            )
        end = address + size
    return None


def sums_are_in_reach(op: ir.OpView, target: Target) -> str | None:
    """The sums of a matmul lie in psum, in sbuf where that is flat."""
    space = space_of(op.operands[2].type)
    reached = "sbuf" if target.is_flat else "psum"
    if space != reached:
        return f"has its sums in {space}, but the array of '{target.name}' adds up in {reached}"
    return None


def matmul_fits(op: ir.OpView, target: Target) -> str | None:
    """K, M and the number of moving columns are at most what the array and a psum bank hold, unless
    sbuf is flat."""
    if target.is_flat:
        return None
    k, m = shape_of(op.operands[0])[0], product(shape_of(op.operands[0])[1:])
    n = product(shape_of(op.operands[1])[1:])
    array = target.tensor
    for size, limit, what in (
        (k, array.rows, "rows contracts"),
        (m, array.columns, "stationary columns holds"),
        (n, array.moving_columns, "moving columns takes"),
    ):
        if size > limit:
            name, verb = what.rsplit(" ", 1)
            return f"has {size} {name}, but the tensor engine of '{target.name}' {verb} {limit}"
    return None


def transpose_fits(op: ir.OpView, target: Target) -> str | None:
    """The transposed tile is at most as large as the array."""
    rows, columns = shape_of(op.operands[0])
    if rows > target.tensor.rows or columns > target.tensor.columns:
        return (
            f"transposes {rows} x {columns}, but the array of '{target.name}' is "
            f"{target.tensor.rows} x {target.tensor.columns}"
        )
    return None


def partition_start_is_legal(op: ir.OpView, target: Target) -> str | None:
    """An engine starts at partition 0, or at a quarter or half of the partitions where the access
    fits there."""
    if target.is_flat:
        return None
    for i, value in enumerate(op.operands):
        if not isinstance(value.type, ir.MemRefType) or space_of(value.type) == "dram":
            continue
        start, count = partition_start(value), shape_of(value)[0]
        legal = target.sbuf.legal_starts(count)
        if start is not None and start not in legal:
            return (
                f"operand {i} takes {count} partitions from {start}, but such an access "
                f"starts at {', '.join(map(str, legal)) or 'no partition'}"
            )
    return None


def pattern_fits(op: ir.OpView, target: Target) -> str | None:
    """An engine's access has at most `access_pattern.max_free_dims` free dimensions, with sizes
    and strides of 16 bits."""
    limits = target.access_pattern
    for i, (sizes, strides) in enumerate(operand_walks(op)):
        broken = _broken_limit(
            tuple(sizes),
            tuple(strides),
            limits.max_free_dims,
            limits.max_size,
            limits.max_stride,
            target.name,
        )
        if broken:
            return f"operand {i} {broken}"
    return None


@lru_cache(maxsize=1 << 16)
def _broken_limit(
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    max_dims: int,
    max_size: int,
    max_stride: int,
    target: str,
) -> str | None:
    """Return what is wrong with a walk; a program has many instructions and few walks."""
    pattern = access_pattern(list(sizes), list(strides), max_size)
    if len(pattern) > max_dims:
        return f"needs {len(pattern)} free dimensions, but an access of '{target}' has {max_dims}"
    for dim in pattern:
        if dim.size > max_size:
            return (
                f"has a free dimension of {dim.size} elements, "
                f"but an access of '{target}' takes {max_size}"
            )
        if abs(dim.stride) > max_stride:
            return (
                f"has a stride of {dim.stride} elements, "
                f"but an access of '{target}' reaches {max_stride}"
            )
    return None


def transfer_fits(op: ir.OpView, target: Target) -> str | None:
    """A transfer has at most `dma.max_dims` strided dimensions on either side."""
    limit = target.dma.max_dims
    for value, side in zip(op.operands, ("source", "destination"), strict=True):
        pattern = access_pattern(shape_of(value), strides_of(value.type))
        if len(pattern) > limit:
            return (
                f"needs {len(pattern)} dimensions for its {side}, "
                f"but a transfer of '{target.name}' has {limit}"
            )
    return None


def operand_walks(op: ir.OpView) -> list[tuple[list[int], list[int]]]:
    """Return (sizes, strides in elements) of the free dimensions of every on-chip operand, as the
    engine walks it."""
    if "indexing_maps" not in op.attributes:
        return [
            (shape_of(v)[1:], strides_of(v.type)[1:])
            for v in op.operands
            if isinstance(v.type, ir.MemRefType) and space_of(v.type) != "dram"
        ]
    maps = [ir.AffineMapAttr(a).value for a in ir.ArrayAttr(op.attributes["indexing_maps"])]
    sizes = list(ir.DenseI64ArrayAttr(op.attributes["sizes"]))
    return [
        (sizes[1:], composed_strides(map_, strides_of(value.type), len(sizes))[1:])
        for map_, value in zip(maps, op.operands, strict=True)
    ]


def composed_strides(map_: ir.AffineMap, strides: list[int], n_dims: int) -> list[int]:
    """Return the stride in elements that each loop dimension has in a buffer accessed through a
    linear map."""
    total = [0] * n_dims
    for expression, stride in zip(map_.results, strides, strict=True):
        linear = linear_form(expression, n_dims)
        assert linear is not None, "linear_maps comes first"
        total = [t + c * stride for t, c in zip(total, linear[1], strict=True)]
    return total
