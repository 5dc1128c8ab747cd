"""Joins loops that walk one dimension of an array in two parts, such as heads and what is in each.

    r[h, t, d] = q[t, 64 * h + d] + bias[64 * h + d]  ->  r[t, f] = q[t, f] + bias[f]

What else takes `r` gets a view on it in the old dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.mlir import ir, memref
from polystage.passes.lower.generic_op import GenericOp, Linear
from polystage.passes.lower.physical_layout import (
    PARTITION,
    PARTITION_LOOP,
    obstacle_of,
    retype_views,
)
from polystage.passes.lower.resident.reading import constant_of, users_of
from polystage.passes.lower.resident.windows import Window, root_of, window_of
from polystage.passes.lower.tensor_engine.contraction import multiplied_operands
from polystage.passes.memref_types import expanded_type, transposed_type
from polystage.passes.memref_types import reassociation as reassociation_attr


@dataclass(frozen=True)
class _Pair:
    """Two loops that are `outer * extent(inner) + inner` of one dimension."""

    outer: int
    inner: int


def collapse_heads(operations: Sequence[ir.Operation]) -> int:
    """Join such loops of all operations, and the dimensions of the arrays that they walk plainly;
    return how many pairs there were.

    An array is stored otherwise only where every operation on it can do with that: its loops are
    joined as well, or it multiplies two arrays.
    """
    joined = 0
    waiting = [op for op in operations if op.name == "linalg.generic"]
    while waiting:
        op = waiting.pop(0)
        found = _find(op)
        if found is None:
            continue
        pair, plain = found
        changed = [_store_joined(array, *dims) for array, dims in plain.items()]
        users = [user for array in changed for user in users_of(array)]
        again = [u for u in dict.fromkeys(users) if u != op and u.name == "linalg.generic"]
        replacement = _join(op, pair)
        joined += 1
        waiting = [replacement, *again, *(w for w in waiting if w not in again)]
    return joined


def _find(op: ir.Operation) -> tuple[_Pair, dict[ir.Value, tuple[int, int]]] | None:
    """Return two loops of an operation that can be joined, and the arrays that are to be stored
    with both dimensions in one, if there are such loops."""
    generic = _readable(op)
    if generic is None:
        return None
    for outer, inner in permutations(range(len(generic.extents)), 2):
        pair = _Pair(outer, inner)
        if 1 in (generic.extents[outer], generic.extents[inner]):
            continue
        if (outer in generic.reductions) != (inner in generic.reductions):
            continue
        plain = _plain_arrays(op, generic, pair)
        if plain is not None and all(_may_join(array, *dims) for array, dims in plain.items()):
            return pair, plain
    return None


def _readable(op: ir.Operation) -> GenericOp | None:
    if any(inner.operation.name == "linalg.index" for inner in op.regions[0].blocks[0].operations):
        return None
    try:
        return GenericOp.from_op(op.opview)
    except PassError:
        return None


def _plain_arrays(
    op: ir.Operation, generic: GenericOp, pair: _Pair
) -> dict[ir.Value, tuple[int, int]] | None:
    """Return the arrays that two loops walk each in a dimension of its own, with these, where all
    others have both loops in one dimension, at least one of them, or neither."""
    plain: dict[ir.Value, tuple[int, int]] = {}
    together = 0
    for access in (*generic.inputs, *generic.outputs):
        if not access.dims & {pair.outer, pair.inner}:
            continue
        window = window_of(op.operands[access.argument], access.index)
        if window is None or window.fill is not None:
            return None
        touched = [d for d, x in enumerate(window.index) if {pair.outer, pair.inner} & set(x.dims)]
        if len(touched) == 1 and _is_joined(window, touched[0], generic, pair):
            together += 1
            continue
        dims = window.dim_of(pair.outer), window.dim_of(pair.inner)
        if None in dims or len(touched) != 2:
            return None
        extents = [window.shape[d] for d in dims if d is not None]
        if extents != [generic.extents[pair.outer], generic.extents[pair.inner]]:
            return None
        plain[window.array] = dims  # type: ignore[assignment]
    return plain if together else None


def _is_joined(window: Window, dim: int, generic: GenericOp, pair: _Pair) -> bool:
    """Whether a dimension is all of `outer * extent(inner) + inner`."""
    inner = generic.extents[pair.inner]
    coefficients = [0] * len(generic.extents)
    coefficients[pair.outer], coefficients[pair.inner] = inner, 1
    whole = window.shape[dim] == generic.extents[pair.outer] * inner
    return whole and window.index[dim] == Linear(0, tuple(coefficients))


def _may_join(array: ir.Value, outer: int, inner: int) -> bool:
    """Whether an array can be stored with two dimensions in one."""
    owner = defining_op(array)
    if owner is None or owner.name != "memref.alloc":
        return False
    stored, shapes, order = _stored(array, outer, inner)
    seen = transposed_type(expanded_type(stored, shapes), order)
    if obstacle_of(array, seen) is not None:
        return False
    return all(_can_do_with(user, array, outer, inner) for user in users_of(array))


def _can_do_with(user: ir.Operation, array: ir.Value, outer: int, inner: int) -> bool:
    """Whether an operation can join its loops over two dimensions of an array, or multiplies two
    arrays, of which it takes a part at a time."""
    generic = _readable(user) if user.name == "linalg.generic" else None
    if generic is None:
        return False
    multiplied = multiplied_operands(generic) if len(generic.outputs) == 1 else None
    if multiplied is not None and not any(
        _is_constant(user.operands[access.argument]) for access in multiplied
    ):
        return True
    for access in (*generic.inputs, *generic.outputs):
        window = window_of(user.operands[access.argument], access.index)
        if window is not None and window.array == array:
            loops = window.index[outer].single, window.index[inner].single
            if None in loops:
                return False
            pair = _Pair(*loops)  # type: ignore[arg-type]
            if not _is_fill(generic) and _plain_arrays(user, generic, pair) is None:
                return False
    return True


def _is_fill(generic: GenericOp) -> bool:
    return not generic.inputs and len(generic.outputs) == 1


def _is_constant(value: ir.Value) -> bool:
    return constant_of(root_of(value)) is not None


# --- rewriting ------------------------------------------------------------------------------------


def _stored(
    array: ir.Value, outer: int, inner: int
) -> tuple[ir.MemRefType, list[list[int]], list[int]]:
    """Return the type of an array with two dimensions in one, the extents into which each of its
    dimensions splits, and the order in which that has the dimensions of the array.

    The joined dimension is where the inner one was.
    """
    type_ = ir.MemRefType(array.type)
    dims = [[d] for d in range(type_.rank) if d not in (outer, inner)]
    dims.insert(inner - (outer < inner), [outer, inner])
    shapes = [[type_.shape[d] for d in group] for group in dims]
    extents = [shape[0] if len(shape) == 1 else shape[0] * shape[1] for shape in shapes]
    split = [d for group in dims for d in group]
    order = [split.index(d) for d in range(type_.rank)]
    return ir.MemRefType.get(extents, type_.element_type), shapes, order


def _store_joined(array: ir.Value, outer: int, inner: int) -> ir.Value:
    """Store an array with two dimensions in one, and show it to its users as it was; return what
    is stored."""
    owner = defining_op(array)
    assert owner is not None
    stored_type, shapes, order = _stored(array, outer, inner)
    split_type = expanded_type(stored_type, shapes)
    with ir.InsertionPoint(owner), owner.location:
        stored = memref.AllocOp(stored_type, [], [])
        for name in owner.attributes:
            if name != PARTITION:
                stored.operation.attributes[name] = owner.attributes[name]
        flat = [n for shape in shapes for n in shape]
        groups = reassociation_attr([len(shape) for shape in shapes])
        split = memref.ExpandShapeOp(split_type, stored.memref, groups, [], flat).result
        map_ = ir.AffineMapAttr.get(ir.AffineMap.get_permutation(order))
        view = memref.TransposeOp(transposed_type(split_type, order), split, map_).result
    array.replace_all_uses_with(view)
    owner.erase()
    retype_views(view)
    return stored.memref


def _join(op: ir.Operation, pair: _Pair) -> ir.Operation:
    """Replace an operation by one that has two loops as one, and none of extent 1; operands that
    the two walk are taken as they are stored."""
    generic = GenericOp.from_op(op.opview)
    kept = [d for d, n in enumerate(generic.extents) if n > 1 and d != pair.outer]
    operands = list(op.operands)
    maps = [ir.AffineMapAttr(a).value for a in ir.ArrayAttr(op.attributes["indexing_maps"])]
    for number, map_ in enumerate(maps):
        accesses = [a for a in (*generic.inputs, *generic.outputs) if a.argument == number]
        if accesses and accesses[0].dims & {pair.outer, pair.inner}:
            window = window_of(operands[number], accesses[0].index)
            assert window is not None, "checked before"
            operands[number] = window.array
            results = [_expression(x, kept, pair) for x in window.index]
        else:
            place = {d: kept.index(d) for d in kept}
            results = [_renumbered(e, place, map_.n_dims) for e in map_.results]
        maps[number] = ir.AffineMap.get(len(kept), 0, results)
    attributes = {name: op.attributes[name] for name in op.attributes}
    attributes.pop("linalg.memoized_indexing_maps", None)
    if PARTITION_LOOP in attributes:
        loop = ir.IntegerAttr(attributes[PARTITION_LOOP])
        place = pair.inner if loop.value == pair.outer else loop.value
        if place in kept:
            attributes[PARTITION_LOOP] = ir.IntegerAttr.get(loop.type, kept.index(place))
        else:
            del attributes[PARTITION_LOOP]
    attributes["indexing_maps"] = ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in maps])
    kinds = list(ir.ArrayAttr(op.attributes["iterator_types"]))
    attributes["iterator_types"] = ir.ArrayAttr.get([kinds[d] for d in kept])
    with ir.InsertionPoint(op), op.location:
        new = ir.Operation.create(
            op.name, operands=operands, attributes=attributes, regions=len(op.regions)
        )
    op.regions[0].blocks[0].append_to(new.regions[0])
    op.erase()
    return new


def _expression(linear: Linear, kept: Sequence[int], pair: _Pair) -> ir.AffineExpr:
    """Return an index in the loops that are left; the joined one is where the inner one was."""
    total = ir.AffineExpr.get_constant(linear.constant)
    for d in linear.dims:
        if d in kept:
            total = total + ir.AffineExpr.get_dim(kept.index(d)) * linear.coefficients[d]
    return total


def _renumbered(expression: ir.AffineExpr, place: Mapping[int, int], n_dims: int) -> ir.AffineExpr:
    dims = [
        ir.AffineExpr.get_dim(place[d]) if d in place else ir.AffineExpr.get_constant(0)
        for d in range(n_dims)
    ]
    return (
        ir.AffineMap.get(n_dims, 0, [expression])
        .results[0]
        .compose(ir.AffineMap.get(len(place), 0, dims))
    )
