"""From distributed loops to boxes: what an operation with constant extents can run at once.

A loop that stays keeps constant bounds. Where the extents of an operation depend on the index of
a loop around it, as in a triangle, that loop is unrolled, so that its index is a number in every
copy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import islpy as isl

from polystage.mlir import ir
from polystage.polyhedral.distribution import Leaf, Loop, Node
from polystage.polyhedral.domains import range_of
from polystage.polyhedral.expressions import from_terms
from polystage.polyhedral.model import Statement

Fixed = Mapping[int, int | tuple[int, int]]
"""The value of an unrolled dim, or the bounds, both included, of a dim that a loop runs over."""


class NotRectangularError(Exception):
    """The extents of an operation depend on a loop that stays."""


class UnrollLimitError(Exception):
    """Unrolling would make too many copies of a statement."""

    def __init__(self, statement: Statement) -> None:
        super().__init__(statement.name)
        self.statement = statement


@dataclass(frozen=True)
class ForLoop:
    """A loop with constant bounds over `level` of the statements inside."""

    level: int
    low: int
    high: int
    """The last index, included."""
    body: tuple["Step", ...]
    source: Loop


@dataclass(frozen=True)
class BoxOperation:
    """A statement on a box of its domain: `lower[n] <= dims[n] < lower[n] + extents[n]`."""

    leaf: Leaf
    fixed: Fixed
    dims: tuple[int, ...]
    lower: tuple[ir.AffineExpr, ...]
    """Expressions in the statement's dims that loops run over."""
    extents: tuple[int, ...]


Step = ForLoop | BoxOperation


def rectangular_steps(nodes: Sequence[Node], limit: int) -> tuple[Step, ...]:
    """Return loops with constant bounds and operations on boxes that do what `nodes` say.

    Raises: UnrollLimitError where a statement would be unrolled into more than `limit` operations.
    """
    return tuple(step for node in nodes for step in _steps(node, {}, limit))


def _steps(node: Node, fixed: Fixed, limit: int) -> list[Step]:
    return (
        _loop_steps(node, fixed, limit)
        if isinstance(node, Loop)
        else _leaf_steps(node, fixed, limit)
    )


def _loop_steps(node: Loop, fixed: Fixed, limit: int) -> list[Step]:
    """Keep the loop if everything inside stays rectangular, else unroll it."""
    domains = [_restricted(s.domain, fixed) for s in node.statements]
    ranges = [range_of(domain, node.level) for domain in domains if not domain.is_empty()]
    if not ranges:
        return []
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    try:
        inner = {**fixed, node.level: (low, high)}
        body = tuple(step for child in node.body for step in _steps(child, inner, limit))
        return [ForLoop(node.level, low, high, body, node)]
    except NotRectangularError:
        return _unrolled(node.body, node.level, low, high, fixed, limit)


def _unrolled(
    nodes: Sequence[Node], dim: int, low: int, high: int, fixed: Fixed, limit: int
) -> list[Step]:
    steps: list[Step] = []
    if high - low >= limit:
        raise UnrollLimitError(nodes[0].statements[0])
    for value in range(low, high + 1):
        for node in nodes:
            steps += _steps(node, {**fixed, dim: value}, limit)
        if len(steps) > limit * sum(len(node.statements) for node in nodes):
            raise UnrollLimitError(nodes[0].statements[0])
    return steps


def _leaf_steps(leaf: Leaf, fixed: Fixed, limit: int) -> list[Step]:
    """Return the operation, or one for each value of the dim that makes it rectangular."""
    domain = _restricted(leaf.statement.domain, fixed)
    if domain.is_empty():
        return []
    operation = _box_operation(leaf, domain, fixed)
    if operation is not None:
        return [operation]
    free = [dim for dim in range(len(leaf.statement.dims)) if dim not in fixed]
    ranges = {dim: range_of(domain, dim) for dim in free}
    for dim in sorted(free, key=lambda d: ranges[d][1] - ranges[d][0]):
        try:
            return _unrolled([leaf], dim, *ranges[dim], fixed, limit)
        except NotRectangularError:
            continue
    raise NotRectangularError


def _restricted(domain: isl.Set, fixed: Fixed) -> isl.Set:
    for dim, value in fixed.items():
        if isinstance(value, int):
            domain = domain.fix_val(isl.dim_type.set, dim, isl.Val(value))
        else:
            domain = domain.lower_bound_val(isl.dim_type.set, dim, isl.Val(value[0]))
            domain = domain.upper_bound_val(isl.dim_type.set, dim, isl.Val(value[1]))
    return domain


