"""The legality rules of npu operations that hold for every target: one rule is one function.

A rule takes an operation and returns None, or a message that says what was found and what is
allowed. Its docstring is the rule, as printed in the generated reference.
"""

from __future__ import annotations

from collections.abc import Callable

from polystage.dialects.npu.attributes import (
    AUXILIARY,
    CAUSES,
    ENGINES,
    SPACES,
    attribute_name,
)
from polystage.dialects.npu.views import (
    DYNAMIC,
    alloc_and_start,
    product,
    shape_of,
    space_of,
    strides_of,
)
from polystage.linear import linear_form
from polystage.mlir import ir

Rule = Callable[[ir.OpView], str | None]


def alloc_is_on_chip(op: ir.OpView) -> str | None:
    """A buffer is static, has a partition dimension and lies in sbuf or psum."""
    type_ = ir.MemRefType(op.results[0].type)
    space = space_of(type_)
    if space not in SPACES:
        return f"allocates in {space}, but only {' and '.join(SPACES)} are allocated by npu.alloc"
    if not type_.has_static_shape or type_.rank < 1:
        return "needs a static shape with the partition as dimension 0"
    if strides_of(type_) != _row_major(list(type_.shape)):
        return "needs the identity layout"
    return None


def _row_major(shape: list[int]) -> list[int]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return strides


def overlay_is_an_identity_view(op: ir.OpView) -> str | None:
    """An overlay and what it shows lie in DRAM; its result is static, without a layout."""
    result = ir.MemRefType(op.results[0].type)
    for value in (*op.operands, op.results[0]):
        space = space_of(value.type)
        if space != "dram":
            return f"touches {space}, but overlays are views of arrays in dram"
    if not result.has_static_shape:
        return f"makes {result}, but the shape of an overlay is static"
    if result.affine_map != ir.AffineMap.get_identity(result.rank, result.context):
        return f"makes {result}, but an overlay has no storage, hence no layout"
    return None


def overlay_types(op: ir.OpView) -> str | None:
    """Source, base and result have one rank and element type; the base has the result's shape,
    and there is a base or a fill, not both."""
    result = ir.MemRefType(op.results[0].type)
    for value, side in zip(op.operands, ("source", "base"), strict=False):
        type_ = ir.MemRefType(value.type)
        if type_.rank != result.rank or type_.element_type != result.element_type:
            return (
                f"has a {side} of {type_.element_type} {list(type_.shape)}, but rank and "
                f"element type must be those of the result, {result.element_type} "
                f"{list(result.shape)}"
            )
    if len(op.operands) == 2 and shape_of(op.operands[1]) != list(result.shape):
        return (
            f"has a base of shape {shape_of(op.operands[1])}, but the base lies under all of the "
            f"result, {list(result.shape)}"
        )
    if "fill" not in op.attributes:
        return None
    if len(op.operands) == 2:
        return "has a base and a fill, but the base leaves no element to fill"
    fill = op.attributes["fill"]
    if not isinstance(fill, ir.FloatAttr | ir.IntegerAttr) or fill.type != result.element_type:
        return f"has the fill {fill}, but its elements are {result.element_type}"
    return None


def overlay_window(op: ir.OpView) -> str | None:
    """The source lies inside of the result, from `offsets` on."""
    offsets = op.attributes["offsets"]
    source, result = shape_of(op.operands[0]), shape_of(op.results[0])
    if not isinstance(offsets, ir.DenseI64ArrayAttr) or len(offsets) != len(result):
        return f"has the offsets {offsets}, but needs array<i64: ..> with one per dimension"
    for dim, (offset, size, extent) in enumerate(zip(offsets, source, result, strict=True)):
        if offset < 0 or offset + size > extent:
            return (
                f"lays its source over [{offset}, {offset + size}) of dimension {dim}, "
                f"which leaves the result of extent {extent}"
            )
    return None


