"""Gives an array, and the operation that writes it, the dimensions in which its reader sees it.

t[m, n] = a[m, k] x b[k, n];  r[h, m, d] = relu(expand(t)[m, h, d])
    ->  t[m, h, d] = a[m, k] x expand(b)[k, h, d];  r[h, m, d] = relu(t[m, h, d])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir, memref
from polystage.passes.lower.generic_op import Access, GenericOp
from polystage.passes.lower.physical_layout import PARTITION, PARTITION_LOOP, partition_loop
from polystage.passes.memref_types import expanded_type, reassociation
from polystage.slices import reassociation as groups_of

Splits = Mapping[int, Sequence[int]]
"""The extents that a loop is split into, outermost first; loops that stay are not there."""


def expand_result(op: ir.Operation, fills: Sequence[ir.Operation]) -> bool:
    """Let `op`, and the `fills` of its output, write an array of the shape that the one
    `memref.expand_shape` of it has; return whether that could be done.

    Every operand has to walk a split loop plainly: a window such as `2 * h + k` does not split, nor
    does a body that asks for the numbers of its loops.
    """
    result = op.operands[len(op.operands) - 1]
    allocation = defining_op(result)
    users = {use.owner.operation for use in result.uses} - {op, *fills}
    if allocation is None or allocation.name != "memref.alloc" or len(users) != 1:
        return False
    (view,) = users
    if view.name != "memref.expand_shape":
        return False
    if any(inner.operation.name == "linalg.index" for inner in op.regions[0].blocks[0].operations):
        return False
    generic = GenericOp.from_op(op.opview)
    shape = list(ir.MemRefType(view.results[0].type).shape)
    shapes = [[shape[d] for d in group] for group in groups_of(view)]
    splits = _splits(generic.outputs[0], shapes)
    if splits is None or not all(_splits_plainly(op, a, splits) for a in generic.inputs):
        return False
    with ir.InsertionPoint(allocation), allocation.location:
        expanded = _allocation(allocation, shapes)
    for writer in (*fills, op):
        _rewrite(writer, splits if writer == op else _splits_of_fill(writer, shapes), expanded)
    view.results[0].replace_all_uses_with(expanded)
    view.erase()
    allocation.erase()
    return True


def _splits(access: Access, shapes: Sequence[Sequence[int]]) -> Splits | None:
    """Return how loops split where dimension i of an operand goes into `shapes[i]`."""
    splits: dict[int, Sequence[int]] = {}
    for linear, shape in zip(access.index, shapes, strict=True):
        if len(shape) > 1:
            if linear.single is None:
                return None
            splits[linear.single] = shape
    return splits


def _splits_of_fill(op: ir.Operation, shapes: Sequence[Sequence[int]]) -> Splits:
    splits = _splits(GenericOp.from_op(op.opview).outputs[0], shapes)
    assert splits is not None, "a fill writes along its loops"
    return splits


def _splits_plainly(op: ir.Operation, access: Access, splits: Splits) -> bool:
    touched = [linear for linear in access.index if set(linear.dims) & set(splits)]
    if touched and overlay.is_overlay(op.operands[access.argument]):
        return False
    return all(linear.single is not None for linear in touched)


def _allocation(old: ir.Operation, shapes: Sequence[Sequence[int]]) -> ir.Value:
    """Return an array with dimension i of `old` split into `shapes[i]`."""
    type_ = ir.MemRefType(old.results[0].type)
    new = memref.AllocOp(
        ir.MemRefType.get([n for shape in shapes for n in shape], type_.element_type), [], []
    )
    for name in old.attributes:
        new.operation.attributes[name] = old.attributes[name]
    if PARTITION in old.attributes:
        dim = ir.IntegerAttr(old.attributes[PARTITION])
        before = sum(len(shape) for shape in shapes[: dim.value])
        wide = _first_wide(shapes[dim.value])
        new.operation.attributes[PARTITION] = ir.IntegerAttr.get(dim.type, before + wide)
    return new.memref


def _first_wide(shape: Sequence[int]) -> int:
    """Return the first dimension of more than one element, which takes the place of the whole."""
    return next((i for i, n in enumerate(shape) if n > 1), 0)


def _rewrite(op: ir.Operation, splits: Splits, output: ir.Value) -> None:
    """Split loops of an operation, and let it write `output`."""
    maps = [ir.AffineMapAttr(a).value for a in ir.ArrayAttr(op.attributes["indexing_maps"])]
    kinds = list(ir.ArrayAttr(op.attributes["iterator_types"]))
    place: dict[int, list[int]] = {}
    for d in range(len(kinds)):
        first = sum(map(len, place.values()))
        place[d] = list(range(first, first + len(splits.get(d, [1]))))
    n_dims = sum(map(len, place.values()))
    with ir.InsertionPoint(op), op.location:
        new_maps = [
            _rewrite_operand(op, number, map_, splits, place, n_dims)
            for number, map_ in enumerate(maps)
        ]
        op.operands[len(maps) - 1] = output
        op.attributes["indexing_maps"] = ir.ArrayAttr.get(list(map(ir.AffineMapAttr.get, new_maps)))
        spread = [kind for d, kind in enumerate(kinds) for _ in place[d]]
        op.attributes["iterator_types"] = ir.ArrayAttr.get(spread)
    loop = partition_loop(op)
    if loop is not None:
        i64 = ir.IntegerType.get_signless(64)
        chosen = place[loop][_first_wide(splits.get(loop, [1]))]
        op.attributes[PARTITION_LOOP] = ir.IntegerAttr.get(i64, chosen)


def _rewrite_operand(
    op: ir.Operation,
    number: int,
    map_: ir.AffineMap,
    splits: Splits,
    place: Mapping[int, Sequence[int]],
    n_dims: int,
) -> ir.AffineMap:
    """Expand an operand where it walks a split loop, and return its map."""
    first = [ir.AffineExpr.get_dim(place[d][0]) for d in range(map_.n_dims)]
    shapes: list[list[int]] = []
    results: list[ir.AffineExpr] = []
    value = op.operands[number]
    shape = ir.MemRefType(value.type).shape if isinstance(value.type, ir.MemRefType) else []
    for expression, extent in zip(map_.results, shape, strict=True):
        dim = expression.maybe_downcast()
        if isinstance(dim, ir.AffineDimExpr) and dim.position in splits:
            shapes.append(list(splits[dim.position]))
            results += [ir.AffineExpr.get_dim(d) for d in place[dim.position]]
        else:
            shapes.append([extent])
            results.append(expression.compose(ir.AffineMap.get(n_dims, 0, first)))
    if any(len(s) > 1 for s in shapes) and number + 1 < len(op.operands):
        type_ = expanded_type(ir.MemRefType(value.type), shapes)
        groups = reassociation([len(s) for s in shapes])
        flat = [n for s in shapes for n in s]
        op.operands[number] = memref.ExpandShapeOp(type_, value, groups, [], flat).result
    return ir.AffineMap.get(n_dims, 0, results)
