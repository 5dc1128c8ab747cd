"""Arrays stored as `npu.partition` says: that dimension outermost, so that what a partition takes
lies in one run.

    %a = memref.alloc() {npu.partition = 1 : i64} : memref<64x768xf32>
        ->  %s = memref.alloc() : memref<768x64xf32>
            %a = memref.transpose %s (d0, d1) -> (d1, d0)

Views on the array follow, and operations that read or write it as a whole get the new array and
another indexing map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from polystage.dialects.npu.views import DYNAMIC, VIEW_OPS
from polystage.errors import PassError
from polystage.forms import walk
from polystage.mlir import func, ir, memref
from polystage.passes.memref_types import (
    collapsed_type,
    expanded_type,
    transposed_type,
    window_type,
)
from polystage.slices import reassociation

PARTITION = "npu.partition"
"""Attribute of an allocation or an argument: its dimension across the partitions."""

STATIONARY = "npu.stationary"
"""Attribute of a contraction: the operand that the tensor engine holds."""

PARTITION_LOOP = "npu.partition_loop"
"""Attribute of any other linalg.generic: its loop across the partitions."""

DECISIONS = (STATIONARY, PARTITION_LOOP)
"""Attributes of an operation that say what its kernel looks like."""

_READERS = ("linalg.generic", "memref.copy", "npu.overlay")


def lay_out_arrays(function: func.FuncOp) -> None:
    """Store every array of a program as its attribute says.

    Raises:
        PassError: there is no such dimension, or a view on the array, or a use of it, needs it
            row-major.
    """
    _check_arguments(function)
    marked = [op for op in walk(function.operation) if PARTITION in op.attributes]
    for op in marked:
        if op.name != "memref.alloc":
            raise PassError(
                f"'{PARTITION}' stands on '{op.name}', but only allocations and arguments have it",
                op=op,
                help="remove the attribute",
            )
        _lay_out(op)


def stationary_operand(op: ir.Operation) -> int | None:
    """Return the operand that an operation wants held by the tensor engine, if it names one.

    Raises: PassError where that is no number.
    """
    return _number(op, STATIONARY, "an operand")


def partition_loop(op: ir.Operation) -> int | None:
    """Return the loop that an operation wants across the partitions, if it names one.

    Raises: PassError where that is no number.
    """
    return _number(op, PARTITION_LOOP, "a loop")


def _number(op: ir.Operation, name: str, of_what: str) -> int | None:
    if name not in op.attributes:
        return None
    attribute = op.attributes[name]
    if isinstance(attribute, ir.IntegerAttr):
        return attribute.value
    raise PassError(
        f"'{name}' is {attribute}, but must be an integer",
        op=op,
        help=f"name {of_what} by its number, or remove the attribute",
    )


def possible_dims(array: ir.Value) -> list[int]:
    """Return the dimensions of more than one element that an array, or a copy of it, may be stored
    with outermost."""
    shape = ir.MemRefType(array.type).shape
    return [d for d, n in enumerate(shape) if n > 1 and _obstacle(array, d) is None]


def stored_order(shape: Sequence[int], dim: int) -> list[int]:
    """Return the dimensions as they are stored, outermost first.

    Where only unit dimensions lie outside of `dim`, that is the order they have.

    >>> stored_order([1, 64, 768], 2), stored_order([1, 64, 768], 1)
    ([2, 0, 1], [0, 1, 2])
    """
    if all(n == 1 for n in shape[:dim]):
        return list(range(len(shape)))
    return [dim, *(d for d in range(len(shape)) if d != dim)]


def _check_arguments(function: func.FuncOp) -> None:
    entries = function.attributes.get("arg_attrs", ())
    for number, (argument, entry) in enumerate(zip(function.arguments, entries, strict=False)):
        attributes = ir.DictAttr(entry)
        if PARTITION not in attributes:
            continue
        shape = list(ir.MemRefType(argument.type).shape)
        dim = _checked_dim(attributes[PARTITION], shape, f"argument {number}", function)
        if stored_order(shape, dim) != list(range(len(shape))):
            raise PassError(
                f"argument {number} lies in DRAM row-major, but '{PARTITION}' is {dim}",
                op=function,
                help="arguments stay as the caller lays them out; copy to an allocation",
            )


def _checked_dim(attribute: ir.Attribute, shape: Sequence[int], what: str, op: object) -> int:
    if isinstance(attribute, ir.IntegerAttr) and 0 <= attribute.value < len(shape):
        return attribute.value
    raise PassError(
        f"'{PARTITION}' of {what} is {attribute}, but its dimensions are 0 to {len(shape) - 1}",
        op=op,
        help="name one of them, or remove the attribute",
    )


def _lay_out(op: ir.Operation) -> None:
    type_ = ir.MemRefType(op.results[0].type)
    shape = list(type_.shape)
    dim = _checked_dim(op.attributes[PARTITION], shape, f"an array of type {type_}", op)
    del op.attributes[PARTITION]
    order = stored_order(shape, dim)
    if order == list(range(len(shape))):
        return
    if (obstacle := _obstacle(op.results[0], dim)) is not None:
        raise PassError(
            f"'{PARTITION}' of an array of type {type_} is {dim}, but {obstacle}",
            op=op,
            help="name another dimension, or remove the attribute",
        )
    stored_type = ir.MemRefType.get([shape[d] for d in order], type_.element_type)
    with ir.InsertionPoint(op), op.location:
        stored = memref.AllocOp(stored_type, [], [])
        for name in op.attributes:
            stored.operation.attributes[name] = op.attributes[name]
    for user, number in list(_users(op.results[0])):
        _replace_operand(user, number, stored.memref, order)
    op.erase()


def _replace_operand(
    user: ir.Operation, number: int, stored: ir.Value, order: Sequence[int]
) -> None:
    """Let `user` take an array that is stored with its dimensions in `order`.

    An operation with indexing maps takes it as it is, with its map permuted; any other a view,
    made right before it, as what stands between a fill and its reader keeps them apart.
    """
    if user.name == "linalg.generic":
        maps = [ir.AffineMapAttr(a).value for a in ir.ArrayAttr(user.attributes["indexing_maps"])]
        old = maps[number]
        maps[number] = ir.AffineMap.get(old.n_dims, 0, [old.results[d] for d in order])
        user.attributes["indexing_maps"] = ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps])
        user.operands[number] = stored
        return
    back = [order.index(d) for d in range(len(order))]
    with ir.InsertionPoint(user), user.location:
        map_ = ir.AffineMapAttr.get(ir.AffineMap.get_permutation(back))
        type_ = transposed_type(ir.MemRefType(stored.type), back)
        view = memref.TransposeOp(type_, stored, map_).result
    user.operands[number] = view
    retype_views(view)


# --- views ----------------------------------------------------------------------------------------


def _users(value: ir.Value) -> Iterator[tuple[ir.Operation, int]]:
    for use in value.uses:
        yield use.owner.operation, use.operand_number


def _obstacle(array: ir.Value, dim: int) -> str | None:
    """Return what keeps an array from being stored with `dim` outermost, or None."""
    type_ = ir.MemRefType(array.type)
    order = stored_order(type_.shape, dim)
    if order == list(range(type_.rank)):
        return None
    stored = ir.MemRefType.get([type_.shape[d] for d in order], type_.element_type)
    back = [order.index(d) for d in range(type_.rank)]
    return obstacle_of(array, transposed_type(stored, back))


def obstacle_of(value: ir.Value, type_: ir.MemRefType) -> str | None:
    """Return what a user of `value` has against its being of type `type_`, or None."""
    for user, _ in _users(value):
        if user.name in VIEW_OPS:
            result = _view_type(user, type_)
            if result is None:
                return f"'{user.name}' on it needs dimensions together that then lie apart"
            found = obstacle_of(user.results[0], result)
            if found is not None:
                return found
        elif user.name not in _READERS:
            return f"'{user.name}' takes it row-major"
    return None


def _view_type(op: ir.Operation, source: ir.MemRefType) -> ir.MemRefType | None:
    """Return the type of a view on an array of another type, or None where there is no view."""
    old = ir.MemRefType(op.results[0].type)
    match op.name:
        case "memref.subview":
            starts, sizes, steps = (
                list(op.attributes[f"static_{what}"]) for what in ("offsets", "sizes", "strides")
            )
            kept = kept_dims(sizes, old.shape)
            if kept is None or DYNAMIC in steps:
                return None
            return window_type(source, starts, sizes, steps, kept)
        case "memref.transpose":
            map_ = ir.AffineMapAttr(op.attributes["permutation"]).value
            order = [ir.AffineDimExpr(e.maybe_downcast()).position for e in map_.results]
            return transposed_type(source, order)
        case "memref.expand_shape":
            return expanded_type(source, [[old.shape[d] for d in g] for g in reassociation(op)])
        case "memref.collapse_shape":
            groups = reassociation(op)
            if not groups or not all(_lie_together(source, g) for g in groups):
                return None
            return collapsed_type(source, [len(g) for g in groups])
        case _:
            return None


def _lie_together(type_: ir.MemRefType, dims: Sequence[int]) -> bool:
    strides, _ = type_.get_strides_and_offset()
    wide = [d for d in dims if type_.shape[d] > 1]
    return all(strides[a] == strides[b] * type_.shape[b] for a, b in pairwise(wide))


def kept_dims(sizes: Sequence[int], shape: Sequence[int]) -> list[int] | None:
    """Return the dimensions of a subview of `sizes` that its result, of `shape`, has; unit
    dimensions may be dropped."""
    kept: list[int] = []
    for d, size in enumerate(sizes):
        if len(kept) < len(shape) and size == shape[len(kept)]:
            kept.append(d)
    return kept if len(kept) == len(shape) else None


def retype_views(value: ir.Value) -> None:
    """Give every view on `value` the type that follows from that of `value`."""
    for user, _ in list(_users(value)):
        if user.name in VIEW_OPS:
            result = _view_type(user, ir.MemRefType(value.type))
            assert result is not None, "checked before"
            user.results[0].set_type(result)
            retype_views(user.results[0])