def overlay_is_read_by_linalg(op: ir.OpView) -> str | None:
    """The result is an input of `linalg.generic`, or the base of another overlay: it has no
    storage that anything else could read or write."""
    for use in op.results[0].uses:
        user, number = use.owner.operation, use.operand_number
        if user.name == "npu.overlay" and number == 1:
            continue
        if user.name != "linalg.generic":
            role = " as its source" * (user.name == "npu.overlay")
            return (
                f"is used by '{user.name}'{role}, but an overlay has no storage: only "
                f"'linalg.generic' may read it, or another overlay as its base"
            )
        if number >= ir.DenseI32ArrayAttr(user.attributes["operandSegmentSizes"])[0]:
            return "is an output of 'linalg.generic', but an overlay has no storage to write"
    return None


def dma_spaces(op: ir.OpView) -> str | None:
    """A transfer goes between DRAM and sbuf, or within one of them; it never touches psum."""
    for value, side in zip(op.operands, ("source", "destination"), strict=True):
        if space_of(value.type) == "psum":
            return f"has its {side} in psum, which only the engines can reach; copy through sbuf"
    return None


def dma_shapes(op: ir.OpView) -> str | None:
    """Source and destination have the same element type and shape; a source extent of 1 is
    repeated."""
    source, destination = (ir.MemRefType(v.type) for v in op.operands)
    if source.element_type != destination.element_type:
        return f"changes the element type from {source.element_type} to {destination.element_type}"
    a, b = list(source.shape), list(destination.shape)
    if len(a) != len(b) or any(x not in (1, y) for x, y in zip(a, b, strict=True)):
        return f"cannot copy shape {a} to shape {b}"
    return None


def dma_cause(op: ir.OpView) -> str | None:
    """`cause` says why the bytes move, for the report."""
    cause = ir.StringAttr(op.attributes["cause"]).value
    if cause not in CAUSES:
        return f"has cause '{cause}', allowed are {', '.join(CAUSES)}"
    return None


def engine_is_known(op: ir.OpView) -> str | None:
    """`engine` names an engine that executes this operation."""
    engine = attribute_name(op.attributes["engine"])
    allowed = ("vector", "gpsimd")
    if engine not in allowed:
        known = "executes other operations" if engine in ENGINES else "does not exist"
        return f"engine '{engine}' {known}, allowed are {', '.join(allowed)}"
    return None


def operands_in(spaces: dict[int, tuple[str, ...]]) -> Rule:
    """Build the rule that operand i lies in one of the memories spaces[i]; -1 stands for all
    further operands."""

    def rule(op: ir.OpView) -> str | None:
        for i, value in enumerate(op.operands):
            allowed = spaces.get(i, spaces.get(-1, ()))
            if not allowed or not isinstance(value.type, ir.MemRefType):
                continue
            space = space_of(value.type)
            if space not in allowed:
                return f"operand {i} lies in {space}, allowed is {' or '.join(allowed)}"
        return None

    listed = "; ".join(
        f"operand {'i' if i < 0 else i}: {' or '.join(names)}" for i, names in spaces.items()
    )
    rule.__doc__ = f"Operands lie in memories that the engine reaches ({listed})."
    return rule


def matmul_shapes(op: ir.OpView) -> str | None:
    """stationary [K, M] x moving [K, N..] gives psum [M, N..]; with sums in sbuf, [1, K, M] x
    [1, K, N..] gives [1, M, N..]."""
    shapes = [shape_of(op.operands[i]) for i in range(3)]
    where = space_of(op.operands[2].type)
    what = "partitions"
    if where == "sbuf":
        for i, shape in enumerate(shapes):
            if len(shape) < 3 or shape[0] != 1:
                return (
                    f"has sums in sbuf and operand {i} of shape {shape}, but then all operands "
                    f"have 3 dimensions or more, of which dimension 0 is the one partition"
                )
        shapes, what = [shape[1:] for shape in shapes], "rows"
    stationary, moving, sums = shapes
    k, m, n = stationary[0], product(stationary[1:]), moving[1:]
    if moving[0] != k:
        return f"contracts {k} {what} of stationary with {moving[0]} of moving"
    if sums[0] != m or product(sums[1:]) != product(n):
        return f"{where} has shape {sums}, but [{m}] x {n} is computed"
    return None


ACCUMULATORS = {"f32": "f32", "bf16": "f32", "f16": "f32", "f8E4M3": "f32", "i8": "i32"}
"""The type in which the array sums products of operands of a type."""


