"""What a tile of a statement touches of an array, as closed forms in the tile's origin and size.

The forms are derived once per access with isl (parametric minimum and maximum of every array
index), then evaluated with numpy for any number of tilings at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import islpy as isl
import numpy as np

from polystage.mlir import ir
from polystage.polyhedral.domains import range_of, variables
from polystage.polyhedral.expressions import linear_terms, to_aff
from polystage.polyhedral.model import Access, Bound, Statement, map_from_affs


def footprint(domain: isl.Set, access: isl.Map) -> isl.Set:
    """Return the elements that `access` touches while `domain` runs.

    A 3-tap filter over 4 outputs reads 6 inputs:

    >>> domain = isl.Set("{ S[i, k] : 0 <= i < 4 and 0 <= k < 3 }")
    >>> footprint(domain, isl.Map("{ S[i, k] -> A[i + k] }"))
    Set("{ A[i0] : 0 <= i0 <= 5 }")
    """
    return access.intersect_domain(domain).range().coalesce()


@dataclass(frozen=True)
class ClosedForm:
    """A quasi-affine function of a tile, readable and vectorised."""

    text: str
    """The formula: `h0` is the tile's first `h`, `th` its size along `h`."""
    function: Callable[..., Any] = field(repr=False, compare=False)
    arguments: tuple[int, ...] = field(repr=False)
    """The dims of the statement whose origin and size the function takes."""
    parameters: tuple[str, ...] = field(repr=False)
    """Their names in `text`, in the order that the function takes them: `h0`, `th`, ..."""

    def __call__(self, origin: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Evaluate for `origin` and `size`, whose last axis runs over the statement's dims."""
        values = [array[..., dim] for dim in self.arguments for array in (origin, size)]
        shape = np.broadcast_shapes(origin.shape[:-1], size.shape[:-1])
        return np.broadcast_to(np.asarray(self.function(*values), dtype=np.int64), shape)


@dataclass(frozen=True)
class TileFootprint:
    """The box of array elements that an access touches in a tile, for any tile.

    A tile is a box of the statement's domain: `origin[dim] <= dim < origin[dim] + size[dim]`,
    with sizes of at least 1 and the tile inside of the domain. Arrays may have any leading axes;
    the last one is the dims.
    """

    array: str
    lower: tuple[ClosedForm, ...]
    """The smallest index along each array dimension."""
    extent: tuple[ClosedForm, ...]
    """The number of indices from the smallest to the largest, both included."""
    steps: tuple[int, ...]
    """The distance of touched indices along each array dimension, 2 in a 1x1 kernel of stride 2."""

    def lowers(self, origin: Any, size: Any) -> np.ndarray:
        """Return the smallest index along each array dimension, as the last axis."""
        return self._evaluate(self.lower, origin, size)

    def extents(self, origin: Any, size: Any) -> np.ndarray:
        """Return the extent of the touched box along each array dimension, as the last axis."""
        return self._evaluate(self.extent, origin, size)

    def elements(self, origin: Any, size: Any) -> np.ndarray:
        """Return how many elements the tile touches, indices between the steps left out.

        This is exact where the array dimensions depend on different loops, else an upper bound.
        """
        extents = self.extents(origin, size)
        steps = np.asarray(self.steps, dtype=np.int64)
        return ((extents - 1) // steps + 1).prod(axis=-1)

    @staticmethod
    def _evaluate(forms: Sequence[ClosedForm], origin: Any, size: Any) -> np.ndarray:
        origin, size = np.asarray(origin), np.asarray(size)
        shape = np.broadcast_shapes(origin.shape[:-1], size.shape[:-1])
        if not forms:
            return np.zeros((*shape, 0), dtype=np.int64)
        return np.stack([form(origin, size) for form in forms], axis=-1)


def tile_footprint(statement: Statement, access: Access) -> TileFootprint:
    """Return the closed form of what `access` touches in a tile of `statement`.

    Of an access with bounds it is the box that the tile would touch without, cut off at the bounds
    of every index. This is exact where each index has its own loops, else an upper bound, as it is
    where pieces above it hide some; it is empty where the tile reads none of it.

    A 3x3 convolution of stride 2 reads `2*th + 1` rows for `th` rows of its output:

    >>> relation = isl.Map("{ S[h, kh] -> A[2h + kh] : 0 <= h < 8 and 0 <= kh < 3 }")
    >>> form = access_footprint(relation, ("h", "kh"))
    >>> form.extent[0].text
    '2*th + tkh - 2'
    >>> int(form.extents([0, 0], [4, 3])[0]), int(form.elements([0, 0], [4, 3]))
    (9, 9)
    """
    if not access.where or access.exprs is None:
        return access_footprint(access.map, statement.dims)
    return _clipped(access_footprint(_everywhere(statement, access), statement.dims), access)


def _everywhere(statement: Statement, access: Access) -> isl.Map:
    """Return the map of an access without its bounds."""
    dims = variables(statement.domain.get_space())
    affs = [to_aff(expr, dims) for expr in access.exprs or ()]
    relation = map_from_affs(statement.domain.get_space(), affs, access.array)
    return relation.intersect_domain(statement.domain)


def _clipped(form: TileFootprint, access: Access) -> TileFootprint:
    """Cut the box off at the bounds of the access."""
    lower: list[ClosedForm] = []
    extent: list[ClosedForm] = []
    for place, expr in enumerate(access.exprs or ()):
        low, size, step = form.lower[place], form.extent[place], form.steps[place]
        for bound in access.where:
            limits = limits_of(expr, bound)
            if limits is not None:
                low, size = _cut(low, size, step, limits)
        lower.append(low)
        extent.append(size)
    return replace(form, lower=tuple(lower), extent=tuple(extent))


def limits_of(expr: ir.AffineExpr, bound: Bound) -> tuple[int, int] | None:
    """Return the limits of `expr` that follow from those of `bound.expr`, a part of it by a
    factor, or None where it is no such."""
    terms, constant = linear_terms(expr)
    bounded, shift = linear_terms(bound.expr)
    if not terms or terms.keys() != bounded.keys():
        return None
    atom = next(iter(terms))
    factor, rest = divmod(terms[atom], bounded[atom])
    if rest or any(terms[a] != factor * bounded[a] for a in terms):
        return None
    low, high = (constant + factor * (end - shift) for end in (bound.low, bound.high))
    return (low, high) if factor > 0 else (high, low)


def _cut(
    lower: ClosedForm, extent: ClosedForm, step: int, limits: tuple[int, int]
) -> tuple[ClosedForm, ClosedForm]:
    """Return smallest index and extent of the touched indices between the limits."""
    low, high = limits
    first = f"maximum({lower.text}, {low})"
    last = f"minimum({lower.text} + {extent.text} - 1, {high})"
    if step != 1:
        first = f"({lower.text} + {step}*maximum(0, ({low} - ({lower.text}) + {step - 1})//{step}))"
        last = f"{first} + ({last} - {first})//{step}*{step}"
    size = f"maximum({last} - {first} + 1, 0)"
    names = lower.parameters
    return (
        replace(lower, text=first, function=_function(first, names)),
        replace(extent, text=size, function=_function(size, names)),
    )


def access_footprint(relation: isl.Map, dims: tuple[str, ...]) -> TileFootprint:
    """Return the closed form of what an access relation touches in a tile of its domain."""
    lower: list[ClosedForm] = []
    extent: list[ClosedForm] = []
    steps: list[int] = []
    for place in range(relation.dim(isl.dim_type.out)):
        index = _index_relation(relation, place)
        used = _used_dims(index)
        names = tuple(dims[dim] for dim in used)
        low, size = _bounds(index, used, names)
        parameters = tuple(name for pair in _parameters(names) for name in pair)
        lower.append(ClosedForm(*low, used, parameters))
        extent.append(ClosedForm(*size, used, parameters))
        steps.append(max(1, index.range().get_stride(0).to_python()))
    return TileFootprint(
        relation.get_tuple_name(isl.dim_type.out) or "", tuple(lower), tuple(extent), tuple(steps)
    )


def _index_relation(relation: isl.Map, place: int) -> isl.Map:
    """Return the map to one index only, unnamed."""
    rank = relation.dim(isl.dim_type.out)
    index = relation.project_out(isl.dim_type.out, place + 1, rank - place - 1)
    index = index.project_out(isl.dim_type.out, 0, place)
    for kind in (isl.dim_type.in_, isl.dim_type.out):
        index = index.reset_tuple_id(kind) if index.has_tuple_id(kind) else index
    return index


def _used_dims(index: isl.Map) -> tuple[int, ...]:
    """Return the dims on which the index depends, or all of them where the domain is not a box."""
    domain = index.domain()
    dims = range(index.dim(isl.dim_type.in_))
    free = index if domain.is_box() else None
    if free is None:
        return tuple(dims)
    free = index.gist_domain(domain)
    return tuple(dim for dim in dims if free.involves_dims(isl.dim_type.in_, dim, 1))


Compiled = tuple[str, Callable[..., Any]]


def _bounds(
    index: isl.Map, used: tuple[int, ...], names: tuple[str, ...]
) -> tuple[Compiled, Compiled]:
    """Return the smallest index and the extent over a tile of the `used` dims."""
    domain = index.domain()
    is_box = domain.is_box()
    free = index.gist_domain(domain) if is_box else index
    for dim in reversed(range(index.dim(isl.dim_type.in_))):
        if dim not in used:
            free = free.project_out(isl.dim_type.in_, dim, 1)
    for dim in range(len(used)):  # equal relations then have equal texts
        free = free.set_dim_name(isl.dim_type.in_, dim, f"dim_{dim}")
    limits = _limits(domain, used) if is_box else ()
    return _compiled_bounds(str(free), limits, names)


def _limits(domain: isl.Set, used: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(range_of(domain, dim) for dim in used)


@cache
def _compiled_bounds(
    text: str, limits: tuple[tuple[int, int], ...], names: tuple[str, ...]
) -> tuple[Compiled, Compiled]:
    """Derive the bounds of an index over a tile, once for all accesses that look the same."""
    index = isl.Map(text)
    count = index.dim(isl.dim_type.in_)
    pairs = _parameters(names)
    parameters = [name for pair in pairs for name in pair]
    header = f"[{', '.join(parameters)}] -> "
    tile = " and ".join(
        f"{origin} <= dim_{dim} < {origin} + {size}" for dim, (origin, size) in enumerate(pairs)
    )
    dims = ", ".join(f"dim_{dim}" for dim in range(count))
    valid = [f"{size} >= 1" for _, size in pairs]
    valid += [
        f"{origin} >= {low} and {origin} + {size} <= {high} + 1"
        for (origin, size), (low, high) in zip(pairs, limits, strict=False)
    ]
    context = isl.Set(f"{header}{{ : {' and '.join(valid) or 'true'} }}")
    box = isl.Set(f"{header}{{ [{dims}] : {tile or 'true'} }}")
    touched = index.intersect_domain(box).range().intersect_params(context)
    low = touched.dim_min(0).gist_params(context).coalesce()
    high = touched.dim_max(0).gist_params(context).coalesce()
    size = high.sub(low)
    size = size.add(_one(size)).gist_params(context).coalesce()
    return _compile(low, context, parameters), _compile(size, context, parameters)


def _parameters(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return what origin and size of a tile are called along each dim."""
    return [(f"{name}0", f"t{name}") for name in names]


def _one(like: isl.PwAff) -> isl.PwAff:
    space = like.get_domain_space()
    one = isl.Aff.zero_on_domain(isl.LocalSpace.from_space(space)).add_constant_val(isl.Val(1))
    return isl.PwAff.from_aff(one)


# -- from isl expressions to numpy -------------------------------------------------------------

_OP: Any = isl.ast_expr_op_type
_PYTHON: dict[Any, str] = {
    _OP.add: "{} + {}",
    _OP.sub: "{} - {}",
    _OP.mul: "{}*{}",
    _OP.div: "{}//{}",
    _OP.fdiv_q: "{}//{}",
    _OP.pdiv_q: "{}//{}",
    _OP.pdiv_r: "{} % {}",
    _OP.zdiv_r: "{} % {}",
    _OP.minus: "-{}",
    _OP.eq: "{} == {}",
    _OP.le: "{} <= {}",
    _OP.lt: "{} < {}",
    _OP.ge: "{} >= {}",
    _OP.gt: "{} > {}",
    _OP.and_: "{} & {}",
    _OP.and_then: "{} & {}",
    _OP.or_: "{} | {}",
    _OP.or_else: "{} | {}",
    _OP.cond: "where({}, {}, {})",
    _OP.select: "where({}, {}, {})",
}
_FUNCTIONS: dict[Any, str] = {_OP.min: "minimum", _OP.max: "maximum"}
_CALLS = frozenset({_OP.cond, _OP.select})
_SUMS = frozenset({_OP.add, _OP.sub})
_NAMES = {"where": np.where, "minimum": np.minimum, "maximum": np.maximum}


def _compile(value: isl.PwAff, context: isl.Set, parameters: list[str]) -> Compiled:
    """Return a piecewise quasi-affine expression as text and as a function of numpy arrays."""
    text = _python(isl.AstBuild.from_context(context).expr_from_pw_aff(value))
    return text, _function(text, parameters)


def _function(text: str, parameters: Sequence[str]) -> Callable[..., Any]:
    code = compile(f"lambda {', '.join(parameters)}: {text}", "<closed form>", "eval")
    return eval(code, dict(_NAMES))


def _python(expr: isl.AstExpr) -> str:
    kind = expr.get_type()
    if kind == isl.ast_expr_type.int:
        return str(expr.get_val().to_python())
    if kind == isl.ast_expr_type.id:
        return expr.get_id().get_name()
    op: Any = expr.get_op_type()
    operands = [expr.get_op_arg(place) for place in range(expr.get_op_n_arg())]
    if op in _FUNCTIONS:
        return f"{_FUNCTIONS[op]}({', '.join(map(_python, operands))})"
    if op in _CALLS:
        return _PYTHON[op].format(*map(_python, operands))
    texts = [_parenthesized(operand, op, place) for place, operand in enumerate(operands)]
    return _PYTHON[op].format(*texts)


def _parenthesized(expr: isl.AstExpr, outer: Any, place: int) -> str:
    text = _python(expr)
    if expr.get_type() != isl.ast_expr_type.op:
        return text
    op: Any = expr.get_op_type()
    if op in _FUNCTIONS or op in _CALLS:
        return text
    if outer in _SUMS and (op == _OP.mul or (op in _SUMS and (place == 0 or outer == _OP.add))):
        return text
    return f"({text})"
