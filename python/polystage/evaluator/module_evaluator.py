"""What a module in `tensors` or `buffers` form computes, on numpy arrays.

Used for constant folding and to check that a pass kept the meaning. Memrefs are arrays and views of
arrays, so aliasing is real. Memory that nothing wrote holds NaN or the least integer, so that
reading it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from polystage.constants import constant_array
from polystage.dtypes import is_float, numpy_dtype
from polystage.errors import PolystageError
from polystage.evaluator import iteration_box
from polystage.evaluator.overlay import Overlay, elements_of
from polystage.evaluator.scalar_body import Hooks, ScalarBody, affine_function, compile_body
from polystage.evaluator.scalar_ops import constant_scalar, is_scalar_op, scalar_function
from polystage.interface import value_names
from polystage.mlir import ir, linalg
from polystage.slices import kept_dims, segments, slice_parameters, static_or_dynamic
from polystage.threads import one_blas_thread

Array = np.ndarray
Environment = dict[ir.Value, Any]


def evaluate(
    module: ir.Module,
    inputs: Mapping[str, Array] | Sequence[Array] = (),
    *,
    function: str = "main",
) -> dict[str, Array]:
    """Return the results of `function` (or of the only public one) by name.

    Names are the attribute `npu.name` of arguments and results, `arg0`, .. and `result0`, ..
    without it. A memref argument is copied, so that the caller's arrays stay as they are; what the
    function wrote to it is returned under its name too if the function has no results.

    Raises: PolystageError for a missing or misshapen input, and for operations without a meaning
    here.
    """
    evaluator = Evaluator(module)
    function_op = evaluator.entry(function)
    names = value_names(
        function_op, "arg_attrs", "arg", len(function_op.regions[0].blocks[0].arguments)
    )
    arguments = _arguments(function_op, names, inputs)
    with np.errstate(all="ignore"), one_blas_thread():
        results = evaluator.call(function_op, arguments)
    if not results:
        return dict(zip(names, arguments, strict=True))
    return dict(
        zip(value_names(function_op, "res_attrs", "result", len(results)), results, strict=True)
    )


def evaluate_generic(
    op: ir.OpView | ir.Operation,
    arrays: Sequence[Array | None],
    *,
    body: ScalarBody | None = None,
    lookup: Callable[[ir.Value], Any] | None = None,
) -> list[Array]:
    """Return what a `linalg.generic` (or named linalg op) makes of its operands, as new arrays.

    `arrays` holds one array per operand; that of an output whose initial value the body does not
    read may be None. `lookup` returns what a value defined outside the body is.
    """
    operation = op.operation
    n_ins = _input_count(operation, len(arrays))
    outs = [
        _fresh(value.type) if array is None else np.array(array)
        for value, array in zip(list(operation.operands)[n_ins:], arrays[n_ins:], strict=True)
    ]
    run_generic(operation, arrays[:n_ins], outs, body=body, lookup=lookup)
    return outs


def run_generic(
    op: ir.Operation,
    ins: Sequence[Any],
    outs: Sequence[Array],
    *,
    body: ScalarBody | None = None,
    lookup: Callable[[ir.Value], Any] | None = None,
) -> None:
    """Execute a `linalg.generic` and write into the arrays `outs`."""
    maps = indexing_maps(op)
    arrays = [np.asarray(a) for a in (*ins, *outs)]
    extents = loop_extents(maps, [a.shape for a in arrays])
    if 0 in extents:
        return
    views = [
        _view(m, a, extents, i >= len(ins))
        for i, (m, a) in enumerate(zip(maps, arrays, strict=True))
    ]
    hooks = Hooks(
        index=iteration_box.index_hook(extents),
        load=lambda memref, indices: np.asarray(lookup(memref))[tuple(indices)] if lookup else None,
        outside=lookup,
    )
    body = body or compile_body(op.regions[0].blocks[0])
    iteration_box.run(body, views[: len(ins)], views[len(ins) :], extents, hooks)


def indexing_maps(op: ir.Operation) -> list[ir.AffineMap]:
    """Return the indexing maps of a linalg op, named ones included."""
    if "indexing_maps" in op.attributes:
        maps: Any = ir.ArrayAttr(op.attributes["indexing_maps"])
    else:
        maps = linalg.get_indexing_maps(op)
    if maps is None:
        raise PolystageError(f"'{op.name}' has no indexing maps", op=op)
    return [ir.AffineMapAttr(a).value for a in maps]


def loop_extents(maps: Sequence[ir.AffineMap], shapes: Sequence[Sequence[int]]) -> list[int]:
    """Return the extent of every loop dimension: that of an operand dimension it indexes alone."""
    extents: dict[int, int] = {}
    for map_, shape in zip(maps, shapes, strict=True):
        for expression, extent in zip(map_.results, shape, strict=True):
            if isinstance(expression, ir.AffineDimExpr):
                extents.setdefault(expression.position, extent)
    missing = [d for d in range(maps[0].n_dims) if d not in extents]
    if missing:
        raise PolystageError(f"no operand gives the extent of loop dimensions {missing}")
    return [extents[d] for d in range(maps[0].n_dims)]


def _view(map_: ir.AffineMap, array: Array, extents: Sequence[int], writes: bool) -> Array:
    access = iteration_box.linear_access(map_)
    if access is not None:
        return iteration_box.loop_view(array, access, extents)
    if writes:
        raise PolystageError(f"an output cannot be indexed by {map_}")
    index = iteration_box.index_hook(extents)
    grid = [index(d) for d in range(len(extents))]
    rows = [affine_function(map_, r)(*grid) for r in range(len(map_.results))]
    return np.asarray(array[tuple(rows)]).reshape(
        np.broadcast_shapes([1] * len(extents), *(np.shape(r) for r in rows))
    )


def _input_count(op: ir.Operation, operands: int) -> int:
    if "operandSegmentSizes" in op.attributes:
        return next(iter(ir.DenseI32ArrayAttr(op.attributes["operandSegmentSizes"])))
    return operands - 1


def _fresh(type_: ir.Type) -> Array:
    """Return memory that nothing wrote."""
    dtype = numpy_dtype(type_)
    poison: Any = np.nan if is_float(dtype) else dtype.type(1) if dtype == np.bool_ else None
    if poison is None:
        poison = np.iinfo(dtype).min if dtype.kind in "iu" else 0
    return np.full(list(ir.ShapedType(type_).shape), poison, dtype)


def _arguments(
    function: ir.Operation, names: list[str], inputs: Mapping[str, Array] | Sequence[Array]
) -> list[Array]:
    if not isinstance(inputs, Mapping):
        inputs = dict(zip(names, inputs, strict=False))
    arguments = []
    for name, argument in zip(names, function.regions[0].blocks[0].arguments, strict=True):
        if name not in inputs:
            raise PolystageError(
                f"input '{name}' is missing", help=f"inputs are {', '.join(names)}"
            )
        array = np.asarray(inputs[name])
        if isinstance(argument.type, ir.ShapedType):
            shape = list(ir.ShapedType(argument.type).shape)
            if list(array.shape) != shape:
                raise PolystageError(f"input '{name}' has shape {list(array.shape)}, not {shape}")
        arguments.append(np.array(array, numpy_dtype(argument.type)))
    return arguments


class Evaluator:
    """Executes the functions of one module; scalar bodies are compiled once."""

    def __init__(self, module: ir.Module) -> None:
        self.symbols = {
            ir.StringAttr(op.attributes["sym_name"]).value: op.operation
            for op in module.body.operations
            if "sym_name" in op.attributes
        }
        self.bodies: dict[ir.Operation, ScalarBody] = {}
        self.globals: dict[str, Array] = {}

    def entry(self, name: str) -> ir.Operation:
        """Return the function `name`, or the only public one with a body."""
        if name in self.symbols:
            return self.symbols[name]
        public = [
            op
            for op in self.symbols.values()
            if op.name == "func.func" and "sym_visibility" not in op.attributes
        ]
        if len(public) != 1:
            raise PolystageError(f"the module has no function '{name}'")
        return public[0]

    def call(self, function: ir.Operation, arguments: Sequence[Any]) -> list[Any]:
        """Execute a function and return its results."""
        block = function.regions[0].blocks[0]
        environment: Environment = dict(zip(block.arguments, arguments, strict=True))
        return self.block(block, environment)

    def block(self, block: ir.Block, environment: Environment) -> list[Any]:
        """Execute a block and return the operands of its terminator."""
        for op in block.operations:
            operation = op.operation
            if operation.name in _TERMINATORS:
                return [environment[v] for v in operation.operands]
            self.execute(operation, environment)
        return []

    def execute(self, op: ir.Operation, environment: Environment) -> None:
        """Execute one operation and add its results to the environment."""
        handler = _HANDLERS.get(op.name)
        if handler is not None:
            results = handler(self, op, environment)
        elif op.name.startswith("linalg."):
            results = self.linalg(op, environment)
        elif is_scalar_op(op.name):
            results = self.scalar(op, environment)
        else:
            raise PolystageError(f"cannot evaluate operation '{op.name}' with numpy", op=op)
        for value, result in zip(op.results, results or (), strict=True):
            environment[value] = result

    def linalg(self, op: ir.Operation, environment: Environment) -> list[Any]:
        """Execute a linalg operation on memrefs in place, on tensors on copies."""
        values = [elements_of(environment[v]) for v in op.operands]
        n_ins = _input_count(op, len(values))
        outs = [np.array(v) for v in values[n_ins:]] if len(op.results) else values[n_ins:]
        if op not in self.bodies:
            self.bodies[op] = compile_body(op.regions[0].blocks[0])
        run_generic(op, values[:n_ins], outs, body=self.bodies[op], lookup=environment.__getitem__)
        return outs if len(op.results) else []

    def scalar(self, op: ir.Operation, environment: Environment) -> Any:
        """Execute an arith or math operation."""
        result = scalar_function(op)(*(np.asarray(environment[v])[()] for v in op.operands))
        return result if isinstance(result, tuple) else (result,)

    def global_array(self, name: str) -> Array:
        """Return the value of a `memref.global`."""
        if name not in self.globals:
            op = self.symbols[name]
            if "initial_value" not in op.attributes or op.attributes[
                "initial_value"
            ] == ir.UnitAttr.get(op.context):
                type_ = ir.MemRefType(ir.TypeAttr(op.attributes["type"]).value)
                self.globals[name] = _fresh(type_)
            else:
                self.globals[name] = constant_array(op.attributes["initial_value"], op.context)
        return self.globals[name]


_TERMINATORS = (
    "func.return",
    "scf.yield",
    "affine.yield",
    "linalg.yield",
    "tensor.yield",
)


# --- values ---


def _constant(_: Evaluator, op: ir.Operation, __: Environment) -> list[Any]:
    attribute, type_ = op.attributes["value"], op.results[0].type
    if isinstance(type_, ir.ShapedType):
        return [constant_array(attribute, op.context)]
    return [constant_scalar(attribute, type_)]


def _apply(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    map_ = ir.AffineMapAttr(op.attributes["map"]).value
    return [affine_function(map_)(*(environment[v] for v in op.operands))]


def _call(evaluator: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    callee = evaluator.symbols[ir.FlatSymbolRefAttr(op.attributes["callee"]).value]
    return evaluator.call(callee, [environment[v] for v in op.operands])


def _dim(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    array, dimension = (environment[v] for v in op.operands)
    return [np.int64(array.shape[int(dimension)])]


# --- memory ---


def _alloc(_: Evaluator, op: ir.Operation, __: Environment) -> list[Any]:
    return [_fresh(op.results[0].type)]


def _nothing(*_: Any) -> list[Any]:
    return []


def _same(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    return [environment[op.operands[0]]]


def _get_global(evaluator: Evaluator, op: ir.Operation, _: Environment) -> list[Any]:
    return [evaluator.global_array(ir.FlatSymbolRefAttr(op.attributes["name"]).value)]


def _copy(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    source, destination = (environment[v] for v in op.operands)
    destination[...] = source
    return []


def _load(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    array, *indices = (environment[v] for v in op.operands)
    return [array[_subscripts(op, indices)]]


def _store(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    value, array, *indices = (environment[v] for v in op.operands)
    array[_subscripts(op, indices)] = value
    return []


def _subscripts(op: ir.Operation, indices: Sequence[Any]) -> tuple[int, ...]:
    if "map" not in op.attributes:
        return tuple(int(i) for i in indices)
    map_ = ir.AffineMapAttr(op.attributes["map"]).value
    return tuple(int(affine_function(map_, r)(*indices)) for r in range(len(map_.results)))


def _slice(
    array: Array, offsets: Sequence[Any], sizes: Sequence[Any], strides: Sequence[Any]
) -> Array:
    for offset, size, stride, extent in zip(offsets, sizes, strides, array.shape, strict=True):
        last = int(offset) + (int(size) - 1) * int(stride)
        if int(size) and not (0 <= int(offset) < extent and 0 <= last < extent):
            raise PolystageError(f"slice [{int(offset)}, {last}] leaves a dimension of {extent}")
    return array[
        tuple(
            slice(int(o), int(o) + (int(n) - 1) * int(s) + 1, int(s)) if int(n) else slice(0, 0)
            for o, n, s in zip(offsets, sizes, strides, strict=True)
        )
    ]


def _subview(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    values = [environment[v] for v in op.operands]
    offsets, sizes, strides = slice_parameters(op, values)
    view = _slice(values[0], offsets, sizes, strides)
    kept = kept_dims([int(s) for s in sizes], list(ir.ShapedType(op.results[0].type).shape))
    return [view[tuple(slice(None) if d in kept else 0 for d in range(view.ndim))]]


def _reshape(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    array = environment[op.operands[0]]
    shape = list(ir.ShapedType(op.results[0].type).shape)
    view = array.reshape(shape)
    if op.name.startswith("memref.") and view.size and not np.shares_memory(view, array):
        raise PolystageError(f"'{op.name}' would have to copy", op=op)
    return [view]


def _reinterpret(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    values = [environment[v] for v in op.operands]
    offsets, sizes, strides = slice_parameters(op, values)
    root = values[0]
    while isinstance(root.base, np.ndarray):
        root = root.base
    flat = root.reshape(-1)[int(offsets[0]) :]
    last = sum((int(n) - 1) * int(s) for n, s in zip(sizes, strides, strict=True))
    if last >= flat.size:
        raise PolystageError(f"'{op.name}' leaves its buffer", op=op)
    bytes_ = [int(s) * flat.itemsize for s in strides]
    return [as_strided(flat, [int(n) for n in sizes], bytes_)]


def _permutation(op: ir.Operation) -> list[int]:
    map_ = ir.AffineMapAttr(op.attributes["permutation"]).value
    return [ir.AffineDimExpr(e).position for e in map_.results]


def _transpose(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    return [environment[op.operands[0]].transpose(_permutation(op))]


def _overlay(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    source, *under = (environment[v] for v in op.operands)
    type_ = ir.MemRefType(op.results[0].type)
    base = under[0] if under else _fresh(type_)
    if "fill" in op.attributes:
        base[...] = constant_scalar(op.attributes["fill"], type_.element_type)
    return [Overlay(source, tuple(ir.DenseI64ArrayAttr(op.attributes["offsets"])), base)]


# --- tensors ---


def _extract_slice(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    return _subview(_, op, environment)


def _insert_slice(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    values = [environment[v] for v in op.operands]
    offsets, sizes, strides = slice_parameters(op, values, first_group=2)
    result = np.array(values[1])
    target = _slice(result, offsets, sizes, strides)
    target[...] = np.asarray(values[0]).reshape(target.shape)
    return [result]


def _pad(evaluator: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    values = [environment[v] for v in op.operands]
    _, low, high = segments(op, values)
    lows = static_or_dynamic(op, "static_low", low)
    highs = static_or_dynamic(op, "static_high", high)
    block = op.regions[0].blocks[0]
    fill = evaluator.block(block, environment | dict.fromkeys(block.arguments, np.int64(0)))[0]
    widths = [(int(a), int(b)) for a, b in zip(lows, highs, strict=True)]
    shape = [n + a + b for n, (a, b) in zip(values[0].shape, widths, strict=True)]
    result = np.full(shape, fill, values[0].dtype)
    inner = tuple(slice(a, a + n) for n, (a, _b) in zip(values[0].shape, widths, strict=True))
    result[inner] = values[0]
    return [result]


def _concat(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    axis = ir.IntegerAttr(op.attributes["dim"]).value
    return [np.concatenate([environment[v] for v in op.operands], axis)]


def _from_elements(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    type_ = ir.ShapedType(op.results[0].type)
    elements = [environment[v] for v in op.operands]
    return [np.array(elements, numpy_dtype(type_)).reshape(list(type_.shape))]


def _splat(_: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    type_ = ir.ShapedType(op.results[0].type)
    return [np.full(list(type_.shape), environment[op.operands[0]], numpy_dtype(type_))]


# --- control flow ---


def _loop(
    evaluator: Evaluator,
    op: ir.Operation,
    environment: Environment,
    values: range,
    first: Sequence[Any],
) -> list[Any]:
    block = op.regions[0].blocks[0]
    carried = list(first)
    for i in values:
        environment.update(zip(block.arguments, [np.int64(i), *carried], strict=True))
        carried = evaluator.block(block, environment)
    return carried


def _scf_for(evaluator: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    low, high, step, *carried = (environment[v] for v in op.operands)
    return _loop(evaluator, op, environment, range(int(low), int(high), int(step)), carried)


def _affine_for(evaluator: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    lows, highs, carried = segments(op, [environment[v] for v in op.operands])
    low = _bound(op, "lowerBoundMap", lows, max)
    high = _bound(op, "upperBoundMap", highs, min)
    step = ir.IntegerAttr(op.attributes["step"]).value
    return _loop(evaluator, op, environment, range(low, high, step), carried)


def _bound(op: ir.Operation, name: str, values: list[Any], choose: Callable[..., int]) -> int:
    map_ = ir.AffineMapAttr(op.attributes[name]).value
    return choose(int(affine_function(map_, r)(*values)) for r in range(len(map_.results)))


def _scf_if(evaluator: Evaluator, op: ir.Operation, environment: Environment) -> list[Any]:
    region = op.regions[0 if environment[op.operands[0]] else 1]
    return evaluator.block(region.blocks[0], environment) if len(region.blocks) else []


Handler = Callable[[Evaluator, ir.Operation, Environment], Any]
_HANDLERS: dict[str, Handler] = {
    "arith.constant": _constant,
    "affine.apply": _apply,
    "func.call": _call,
    "cf.assert": _nothing,
    "memref.alloc": _alloc,
    "memref.alloca": _alloc,
    "memref.dealloc": _nothing,
    "memref.get_global": _get_global,
    "memref.copy": _copy,
    "memref.load": _load,
    "memref.store": _store,
    "affine.load": _load,
    "affine.store": _store,
    "memref.dim": _dim,
    "tensor.dim": _dim,
    "memref.subview": _subview,
    "memref.expand_shape": _reshape,
    "memref.collapse_shape": _reshape,
    "memref.reinterpret_cast": _reinterpret,
    "memref.transpose": _transpose,
    "memref.cast": _same,
    "npu.overlay": _overlay,
    "tensor.cast": _same,
    "tensor.empty": _alloc,
    "tensor.extract": _load,
    "tensor.extract_slice": _extract_slice,
    "tensor.insert_slice": _insert_slice,
    "tensor.expand_shape": _reshape,
    "tensor.collapse_shape": _reshape,
    "tensor.pad": _pad,
    "tensor.concat": _concat,
    "tensor.from_elements": _from_elements,
    "tensor.splat": _splat,
    "scf.for": _scf_for,
    "affine.for": _affine_for,
    "scf.if": _scf_if,
}
