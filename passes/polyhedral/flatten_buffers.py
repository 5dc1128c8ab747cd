"""Gives buffers the shape in which they are read, where that has fewer dimensions."""

from __future__ import annotations

from polystage.forms import walk
from polystage.mlir import ir, memref
from polystage.slices import reassociation


def flatten_buffers(module: ir.Module) -> int:
    """Let buffers that are only read with dimensions merged have these from the start; return how
    many.

    write a[r, p]; read collapse(a)[i]   ->   write expand(b)[r, p]; read b[i]

    An index of the collapsed array takes `i` apart, `a[i floordiv 256, i mod 256]`, which is no
    box of `a` for most ranges of `i`. That of the expanded one is linear, `b[256 * r + p]`.
    """
    buffers = [op for op in walk(module.operation) if op.name == "memref.alloc"]
    return sum(map(_flatten, buffers))


def _flatten(alloc: ir.Operation) -> bool:
    users = [use.owner for use in alloc.results[0].uses]
    merges = [user for user in users if user.operation.name == "memref.collapse_shape"]
    types = {user.operation.results[0].type for user in merges}
    if len(types) != 1 or not _merges_dimensions(merges[0]):
        return False
    with ir.InsertionPoint(alloc), alloc.location:
        flat = memref.AllocOp(types.pop(), [], []).result
        shape = alloc.results[0].type.shape
        seen = memref.ExpandShapeOp(
            alloc.results[0].type, flat, merges[0].attributes["reassociation"], [], shape
        ).result
    for merge in merges:
        merge.operation.results[0].replace_all_uses_with(flat)
        merge.operation.erase()
    alloc.results[0].replace_all_uses_with(seen)
    alloc.erase()
    return True


def _merges_dimensions(collapse: ir.OpView) -> bool:
    """Return whether two dimensions of more than one element become one."""
    shape = ir.MemRefType(collapse.operation.operands[0].type).shape
    return any(sum(shape[d] > 1 for d in group) > 1 for group in reassociation(collapse.operation))
