"""Execution of a module by upstream's own lowering and JIT, independent of our passes."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polystage.constants import constant_array
from polystage.dialects import npu
from polystage.dialects.npu.overlay import materialize_overlays
from polystage.dtypes import numpy_dtype
from polystage.errors import PolystageError
from polystage.forms import walk
from polystage.mlir import ExecutionEngine, func, ir, linalg, passmanager

Inputs = Sequence[np.ndarray] | Mapping[str, np.ndarray]

_ELEMENTWISE = "convert-elementwise-to-linalg"
_TO_BUFFERS = (
    "one-shot-bufferize{copy-before-write bufferize-function-boundaries "
    "function-boundary-type-conversion=identity-layout-map}"
)
_FREE = ",buffer-deallocation-pipeline,convert-bufferization-to-memref"
_TO_LLVM = (
    "func.func(convert-linalg-to-loops),"
    "expand-strided-metadata,lower-affine,convert-scf-to-cf,"
    "func.func(math-expand-ops{ops=fpowi,roundeven,clampf},"
    "math-extend-to-supported-types,"
    "arith-emulate-unsupported-floats{source-types=bf16,f16,f8E4M3FN,f8E5M2 target-type=f32},"
    "arith-expand{include-bf16=true}),"
    "convert-math-to-llvm,convert-math-to-libm,convert-arith-to-llvm,finalize-memref-to-llvm,"
    "convert-func-to-llvm,convert-cf-to-llvm,reconcile-unrealized-casts"
)
_HOISTED_BYTES = 256

_free = ctypes.CDLL(None).free
_free.argtypes = [ctypes.c_void_p]


def jit_run(module: ir.Module | str, inputs: Inputs) -> list[np.ndarray]:
    """Return what `@main` computes, as upstream's lowering to LLVM executes it.

    The module may be in tensors or buffers form or hold affine loops; it is not changed. Overlays
    are copied before upstream sees them. `inputs` are in the order of the arguments, or by their
    `npu.name`. A function without results returns its memref arguments as they are afterwards.

    Raises: PolystageError where upstream cannot lower the module.
    """
    if isinstance(module, str):
        with ir.Context() as context:
            npu.load(context)
            return jit_run(ir.Module.parse(module), inputs)
    with module.context, ir.Location.unknown():
        clone = _clone(module)
        materialize_overlays(clone)
        arguments = [np.array(a, order="C") for a in ordered_inputs(main_function(clone), inputs)]
        weights = _hoist_constants(clone)
        function = main_function(clone)
        function.attributes["llvm.emit_c_interface"] = ir.UnitAttr.get()
        scans = any(op.name.startswith("tm_tensor.") for op in walk(clone.operation))
        before, after = ("tm-tensor-bufferize", "tm-tensor-to-loops") if scans else ("cse", "cse")
        free = "" if _returns_views(function) else _FREE
        prepare = f"func.func({_ELEMENTWISE},{before})"
        _run_pipeline(clone, f"builtin.module({prepare},{_TO_BUFFERS}{free})")
        _copies_to_linalg(clone)
        results = main_function(clone).type.results
        _run_pipeline(clone, f"builtin.module(func.func({after}),{_TO_LLVM})")
        engine = ExecutionEngine(clone, opt_level=2)
    outputs = _invoke(engine, [*arguments, *weights], results)
    return outputs if results else arguments


def main_function(module: ir.Module) -> func.FuncOp:
    """Return `@main`.

    Raises: PolystageError where there is none.
    """
    for op in module.body:
        if isinstance(op, func.FuncOp) and op.name.value == "main":
            return op
    raise PolystageError("the module has no function @main")


def ordered_inputs(function: func.FuncOp, inputs: Inputs) -> list[np.ndarray]:
    """Return the inputs in the order of the arguments, each in the shape and dtype that it takes.

    Raises: PolystageError where one is missing or has another shape or dtype.
    """
    types = function.type.inputs
    if isinstance(inputs, Mapping):
        names = [a["npu.name"].value for a in function.attributes["arg_attrs"]] if types else []
        missing = [name for name in names if name not in inputs]
        if missing:
            raise PolystageError(f"input '{missing[0]}' is missing")
        inputs = [inputs[name] for name in names]
    if len(inputs) != len(types):
        raise PolystageError(f"@main takes {len(types)} inputs, but {len(inputs)} were given")
    arrays: list[np.ndarray] = []
    for position, (given, type_) in enumerate(zip(inputs, types, strict=True)):
        array, dtype = np.asarray(given), numpy_dtype(type_)
        shape = tuple(type_.shape) if isinstance(type_, ir.ShapedType) else ()
        if array.shape != shape or array.dtype.itemsize != dtype.itemsize:
            raise PolystageError(
                f"input {position} is {array.dtype}{list(array.shape)}, but @main takes "
                f"{dtype}{list(shape)}"
            )
        arrays.append(array if array.dtype == dtype else array.view(dtype))
    return arrays


def _clone(module: ir.Module) -> ir.Module:
    clone = ir.Module.create()
    for op in module.body:
        clone.body.append(op.operation.clone())
    return clone


def _returns_views(function: func.FuncOp) -> bool:
    """Return whether a result is a strided memref, which upstream cannot copy before it frees."""
    memrefs = [t for t in function.type.results if isinstance(t, ir.MemRefType)]
    identity = [ir.AffineMap.get_identity(len(t.shape)) for t in memrefs]
    return any(t.affine_map != i for t, i in zip(memrefs, identity, strict=True))


def _hoist_constants(module: ir.Module) -> list[np.ndarray]:
    """Turn large constants into further arguments of `@main`; LLVM is slow with large data."""
    function = main_function(module)
    block = function.regions[0].blocks[0]
    symbols = {
        op.attributes["sym_name"].value: op
        for op in module.body
        if op.operation.name == "memref.global" and "initial_value" in op.attributes
    }
    arrays: list[np.ndarray] = []
    types = list(function.type.inputs)
    for op in list(walk(function)):
        value = _constant_of(op, symbols)
        if value is None or op.parent.name != "func.func":
            continue
        array = constant_array(value, module.context)
        if array.nbytes < _HOISTED_BYTES:
            continue
        arrays.append(np.ascontiguousarray(array))
        types.append(op.results[0].type)
        argument = block.add_argument(types[-1], ir.Location.unknown())
        op.results[0].replace_all_uses_with(argument)
        op.erase()
    results = function.type.results
    function.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get(types, results))
    for name in ("arg_attrs", "res_attrs"):
        if name in function.attributes:
            del function.attributes[name]
    return arrays


def _constant_of(op: ir.Operation, symbols: Mapping[str, Any]) -> ir.Attribute | None:
    if op.name == "arith.constant" and isinstance(op.results[0].type, ir.RankedTensorType):
        return op.attributes["value"]
    if op.name == "memref.get_global":
        source = symbols.get(ir.FlatSymbolRefAttr(op.attributes["name"]).value)
        return source.attributes["initial_value"] if source is not None else None
    return None


def _copies_to_linalg(module: ir.Module) -> None:
    """Copy by loops: LLVM's form of memref.copy calls a runtime library for strided memrefs."""
    for op in [o for o in walk(module.operation) if o.name == "memref.copy"]:
        with ir.InsertionPoint(op):
            linalg.copy(op.operands[0], outs=[op.operands[1]])
        op.erase()