def matmul_types(op: ir.OpView) -> str | None:
    """Operands are both f32, bf16, f16 or f8E4M3 and accumulate in f32, or both i8 and accumulate
    in i32."""
    a, b, c = (str(ir.MemRefType(op.operands[i].type).element_type) for i in range(3))
    if a != b or ACCUMULATORS.get(a) != c:
        legal = ", ".join(f"{k} x {k} -> {v}" for k, v in ACCUMULATORS.items())
        return f"computes {a} x {b} -> {c}, allowed are {legal}"
    return None


def auxiliary_is_a_flag(op: ir.OpView) -> str | None:
    """`auxiliary` has no value."""
    found = op.attributes.get(AUXILIARY)
    if found is not None and not isinstance(found, ir.UnitAttr):
        return f"has 'auxiliary = {found}', but it has no value: it is there or not"
    return None


def transpose_shapes(op: ir.OpView) -> str | None:
    """in [A, B] becomes out [B, A] of the same element type."""
    a, b = (ir.MemRefType(v.type) for v in op.operands)
    if list(a.shape) != list(b.shape)[::-1] or a.rank != 2 or a.element_type != b.element_type:
        return f"turns {a.element_type} {list(a.shape)} into {b.element_type} {list(b.shape)}"
    return None


def same_shape(op: ir.OpView) -> str | None:
    """Input and output have the same shape."""
    a, b = shape_of(op.operands[0]), shape_of(op.operands[1])
    if a != b:
        return f"maps shape {a} to shape {b}"
    return None


ACTIVATE_OPERANDS = ("source", "destination", "shift", "factor", "total")


def activate_operands(op: ir.OpView | ir.Operation) -> dict[str, ir.Value]:
    """Return the operands of an `npu.activate` that are there, by name."""
    segments = ir.DenseI32ArrayAttr(op.attributes["operandSegmentSizes"])
    present = [name for name, n in zip(ACTIVATE_OPERANDS, segments, strict=True) if n]
    return dict(zip(present, op.operands, strict=True))


def activation_operands(op: ir.OpView) -> str | None:
    """Source, destination and total lie in sbuf or psum, shift and factor in sbuf."""
    for name, value in activate_operands(op).items():
        allowed = ("sbuf",) if name in ("shift", "factor") else ("sbuf", "psum")
        space = space_of(value.type)
        if space not in allowed:
            return f"has a {name} in {space}, allowed is {' or '.join(allowed)}"
    return None


def activation_columns(op: ir.OpView) -> str | None:
    """Shift, factor and total have the partitions of the source, and one element of type f32, bf16,
    f16 or f8E4M3 in each."""
    operands = activate_operands(op)
    expected = shape_of(operands["source"])[0]
    for name in ("shift", "factor", "total"):
        if name not in operands:
            continue
        element = str(ir.MemRefType(operands[name].type).element_type)
        if element not in ("f32", "bf16", "f16", "f8E4M3"):
            return f"has a {name} of {element}, allowed are f32, bf16, f16 and f8E4M3"
        partitions, *free = shape_of(operands[name])
        if partitions != expected or product(free) != 1:
            return (
                f"has a {name} of shape {[partitions, *free]}, "
                f"but needs one element in each of {expected} partitions"
            )
    return None


def scale_is_given_once(op: ir.OpView) -> str | None:
    """The scale is a number or the factor of every partition: with a factor, `scale` is 1."""
    scale = ir.FloatAttr(op.attributes["scale"]).value
    if "factor" in activate_operands(op) and scale != 1.0:
        return f"has a factor and the scale {scale:g}, but with a factor the scale is 1"
    return None


def iota_types(op: ir.OpView) -> str | None:
    """The output is i32 or i64 and `dimension` is one of its dimensions."""
    type_ = ir.MemRefType(op.operands[0].type)
    if str(type_.element_type) not in ("i32", "i64"):
        return f"writes {type_.element_type}, allowed are i32 and i64"
    dimension = ir.IntegerAttr(op.attributes["dimension"]).value
    if not 0 <= dimension < type_.rank:
        return f"counts along dimension {dimension} of a buffer of rank {type_.rank}"
    return None