def _box_operation(leaf: Leaf, domain: isl.Set, fixed: Fixed) -> BoxOperation | None:
    """Return the operation if `domain` is a box of constant extents, wherever the loops stand."""
    loops = [dim for dim, value in sorted(fixed.items()) if not isinstance(value, int)]
    dims = tuple(dim for dim in range(len(leaf.statement.dims)) if dim not in fixed)
    free = _with_parameters(domain, loops, dims)
    context = _context(free, fixed, loops)
    lower: list[ir.AffineExpr] = []
    extents: list[int] = []
    box = isl.Set.universe(free.get_space()).intersect_params(context)
    for place in range(len(dims)):
        bounds = _constant_extent(free, place, context)
        if bounds is None:
            return None
        low, extent = bounds
        lower.append(_expr(low, loops))
        extents.append(extent)
        box = box.intersect(_between(free.get_space(), place, low, extent))
    if not box.is_equal(free):
        return None
    return BoxOperation(leaf, dict(fixed), dims, tuple(lower), tuple(extents))


def _with_parameters(domain: isl.Set, loops: list[int], dims: tuple[int, ...]) -> isl.Set:
    """Turn the dims of loops into parameters, and leave `dims` only of the others."""
    free = domain.reset_tuple_id() if domain.has_tuple_id() else domain
    for dim in reversed(range(domain.dim(isl.dim_type.set))):
        if dim in loops:
            free = free.move_dims(isl.dim_type.param, 0, isl.dim_type.set, dim, 1)
            free = free.set_dim_name(isl.dim_type.param, 0, f"loop_{dim}")
        elif dim not in dims:
            free = free.project_out(isl.dim_type.set, dim, 1)
    return free


def _context(free: isl.Set, fixed: Fixed, loops: list[int]) -> isl.Set:
    """Return the values of the loops around as a set of parameters."""
    context = isl.Set.universe(free.get_space().params())
    for place, dim in enumerate(loops):
        value = fixed[dim]
        assert not isinstance(value, int)
        context = context.lower_bound_val(isl.dim_type.param, place, isl.Val(value[0]))
        context = context.upper_bound_val(isl.dim_type.param, place, isl.Val(value[1]))
    return context


def _constant_extent(free: isl.Set, place: int, context: isl.Set) -> tuple[isl.Aff, int] | None:
    """Return the lower bound of a dim and its extent, if they are affine and constant."""
    low = _single_aff(free.dim_min(place).gist_params(context))
    high = _single_aff(free.dim_max(place).gist_params(context))
    if low is None or high is None:
        return None
    size = high.sub(low)
    if not size.is_cst():
        return None
    return low, size.get_constant_val().to_python() + 1


def _single_aff(value: isl.PwAff) -> isl.Aff | None:
    value = value.coalesce()
    if value.n_piece() != 1:
        return None
    affs: list[isl.Aff] = []
    value.foreach_piece(lambda domain, aff: affs.append(aff))
    is_plain = affs[0].dim(isl.dim_type.div) == 0 and affs[0].get_denominator_val().is_one()
    return affs[0] if is_plain else None


def _between(space: isl.Space, place: int, low: isl.Aff, extent: int) -> isl.Set:
    """Return `low <= dim < low + extent`."""
    local = isl.LocalSpace.from_space(space)
    index = isl.Aff.var_on_domain(local, isl.dim_type.set, place)
    start = isl.Aff.zero_on_domain(local).set_constant_val(low.get_constant_val())
    for parameter in range(space.dim(isl.dim_type.param)):
        coefficient = low.get_coefficient_val(isl.dim_type.param, parameter)
        start = start.set_coefficient_val(isl.dim_type.param, parameter, coefficient)
    end = start.add_constant_val(isl.Val(extent))
    return start.le_set(index).intersect(index.lt_set(end))


def _expr(aff: isl.Aff, loops: list[int]) -> ir.AffineExpr:
    terms = {
        ir.AffineExpr.get_dim(dim): aff.get_coefficient_val(isl.dim_type.param, place).to_python()
        for place, dim in enumerate(loops)
    }
    constant = aff.get_constant_val().to_python()
    return from_terms({atom: value for atom, value in terms.items() if value}, constant)
