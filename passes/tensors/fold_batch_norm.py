"""The pass fold-batch-norm."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from polystage.constants import constant_array, constant_attr
from polystage.dtypes import compute_dtype, numpy_dtype
from polystage.forms import walk
from polystage.mlir import arith, ir
from polystage.passes.registry import Pass, register_pass
from polystage.passes.tensors.generic import (
    affine_maps,
    build_generic,
    fill_value,
    inputs_of,
    is_contraction,
    is_elementwise,
    is_fill,
    outputs_of,
)


@dataclass(frozen=True)
class Affine:
    """`x * scale + shift`, both with the rank of `x` and extent 1 along which they are constant."""

    scale: np.ndarray
    shift: np.ndarray

    def then(self, later: "Affine") -> "Affine":
        """Return what this and `later` do, one after the other."""
        return Affine(self.scale * later.scale, self.shift * later.scale + later.shift)

    @property
    def elements(self) -> int:
        """Numbers that have to be stored."""
        return self.scale.size + self.shift.size


@dataclass(frozen=True)
class Step:
    """An operation that computes an affine function of its operand number `operand` with
    constants."""

    op: ir.Operation
    operand: int
    function: Affine

    @property
    def source(self) -> ir.Value:
        """What the operation reads now: another value once a chain before it is rewritten."""
        return self.op.operands[self.operand]


@register_pass
@dataclass
class FoldBatchNormPass(Pass):
    """Fold chains of constant scales and shifts into the weights before them.

    A batch norm arrives as `(x - mean) * r * gamma + beta` with constants per channel. The chain is
    one `x * s + b`; where x comes from a convolution or matmul with constant weights, s goes into
    the weights and only `+ b` is left. Without one, a chain becomes one operation.
    """

    name = "fold-batch-norm"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Rewrite every maximal chain."""
        with module.context:
            steps = {s.op: s for o in walk(module.operation) if (s := _step(o)) is not None}
            for chain in _chains(steps):
                self._rewrite(chain)

    def _rewrite(self, chain: list[Step]) -> None:
        first, last = chain[0], chain[-1].op
        function = first.function
        for step in chain[1:]:
            function = function.then(step.function)
        contraction = _weighted_contraction(first.source, function)
        if contraction is not None:
            source = self._scale_weights(contraction, function)
            function = Affine(np.ones([1] * function.scale.ndim), function.shift)
        elif len(chain) > 1 and function.elements <= sum(s.function.elements for s in chain):
            source = first.source
        else:
            return
        with ir.InsertionPoint(last), last.location:
            result = _apply(source, function, last.results[0].type)
        self.count("scales and shifts folded", len(chain))
        where = "into the weights" if contraction is not None else "into one operation"
        self.remark(last, f"folded {len(chain)} scales and shifts {where}")
        last.results[0].replace_all_uses_with(result)
        for step in reversed(chain):
            step.op.erase()

    def _scale_weights(self, contraction: tuple[ir.Operation, int], f: Affine) -> ir.Value:
        op, position = contraction
        weights = op.operands[position]
        maps = affine_maps(op)
        dims = [e.position for e in maps[-1].results]  # the loop dimension of each output dimension
        place = {e.position: i for i, e in enumerate(maps[position].results) if _is_dim(e)}
        varying = [k for k, extent in enumerate(f.scale.shape) if extent > 1]
        array = constant_array(weights.owner.attributes["value"])
        shape = [1] * array.ndim
        order = sorted(varying, key=lambda k: place[dims[k]])
        for k in order:
            shape[place[dims[k]]] = f.scale.shape[k]
        squeezed = f.scale.reshape([f.scale.shape[k] for k in varying])
        scale = squeezed.transpose([varying.index(k) for k in order]).reshape(shape)
        wide = compute_dtype(array.dtype)
        scaled = np.multiply(array, scale.astype(wide), dtype=wide).astype(array.dtype, copy=False)
        with ir.InsertionPoint(weights.owner.operation), weights.owner.location:
            op.operands[position] = _constant(scaled, weights.type.element_type, "scaled")
        self.count("weights scaled")
        return op.results[0]


