"""Accumulations: operations that touch nothing of an array but the element that they replace."""

from collections.abc import Mapping
from dataclasses import dataclass

import islpy as isl

from polystage.mlir import ir
from polystage.polyhedral.expressions import linear_terms, used_dims
from polystage.polyhedral.model import Access, Statement, map_from_affs


@dataclass(frozen=True)
class Accumulation:
    """Instances that differ in the reduction dims only read and replace one element, in turn."""

    reduction: tuple[int, ...]
    extents: tuple[int, ...]


def accumulation_of(statement: Statement, array: str) -> Accumulation | None:
    """Recognise a linalg op that touches nothing of the array but the element it replaces."""
    reads = [access for access in statement.reads if access.array == array]
    writes = [access for access in statement.writes if access.array == array]
    if len(writes) != 1 or writes[0].exprs is None or statement.depth:
        return None
    if statement.domain.is_empty():
        return None
    if any(read.exprs != writes[0].exprs or _is_piece(read, statement) for read in reads):
        return None
    dims = range(len(statement.dims))
    extents = tuple(statement.domain.dim_max_val(dim).to_python() + 1 for dim in dims)
    used = set[int]().union(*map(used_dims, writes[0].exprs))
    reduction = tuple(dim for dim in dims if dim not in used)
    if _is_injective(writes[0], {dim for dim in used if extents[dim] > 1}, reduction):
        return Accumulation(reduction, extents)
    return None


def _is_piece(read: Access, statement: Statement) -> bool:
    """Tell whether a read is one of several for the same value, in a part of the instances only."""
    same = (a for a in statement.reads if (a.op, a.operand) == (read.op, read.operand))
    return any(access.where for access in same)


def _is_injective(write: Access, dims: set[int], reduction: tuple[int, ...]) -> bool:
    """Tell whether instances that differ in `dims` write different elements."""
    alone: set[int] = set()
    for expr in write.exprs or ():
        terms = list(linear_terms(expr)[0])
        if len(terms) == 1 and isinstance(terms[0], ir.AffineDimExpr):
            alone.add(terms[0].position)
    if dims <= alone:
        return True
    parallel = write.map
    for dim in reversed(reduction):
        parallel = parallel.project_out(isl.dim_type.in_, dim, 1)
    return bool(parallel.is_injective())


def next_instance(statement: Statement, shape: Accumulation) -> isl.Map:
    """Return the map of every instance to the next one that differs in the reduction dims only."""
    space = statement.domain.get_space()
    local = isl.LocalSpace.from_space(space)
    same = [isl.Aff.var_on_domain(local, isl.dim_type.set, d) for d in range(len(shape.extents))]
    zero = isl.Aff.zero_on_domain(local)
    total: isl.Map | None = None
    for place, stepped in enumerate(shape.reduction):
        if shape.extents[stepped] == 1:
            continue
        target = list(same)
        target[stepped] = same[stepped].add_constant_val(isl.Val(1))
        full: dict[int, int] = {}
        for inner in shape.reduction[place + 1 :]:
            target[inner] = zero
            full[inner] = shape.extents[inner] - 1
        source = fixed_domain(statement, full)
        source = source.upper_bound_val(
            isl.dim_type.set, stepped, isl.Val(shape.extents[stepped] - 2)
        )
        name = statement.name
        piece = map_from_affs(space, target, name).intersect_domain(source)
        total = piece if total is None else total.union(piece)
    assert total is not None
    return total


def fixed_domain(statement: Statement, values: Mapping[int, int]) -> isl.Set:
    """Return the instances whose dims have the given values."""
    domain = statement.domain
    for dim, value in values.items():
        domain = domain.fix_val(isl.dim_type.set, dim, isl.Val(value))
    return domain
