"""npu.matmul and npu.transpose: operands, cost, numbers."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from polystage.dtypes import is_float
from polystage.errors import SimulationError
from polystage.machine import cost
from polystage.mlir import ir
from polystage.simulator.decode import Decoder, Handler
from polystage.simulator.instructions import (
    Matmul,
    TensorInstruction,
)
from polystage.simulator.memory import Array
from polystage.simulator.operands import (
    chip,
    cost_dtype,
    count_bytes,
    innermost_bytes,
)


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


HANDLERS: dict[str, Handler] = {
    "npu.matmul": _matmul,
    "npu.transpose": _transpose,
}