def _chains(steps: dict[ir.Operation, Step]) -> list[list[Step]]:
    """Return the maximal chains of steps, each the only user of the one before."""
    follows: dict[ir.Operation, Step] = {}
    for step in steps.values():
        owner = step.source.owner
        if isinstance(owner, ir.Block) or not _has_one_use(step.source):
            continue
        if owner.operation in steps:
            follows[owner.operation] = step
    followers = {step.op for step in follows.values()}
    chains: list[list[Step]] = []
    for op, step in steps.items():
        if op in followers:
            continue
        chain = [step]
        while chain[-1].op in follows:
            chain.append(follows[chain[-1].op])
        chains.append(chain)
    return chains


def _step(op: ir.Operation) -> Step | None:
    """Read an elementwise operation whose body is one scale or shift by a constant."""
    if not is_elementwise(op) or len(op.results) != 1:
        return None
    block = op.regions[0].blocks[0]
    body = [o.operation for o in block]
    maps = affine_maps(op)
    if len(body) != 2 or not isinstance(op.results[0].type.element_type, ir.FloatType):
        return None
    scalar, result = body
    if scalar.name not in _READERS or result.operands[0].owner != scalar:
        return None
    operands = [_operand(op, block, value, maps) for value in scalar.operands]
    positions = [i for i, o in enumerate(operands) if isinstance(o, ir.Value)]
    tensors: list[Any] = [o for o in operands if isinstance(o, ir.Value)]
    constants = [o for o in operands if isinstance(o, np.ndarray)]
    if len(tensors) != 1 or len(constants) != len(operands) - 1:
        return None
    source = tensors[0]
    function = _READERS[scalar.name](positions[0], constants[0] if constants else np.ones(()))
    if function is None or source.type != op.results[0].type:
        return None
    rank = len(op.results[0].type.shape)
    ones = [1] * rank
    scale, shift = (np.asarray(a, np.float64) for a in function)
    return Step(
        op,
        ir.BlockArgument(scalar.operands[positions[0]]).arg_number,
        Affine(scale.reshape(scale.shape or ones), shift.reshape(shift.shape or ones)),
    )


def _operand(
    op: ir.Operation, block: ir.Block, value: ir.Value, maps: list[ir.AffineMap]
) -> ir.Value | np.ndarray | None:
    """Return a constant as an array over the loop dimensions, or the tensor read as it is."""
    if not isinstance(value.owner, ir.Block):
        return _scalar_constant(value)
    number = ir.BlockArgument(value).arg_number
    if value.owner != block or number >= len(inputs_of(op)):
        return None
    operand, map_ = op.operands[number], maps[number]
    owner = operand.owner
    if not isinstance(owner, ir.Block) and owner.name == "arith.constant":
        return _over_loops(owner.operation, map_)
    is_identity = map_ == ir.AffineMap.get_identity(map_.n_dims) == maps[-1]
    return operand if is_identity else None


def _scalar_constant(value: ir.Value) -> np.ndarray | None:
    if isinstance(value.owner, ir.Block) or value.owner.name != "arith.constant":
        return None
    return np.asarray(value.owner.attributes["value"].value, np.float64)


def _over_loops(constant: ir.Operation, map_: ir.AffineMap) -> np.ndarray | None:
    """Return the constant with one dimension per loop, extent 1 where it does not depend on it."""
    attribute = constant.attributes["value"]
    if not isinstance(constant.results[0].type, ir.RankedTensorType):
        return np.asarray(attribute.value, np.float64)
    array = constant_array(attribute)
    dims = [e.position for e in map_.results if _is_dim(e)]
    if len(set(dims)) != len(dims) or any(
        not _is_dim(e) and n != 1 for e, n in zip(map_.results, array.shape, strict=True)
    ):
        return None
    kept = [n for e, n in zip(map_.results, array.shape, strict=True) if _is_dim(e)]
    squeezed = array.reshape(kept)
    ordered = squeezed.transpose(sorted(range(len(dims)), key=lambda i: dims[i]))
    extents = dict(zip(sorted(dims), ordered.shape, strict=True))
    return ordered.reshape([extents.get(d, 1) for d in range(map_.n_dims)]).astype(np.float64)