def gather_shapes(op: ir.OpView) -> str | None:
    """out = table[i0, .., ik]: indices are integers of one shape, the rest of the table is
    copied."""
    table, out, *indices = (ir.MemRefType(v.type) for v in op.operands)
    if not indices or len(indices) > table.rank:
        return f"indexes a table of rank {table.rank} with {len(indices)} indices"
    lead = list(indices[0].shape)
    for index in indices:
        if str(index.element_type) not in ("i32", "i64") or list(index.shape) != lead:
            return f"indices must be i32 or i64 of shape {lead}"
    expected = lead + list(table.shape)[len(indices) :]
    if list(out.shape) != expected or out.element_type != table.element_type:
        return (
            f"writes {out.element_type} {list(out.shape)}, "
            f"but gathers {table.element_type} {expected}"
        )
    return None


ACTIVATIONS = (
    *("identity", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p"),
    *("sqrt", "rsqrt", "cbrt", "tanh", "erf", "erfc", "sin", "cos", "tan"),
    *("asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"),
    *("abs", "ceil", "floor", "round", "roundeven", "trunc", "relu"),
    *("gelu", "gelu_tanh", "sigmoid", "silu", "softplus", "square", "reciprocal"),
)


def activation_is_known(op: ir.OpView) -> str | None:
    """`function` is one that the scalar engine has a table for."""
    function = ir.StringAttr(op.attributes["function"]).value
    if function not in ACTIVATIONS:
        return f"function '{function}' is unknown, allowed are {', '.join(ACTIVATIONS)}"
    return None


def linear_maps(op: ir.OpView) -> str | None:
    """There is one linear indexing map per operand, over the dimensions of `sizes`, within the
    operand's bounds."""
    maps = [ir.AffineMapAttr(a).value for a in ir.ArrayAttr(op.attributes["indexing_maps"])]
    sizes = list(ir.DenseI64ArrayAttr(op.attributes["sizes"]))
    if len(maps) != len(op.operands):
        return f"has {len(maps)} indexing maps for {len(op.operands)} operands"
    for i, (map_, value) in enumerate(zip(maps, op.operands, strict=True)):
        shape = shape_of(value)
        if map_.n_dims != len(sizes) or len(map_.results) != len(shape):
            return (
                f"indexing map {i} is {map_}, "
                f"but there are {len(sizes)} sizes and rank {len(shape)}"
            )
        for d, (expression, extent) in enumerate(zip(map_.results, shape, strict=True)):
            bounds = expression_bounds(expression, sizes)
            if bounds is None:
                return f"indexing map {i} is {map_}; only sums of constant * dimension are allowed"
            if bounds[0] < 0 or bounds[1] >= extent:
                return (
                    f"indexing map {i} reaches [{bounds[0]}, {bounds[1]}] "
                    f"in dimension {d} of extent {extent}"
                )
    return None


def expression_bounds(expression: ir.AffineExpr, sizes: list[int]) -> tuple[int, int] | None:
    """Return the least and greatest value of a linear expression over a box, or None where it is
    not linear."""
    expression = expression.maybe_downcast()
    if isinstance(expression, ir.AffineDimExpr):
        last = sizes[expression.position] - 1
        return min(0, last), max(0, last)
    linear = linear_form(expression, len(sizes))
    if linear is None:
        return None
    constant, coefficients = linear
    low = constant + sum(min(0, c * (n - 1)) for c, n in zip(coefficients, sizes, strict=True))
    high = constant + sum(max(0, c * (n - 1)) for c, n in zip(coefficients, sizes, strict=True))
    return low, high


def partition_comes_first(op: ir.OpView) -> str | None:
    """Dimension 0 of an on-chip operand is its partition, without stride and at a constant
    start."""
    for i, value in enumerate(op.operands):
        type_ = value.type
        if not isinstance(type_, ir.MemRefType) or type_.memory_space is None:
            continue
        alloc, start = alloc_and_start(value)
        if alloc is None:
            return f"operand {i} is not a view of an npu.alloc in this kernel"
        if start is None:
            return f"operand {i} starts at a partition that is not constant"
        if type_.shape[0] == 1:
            continue
        row = product(shape_of(alloc.results[0])[1:])
        stride = strides_of(type_)[0]
        if stride not in (row, DYNAMIC):
            return (
                f"operand {i} has stride {stride} in dimension 0, "
                f"but its partitions are {row} elements apart"
            )
    return None
