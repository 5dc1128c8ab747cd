"""The instructions of the npu dialect: operands, cost, what they count, what they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal, cast

import numpy as np
from scipy import special

from polystage.dialects.npu import attribute_name
from polystage.dtypes import compute_dtype, is_float
from polystage.errors import SimulationError
from polystage.evaluator import iteration_box
from polystage.evaluator.scalar_body import ScalarBody
from polystage.evaluator.scalar_ops import constant_scalar
from polystage.machine import access as shapes
from polystage.machine import cost
from polystage.mlir import ir
from polystage.simulator.access import ChipAccess, DramAccess, View, Walk, plain_walk
from polystage.simulator.decode import HANDLERS, Decoder
from polystage.simulator.instructions import (
    Dma,
    Gather,
    Instruction,
    Matmul,
    TensorInstruction,
)
from polystage.simulator.memory import Array, ChipBuffer
from polystage.simulator.views import where

LaneName = Literal["vector", "scalar", "gpsimd"]

_COST_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "i8"}


def cost_dtype(dtype: np.dtype) -> str:
    """Return the name by which the machine knows an operand type: f32, bf16, f16, f8, i8."""
    name = dtype.name
    return "f8" if name.startswith("float8") else _COST_DTYPES.get(name, name)


# --- operands ---


def chip(decoder: Decoder, op: ir.Operation, view: View, walk: Walk | None = None) -> ChipAccess:
    """Return the access to an on-chip operand, whose bounds are checked.

    Raises: SimulationError where the operand lies in DRAM or leaves its partitions.
    """
    if not isinstance(view.root, ChipBuffer):
        raise SimulationError(f"'{op.name}' needs an operand on chip, not {where(view)}", op=op)
    access = ChipAccess(view, walk or plain_walk(view), decoder.ranges)
    row = max(1, view.root.row)
    reach = access.layout.high - (access.partitions - 1) * row

    def message(low: int, high: int) -> str:
        return (
            f"{op.name} in @{decoder.name} walks elements [{low}, {high}] of a partition of "
            f"{where(view)}, which has {row}"
        )

    start = view.offset + ((walk.offset if walk else 0) - access.partition * row)
    decoder.check(start + access.layout.low, reach - access.layout.low, row, message, op)
    return access


def operand(decoder: Decoder, op: ir.Operation, view: View) -> ChipAccess | DramAccess:
    """Return the access to all of a view, wherever it lies."""
    if isinstance(view.root, ChipBuffer):
        return chip(decoder, op, view)
    return DramAccess(view, plain_walk(view))


def _raw(view: View) -> View:
    """Return the same window as plain bits, which numpy copies fastest."""
    if view.dtype.kind in "iufb":
        return view
    dtype = np.dtype(f"u{view.dtype.itemsize}")
    return View(view.root, view.offset, view.shape, view.strides, dtype)


def free_run(view: View) -> int:
    """Return the elements that follow each other in one partition, or in DRAM."""
    first = 1 if isinstance(view.root, ChipBuffer) else 0
    return shapes.contiguous_run(view.shape[first:], view.strides[first:])


def innermost_bytes(accesses: Sequence[ChipAccess]) -> int:
    """Return the largest innermost stride of any operand."""
    return max(
        (
            shapes.innermost_stride(a.walk.extents[1:], a.walk.strides[1:]) * a.dtype.itemsize
            for a in accesses
        ),
        default=0,
    )


def count_bytes(decoder: Decoder, *accesses: ChipAccess) -> None:
    """Count the bytes that an instruction moves over the interfaces of the on-chip memories."""
    for access in accesses:
        moved = prod(access.numpy_shape) * access.dtype.itemsize
        decoder.count(access.buffer.memory.name, by=moved)


def _engine(op: ir.Operation) -> LaneName:
    return cast(LaneName, attribute_name(op.attributes["engine"]))


def lane_instruction(
    decoder: Decoder,
    op: ir.Operation,
    engine: LaneName,
    reads: Sequence[ChipAccess],
    writes: Sequence[ChipAccess],
    extents: Sequence[int],
    passes: Sequence[int],
    numerics: Callable[[list[Array], list[Array]], None],
    operands: Sequence[ChipAccess] | None = None,
) -> None:
    """Add an instruction of the vector, scalar or gpsimd engine."""
    accesses = [*(operands if operands is not None else reads), *writes]
    machine = decoder.program.machine
    time = cost.lanes(
        machine.target,
        engine,
        prod(extents[1:]),
        partitions=extents[0],
        passes=passes,
        stride_bytes=innermost_bytes(accesses),
        uses_psum=any(a.buffer.memory.name == "psum" for a in accesses),
    )
    decoder.count("instructions", op.name)
    decoder.count("operations", engine, by=prod(extents) * len(passes))
    count_bytes(decoder, *reads, *writes)
    decoder.out.append(
        Instruction(
            machine,
            machine.engines[engine],
            time,
            reads,
            writes,
            decoder.place(op),
            numerics if decoder.program.numerics else None,
        )
    )


# --- tensor engine ---


def _blas(array: Array, dtype: np.dtype) -> Array:
    """Return a matrix that BLAS takes as it is."""
    if array.dtype != dtype:
        return array.astype(dtype)
    if array.strides[1] != array.itemsize:
        return np.ascontiguousarray(array)
    return array


def _multiply(
    k: int, dtypes: tuple[np.dtype, np.dtype]
) -> Callable[[list[Array], Array, bool], None]:
    """Return the numerics of a matmul. Products of small integers are exact in f32, or else f64."""
    dtype, result = dtypes
    held = np.dtype(np.float32)
    if not is_float(dtype) and k > 1 << 10:
        held = np.dtype(np.float64)

    def multiply(operands: list[Array], psum: Array, accumulate: bool) -> None:
        stationary, moving = (_blas(x.reshape(x.shape[0], -1), held) for x in operands)
        product = np.matmul(stationary.T, moving).reshape(psum.shape)
        if result != held:
            product = product.astype(result)
        if accumulate:
            np.add(psum, product, out=psum)
        else:
            psum[...] = product

    return multiply


def _matmul(decoder: Decoder, op: ir.Operation) -> None:
    stationary, moving, psum = (chip(decoder, op, decoder.view(v)) for v in list(op.operands)[:3])
    machine = decoder.program.machine
    k, m = stationary.view.shape[0], prod(stationary.view.shape[1:])
    n = prod(moving.view.shape[1:])
    dtype = cost_dtype(moving.dtype)
    if not machine.target.tensor.supports(dtype):
        raise SimulationError(
            f"the tensor engine of '{machine.target.name}' does not multiply {dtype}", op=op
        )
    stride = innermost_bytes([moving])
    costs = tuple(
        cost.matmul(machine.target, k, m, n, dtype, changed, stride) for changed in (False, True)
    )
    flag = decoder.index(op.operands[3])
    decoder.count("instructions", op.name)
    decoder.count("macs", dtype, by=k * m * n)
    count_bytes(decoder, stationary, moving, psum)
    if flag.terms or flag.constant:
        count_bytes(decoder, psum)
    numerics = _multiply(k, (moving.dtype, psum.dtype)) if decoder.program.numerics else None
    decoder.out.append(
        Matmul(
            machine,
            (costs[0], costs[1]),
            [stationary, moving],
            psum,
            flag.evaluator(),
            decoder.place(op),
            numerics,
        )
    )


def _transpose(decoder: Decoder, op: ir.Operation) -> None:
    source, destination = (chip(decoder, op, decoder.view(v)) for v in op.operands)
    machine = decoder.program.machine
    rows, columns = source.view.shape
    time = cost.transpose(machine.target, rows, columns, cost_dtype(source.dtype))
    decoder.count("instructions", op.name)
    decoder.count("onchip_copy", by=rows * columns * source.dtype.itemsize)
    count_bytes(decoder, source, destination)

    def numerics(reads: list[Array], writes: list[Array]) -> None:
        writes[0][...] = reads[0].T

    decoder.out.append(
        TensorInstruction(
            machine,
            machine.engines["tensor"],
            time,
            [source],
            [destination],
            decoder.place(op),
            numerics if decoder.program.numerics else None,
        )
    )


# --- lane engines ---


def _memset(decoder: Decoder, op: ir.Operation) -> None:
    destination = chip(decoder, op, decoder.view(op.operands[0]))
    type_ = ir.MemRefType(op.operands[0].type).element_type
    value = constant_scalar(op.attributes["value"], type_)

    def numerics(_: list[Array], writes: list[Array]) -> None:
        writes[0][...] = value

    shape = destination.view.shape
    lane_instruction(decoder, op, _engine(op), [], [destination], shape, (0,), numerics)


def _box(
    decoder: Decoder, op: ir.Operation
) -> tuple[list[ChipAccess], list[ChipAccess], tuple[int, ...], ScalarBody]:
    """Return inputs, outputs, extents and body of an elementwise operation or reduction."""
    sizes = tuple(ir.DenseI64ArrayAttr(op.attributes["sizes"]))
    maps = [ir.AffineMapAttr(a).value for a in ir.ArrayAttr(op.attributes["indexing_maps"])]
    views = [decoder.view(v) for v in op.operands]
    name = ir.FlatSymbolRefAttr(op.attributes["function"]).value
    body = decoder.program.body(name, op)
    n_ins = len(views) - len(body.result_dtypes)
    if len(body.argument_dtypes) != len(views) or n_ins < 0:
        raise SimulationError(
            f"'{op.name}' has {len(views)} operands, but @{name} takes "
            f"{len(body.argument_dtypes)} values and returns {len(body.result_dtypes)}",
            help="a scalar function takes one value per operand and returns one per output",
            op=op,
        )
    accesses = [
        chip(decoder, op, view, _walk(op, view, map_, sizes))
        for view, map_ in zip(views, maps, strict=True)
    ]
    return accesses[:n_ins], accesses[n_ins:], sizes, body


def _walk(op: ir.Operation, view: View, map_: ir.AffineMap, sizes: tuple[int, ...]) -> Walk:
    linear = iteration_box.linear_access(map_)
    if linear is None:
        raise SimulationError(f"indexing map {map_} of '{op.name}' is not linear", op=op)
    strides = tuple(
        sum(row[d] * s for row, s in zip(linear.coefficients, view.strides, strict=True))
        for d in range(len(sizes))
    )
    offset = sum(c * s for c, s in zip(linear.constants, view.strides, strict=True))
    for row, constant, extent in zip(
        linear.coefficients, linear.constants, view.shape, strict=True
    ):
        reach = [c * (n - 1) for c, n in zip(row, sizes, strict=True)]
        low, high = (
            constant + sum(min(0, r) for r in reach),
            constant + sum(max(0, r) for r in reach),
        )
        if low < 0 or high >= extent:
            raise SimulationError(
                f"indexing map {map_} of '{op.name}' reaches [{low}, {high}] of extent {extent} "
                f"of {where(view)}",
                op=op,
            )
    return Walk(sizes, strides, offset)


def _elementwise(decoder: Decoder, op: ir.Operation) -> None:
    ins, outs, sizes, body = _box(decoder, op)
    for access in outs:
        if any(n > 1 and s == 0 for n, s in zip(sizes, access.walk.strides, strict=True)):
            raise SimulationError(
                "an output of 'npu.elementwise' does not depend on every dimension of the box",
                help="use npu.reduce to fold over a dimension",
                op=op,
            )
    used = body.used_arguments
    kept = [i for i in range(len(ins)) if used[i]]
    present = [i for i in range(len(outs)) if used[len(ins) + i]]
    count = len(used)

    def numerics(reads: list[Array], writes: list[Array]) -> None:
        arguments: list[Array | None] = [None] * count
        for position, i in enumerate(kept):
            arguments[i] = reads[position]
        for i in present:
            arguments[len(ins) + i] = writes[i]
        for out, result in zip(writes, body.run(arguments), strict=True):
            out[...] = result

    reads = [ins[i] for i in kept] + [outs[i] for i in present]
    lane_instruction(
        decoder, op, _engine(op), reads, outs, sizes, body.passes, numerics, operands=[*ins]
    )


def _reduce(decoder: Decoder, op: ir.Operation) -> None:
    ins, outs, sizes, body = _box(decoder, op)

    def numerics(reads: list[Array], writes: list[Array]) -> None:
        iteration_box.run(body, reads[: len(ins)], writes, sizes)

    lane_instruction(
        decoder, op, _engine(op), [*ins, *outs], outs, sizes, body.reduction_passes, numerics
    )


def _round_half_away(x: Array) -> Array:
    whole = np.trunc(x)
    return np.copysign(whole + np.copysign(np.abs(x - whole) >= 0.5, x), x)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda x: x,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: x.dtype.type(1) / np.sqrt(x),
    "cbrt": np.cbrt,
    "tanh": np.tanh,
    "erf": special.erf,
    "erfc": special.erfc,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "round": _round_half_away,
    "roundeven": np.rint,
    "trunc": np.trunc,
}


def _activate(decoder: Decoder, op: ir.Operation) -> None:
    source, destination = (chip(decoder, op, decoder.view(v)) for v in op.operands)
    name = ir.StringAttr(op.attributes["function"]).value
    scale, bias = (ir.FloatAttr(op.attributes[key]).value for key in ("scale", "bias"))
    numerics = _activation(name, scale, bias, source.dtype)
    shape = source.view.shape
    lane_instruction(decoder, op, "scalar", [source], [destination], shape, (1,), numerics)


def _activation(
    name: str, scale: float, bias: float, dtype: np.dtype
) -> Callable[[list[Array], list[Array]], None]:
    function = ACTIVATIONS[name]
    held = compute_dtype(dtype) if is_float(dtype) else np.dtype(np.float32)
    plain = scale == 1.0 and bias == 0.0
    factor, shift = held.type(scale), held.type(bias)

    def numerics(reads: list[Array], writes: list[Array]) -> None:
        if plain and name == "identity":
            writes[0][...] = reads[0]
            return
        value = reads[0].astype(held, copy=False)
        if not plain:
            value = value * factor
            value += shift
        writes[0][...] = function(value)

    return numerics


def _iota(decoder: Decoder, op: ir.Operation) -> None:
    destination = chip(decoder, op, decoder.view(op.operands[0]))
    dimension = ir.IntegerAttr(op.attributes["dimension"]).value
    offset = decoder.index(op.operands[1]).evaluator()
    shape = destination.view.shape
    ramp = np.arange(shape[dimension], dtype=np.int64)
    ramp = ramp.reshape([n if d == dimension else 1 for d, n in enumerate(shape)])
    start = [0]
    decoder.out.append(lambda frame: start.__setitem__(0, offset(frame.values)))

    def numerics(_: list[Array], writes: list[Array]) -> None:
        writes[0][...] = ramp + start[0]

    lane_instruction(decoder, op, "gpsimd", [], [destination], shape, (0,), numerics)


# --- DMA ---


def _dma(decoder: Decoder, op: ir.Operation) -> None:
    source, destination = (decoder.view(v) for v in op.operands)
    cause = ir.StringAttr(op.attributes["cause"]).value
    add_transfer(decoder, op, source, destination, cause)


def add_transfer(
    decoder: Decoder, op: ir.Operation, source: View, destination: View, cause: str
) -> None:
    """Add a DMA from one view to another."""
    pairs = zip(source.shape, destination.shape, strict=False)
    if len(source.shape) != len(destination.shape) or any(a not in (1, b) for a, b in pairs):
        raise SimulationError(
            f"'{op.name}' cannot copy shape {list(source.shape)} to {list(destination.shape)}",
            op=op,
        )
    machine, size = decoder.program.machine, destination.dtype.itemsize
    repeated = _repeated(source, destination.shape)
    total = prod(destination.shape) * size
    if total == 0:
        return
    in_dram = [not isinstance(v.root, ChipBuffer) for v in (source, destination)]
    time = cost.dma(
        machine.target,
        total,
        free_run(repeated) * size,
        free_run(destination) * size,
        dram_sides=sum(in_dram),
    )
    _count_transfer(decoder, op, source, destination, total, cause)
    accesses = [operand(decoder, op, _raw(v)) for v in (source, destination)]
    group = "store" if in_dram[1] else "copy"
    if in_dram[0] and not in_dram[1]:
        group = "weight" if cause == "weight" else "load"
    if all(in_dram):
        group = "copy"
    queue = machine.queue_of(group, decoder.transfers[group])
    decoder.transfers[group] += 1
    decoder.out.append(
        Dma(
            machine,
            queue,
            time,
            accesses[0],
            accesses[1],
            decoder.place(op),
            decoder.program.numerics,
        )
    )


def _repeated(source: View, shape: tuple[int, ...]) -> View:
    """Return the source as it is read: extents of 1 repeated with stride 0."""
    strides = tuple(
        0 if n == 1 and wanted > 1 else s
        for n, wanted, s in zip(source.shape, shape, source.strides, strict=True)
    )
    return View(source.root, source.offset, shape, strides, source.dtype)


def _count_transfer(
    decoder: Decoder,
    op: ir.Operation,
    source: View,
    destination: View,
    total: int,
    cause: str,
) -> None:
    decoder.count("instructions", op.name)
    sides = [not isinstance(v.root, ChipBuffer) for v in (source, destination)]
    for view, what, in_dram in zip((source, destination), ("read", "write"), sides, strict=True):
        if isinstance(view.root, ChipBuffer):
            decoder.count("sbuf", by=total)
        else:
            decoder.count(f"dram_{what}", cause, by=total)
            decoder.count(f"slot_{what}", str(view.root.slot), by=total)
        if in_dram and cause == "copy":
            decoder.count("offchip_copy", by=total)
    if not any(sides):
        decoder.count("onchip_copy", by=total)


def _gather(decoder: Decoder, op: ir.Operation) -> None:
    table, out, *rest = (decoder.view(v) for v in op.operands)
    machine = decoder.program.machine
    indices = [chip(decoder, op, v) for v in rest]
    destination = chip(decoder, op, out)
    if isinstance(table.root, ChipBuffer):
        raise SimulationError("the table of 'npu.gather' must lie in DRAM", op=op)
    count, size = prod(rest[0].shape), table.dtype.itemsize
    slice_shape, slice_strides = table.shape[len(rest) :], table.strides[len(rest) :]
    lead = len(rest[0].shape)
    run = min(
        shapes.contiguous_run(slice_shape, slice_strides),
        shapes.contiguous_run(out.shape[lead:], out.strides[lead:]),
    )
    slice_bytes = prod(slice_shape) * size
    times = cost.gather(machine.target, count, slice_bytes, run * size)
    total = count * slice_bytes
    decoder.count("instructions", op.name)
    decoder.count("operations", "gpsimd", by=count)
    decoder.count("sbuf", by=total)
    decoder.count("dram_read", "gather", str(table.root.slot), by=total)
    decoder.count("slot_read", str(table.root.slot), by=total)
    count_bytes(decoder, *indices)
    decoder.out.append(
        Gather(
            machine,
            machine.queue_of("load", decoder.transfers["load"]),
            (times.gpsimd, times.dma),
            DramAccess(table, plain_walk(table)),
            indices,
            destination,
            decoder.place(op),
            decoder.program.numerics,
        )
    )


HANDLERS.update(
    {
        "npu.matmul": _matmul,
        "npu.transpose": _transpose,
        "npu.memset": _memset,
        "npu.elementwise": _elementwise,
        "npu.reduce": _reduce,
        "npu.activate": _activate,
        "npu.iota": _iota,
        "npu.dma": _dma,
        "npu.gather": _gather,
    }
)