def _read_mul(_: int, c: np.ndarray) -> tuple[np.ndarray, float]:
    return c, 0.0


def _read_add(_: int, c: np.ndarray) -> tuple[float, np.ndarray]:
    return 1.0, c


def _read_sub(position: int, c: np.ndarray) -> tuple[float, np.ndarray]:
    return (1.0, -c) if position == 0 else (-1.0, c)


def _read_div(position: int, c: np.ndarray) -> tuple[np.ndarray, float] | None:
    return (1.0 / c, 0.0) if position == 0 and np.all(c != 0) else None


_READERS = {
    "arith.mulf": _read_mul,
    "arith.addf": _read_add,
    "arith.subf": _read_sub,
    "arith.divf": _read_div,
    "arith.negf": lambda _, __: (-1.0, 0.0),
}


def _weighted_contraction(source: ir.Value, function: Affine) -> tuple[ir.Operation, int] | None:
    """Return the contraction that makes `source`, and the operand that can take the scale."""
    owner = source.owner
    if isinstance(owner, ir.Block) or not _has_one_use(source):
        return None
    op = owner.operation
    if not is_contraction(op) or np.all(function.scale == 1) or not _starts_from_zero(op):
        return None
    maps = affine_maps(op)
    if not all(_is_dim(e) for e in maps[-1].results):
        return None
    dims = [e.position for e in maps[-1].results]
    varying = {dims[k] for k, extent in enumerate(function.scale.shape) if extent > 1}
    for position, value in enumerate(inputs_of(op)):
        plain = {e.position for e in maps[position].results if _is_dim(e)}
        is_constant = not isinstance(value.owner, ir.Block) and value.owner.name == "arith.constant"
        if is_constant and varying <= plain and isinstance(value.type.element_type, ir.FloatType):
            return op, position
    return None


def _starts_from_zero(op: ir.Operation) -> bool:
    init = outputs_of(op)[0].owner
    if isinstance(init, ir.Block) or not is_fill(init.operation):
        return False
    constant = _scalar_constant(fill_value(init.operation))
    return constant is not None and constant == 0.0


def _apply(source: ir.Value, function: Affine, type_: ir.RankedTensorType) -> ir.Value:
    """Build `source * scale + shift`, without what does nothing."""
    scales, shifts = np.any(function.scale != 1), np.any(function.shift != 0)
    if not scales and not shifts:
        return source
    rank = len(type_.shape)
    identity = ir.AffineMap.get_identity(rank)
    constants = [a for a, used in ((function.scale, scales), (function.shift, shifts)) if used]
    values = [_stored(a, type_.element_type) for a in constants]

    def body(x: ir.Value, *scalars: ir.Value) -> ir.Value:
        x = arith.mulf(x, scalars[0]) if scales else x
        return arith.addf(x, scalars[1 if scales else 0]) if shifts else x

    return build_generic(
        type_, [source, *values], [identity, *map(_map_of, constants), identity], body
    )


def _stored(array: np.ndarray, element_type: ir.Type) -> ir.Value:
    """Build the constant that holds an array without its dimensions of extent 1."""
    squeezed = array.reshape([n for n in array.shape if n > 1])
    return _constant(squeezed.astype(numpy_dtype(element_type)), element_type, "shift")


def _map_of(array: np.ndarray) -> ir.AffineMap:
    dims = [ir.AffineExpr.get_dim(d) for d, n in enumerate(array.shape) if n > 1]
    return ir.AffineMap.get(array.ndim, 0, dims)


def _constant(array: np.ndarray, element_type: ir.Type, name: str) -> ir.Value:
    attribute = constant_attr(array, name, element_type)
    return arith.ConstantOp(attribute.type, attribute).result


def _is_dim(expression: ir.AffineExpr) -> bool:
    return isinstance(expression, ir.AffineDimExpr)


def _has_one_use(value: ir.Value) -> bool:
    return len(list(value.uses)) == 1