def _run_pipeline(module: ir.Module, pipeline: str) -> None:
    try:
        passmanager.PassManager.parse(pipeline).run(module.operation)
    except ir.MLIRError as error:
        first = error.error_diagnostics[0].message if error.error_diagnostics else error.message
        raise PolystageError(
            f"the reference cannot execute this module: {first.splitlines()[0][:300]}"
        ) from None


def _invoke(
    engine: ExecutionEngine, arguments: Sequence[np.ndarray], result_types: Sequence[ir.Type]
) -> list[np.ndarray]:
    descriptors = [_descriptor(array) for array in arguments]
    sizes = [3 + 2 * len(ir.ShapedType(t).shape) for t in result_types]
    returned = (ctypes.c_int64 * max(1, sum(sizes)))()
    packed = [ctypes.pointer(ctypes.pointer(d)) for d in descriptors]
    if result_types:
        packed.insert(0, ctypes.pointer(ctypes.pointer(returned)))
    engine.invoke("main", *packed)
    outputs: list[np.ndarray] = []
    allocated: set[int] = set()
    position = 0
    for type_, size in zip(result_types, sizes, strict=True):
        fields = returned[position : position + size]
        outputs.append(_array(fields, numpy_dtype(type_)))
        allocated.add(fields[0])
        position += size
    for pointer in allocated - {array.ctypes.data for array in arguments}:
        _free(pointer)
    return outputs


def _descriptor(array: np.ndarray) -> Any:
    """Return the memref descriptor of an array: two pointers, the offset, sizes, strides."""
    strides = [s // array.itemsize for s in array.strides]
    fields = [array.ctypes.data, array.ctypes.data, 0, *array.shape, *strides]
    return (ctypes.c_int64 * len(fields))(*fields)


def _array(fields: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return a copy of what a memref descriptor describes."""
    rank = (len(fields) - 3) // 2
    shape, strides = fields[3 : 3 + rank], fields[3 + rank :]
    if 0 in shape:
        return np.zeros(shape, dtype)
    last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
    address = fields[1] + fields[2] * dtype.itemsize
    memory = (ctypes.c_uint8 * (last * dtype.itemsize)).from_address(address)
    flat = np.ctypeslib.as_array(memory).view(dtype)
    bytes_ = [s * dtype.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(flat, shape, bytes_).copy()
