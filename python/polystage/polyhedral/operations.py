"""Operations of the IR as reading a program needs them: walks, slices, details of linalg."""

import re
from collections.abc import Iterator
from typing import Any

from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir, linalg
from polystage.polyhedral.expressions import NotAffineError, used_dims
from polystage.polyhedral.scalar import LOADS, computed_from
from polystage.polyhedral.views import VIEW_OPS


def is_memref(value: ir.Value) -> bool:
    """Tell whether `value` is a memref."""
    return isinstance(value.type, ir.MemRefType)


def is_row_major(value: ir.Value) -> bool:
    """Tell whether the elements of a memref follow each other in memory, the last dim fastest."""
    type_ = ir.MemRefType(value.type)
    return type_.affine_map == ir.AffineMap.get_identity(type_.rank, type_.context)


def children(op: Any) -> Iterator[ir.Operation]:
    """Yield the operations directly inside of `op`."""
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation


def with_nested(op: Any) -> Iterator[Any]:
    """Yield `op` and all operations inside of it."""
    yield op
    for inner in children(op):
        yield from with_nested(inner)


def walk_block(block: ir.Block) -> Iterator[Any]:
    """Yield all operations of a block, nested ones included."""
    for op in block.operations:
        yield from with_nested(op.operation)


def slice_of(value: ir.Value) -> Iterator[ir.Value]:
    """Yield `value` and everything from which it is computed, up to loads, operands in order."""
    return computed_from(value, _is_loaded)


def _is_loaded(value: ir.Value) -> bool:
    op = defining_op(value)
    return op is not None and op.name in LOADS


def root_op(value: ir.Value) -> Any:
    """Return the operation that makes the buffer behind a chain of views."""
    op = defining_op(value)
    while op is not None and op.name in VIEW_OPS:
        op = defining_op(op.operands[0])
    return op


def constraints_of(attr: ir.Attribute) -> tuple[ir.AffineMap, list[bool]]:
    """Return the left-hand sides of an affine set's constraints, and which of them are equalities.

    The bindings give no access to the set inside of the attribute, so this goes by its text, in
    which every constraint ends with `>= 0` or `== 0`.
    """
    text = str(attr).removeprefix("affine_set<").removesuffix(">")
    inputs, _, constraints = text.partition(" : ")
    sides = re.findall(r"(.+?) (==|>=) 0(?:, |$)", constraints.strip()[1:-1])
    map_text = f"affine_map<{inputs} -> ({', '.join(side for side, _ in sides)})>"
    exprs = ir.AffineMapAttr(ir.Attribute.parse(map_text)).value
    return exprs, [sign == "==" for _, sign in sides]


def indexing_maps(op: Any) -> list[ir.AffineMap]:
    """Return the indexing maps of a linalg op, named ones included.

    Raises: NotAffineError where it has none, or no body.
    """
    attributes = op.attributes
    named = "indexing_maps" not in attributes
    maps = linalg.get_indexing_maps(op) if named else attributes["indexing_maps"]
    if maps is None or not list(op.regions):
        raise NotAffineError(f"{op.name} is not understood")
    return [ir.AffineMapAttr(attr).value for attr in maps]


def input_count(op: Any) -> int:
    """Return how many operands of a linalg op are inputs."""
    if "operandSegmentSizes" in op.attributes:
        return next(iter(op.attributes["operandSegmentSizes"]))
    return len(op.operands) - 1


def iterator_types(op: Any, maps: list[ir.AffineMap]) -> tuple[str, ...]:
    """Return the iterator types; those of a named op follow from what its outputs index."""
    if "iterator_types" in op.attributes:
        kinds = op.attributes["iterator_types"]
        return tuple("reduction" if "reduction" in str(kind) else "parallel" for kind in kinds)
    outputs = (expr for map_ in maps[input_count(op) :] for expr in map_.results)
    written = set[int]().union(*map(used_dims, outputs))
    dims = range(maps[0].n_dims)
    return tuple("parallel" if dim in written else "reduction" for dim in dims)


def loop_extents(op: Any, maps: list[ir.AffineMap]) -> tuple[int, ...]:
    """Return the extents of a linalg op's loops from the shapes of its operands."""
    extents: dict[int, int] = {}
    for operand, map_ in zip(op.operands, maps, strict=True):
        if not is_memref(operand):
            continue
        for expr, extent in zip(map_.results, ir.MemRefType(operand.type).shape, strict=True):
            if isinstance(expr, ir.AffineDimExpr):
                extents.setdefault(expr.position, extent)
    if len(extents) != maps[0].n_dims:
        raise NotAffineError("the extent of a loop cannot be told from the operands")
    return tuple(extents[dim] for dim in range(maps[0].n_dims))
