"""npu.matmul and npu.transpose: operands, cost, numbers."""

from __future__ import annotations

from math import prod

import numpy as np

from polystage.dtypes import is_float
from polystage.errors import SimulationError
from polystage.machine import cost
from polystage.mlir import ir
from polystage.simulator.decode import Decoder, Handler
from polystage.simulator.index import Linear
from polystage.simulator.instructions import Numerics, Times
from polystage.simulator.memory import Array
from polystage.simulator.operands import (
    add_compute,
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


class _Multiply(Numerics):
    """Products of small integers are exact in f32, or else f64.

    The array adds to what psum holds when the products arrive there, not when they start.
    """

    def __init__(self, k: int, dtype: np.dtype, result: np.dtype) -> None:
        self.held = np.dtype(np.float32)
        if not is_float(dtype) and k > 1 << 10:
            self.held = np.dtype(np.float64)
        self.result = result

    def run(self, reads: list[Array], writes: list[Array], value: int) -> None:
        """Multiply, and add or write."""
        self.finish(self.begin(reads, writes, value), writes, value)

    def begin(self, reads: list[Array], writes: list[Array], value: int) -> list[Array]:
        """Return the product."""
        stationary, moving = (_blas(x.reshape(x.shape[0], -1), self.held) for x in reads)
        product = np.matmul(stationary.T, moving).reshape(writes[0].shape)
        return [product if self.result == self.held else product.astype(self.result)]

    def finish(self, results: list[Array], writes: list[Array], value: int) -> None:
        """Add the product to psum, or write it there."""
        if value:
            np.add(writes[0], results[0], out=writes[0])
        else:
            writes[0][...] = results[0]


class _Transpose(Numerics):
    def run(self, reads: list[Array], writes: list[Array], value: int) -> None:
        """Write the transpose."""
        writes[0][...] = reads[0].T


def _matmul(decoder: Decoder, op: ir.Operation) -> None:
    stationary, moving, psum = (chip(decoder, op, decoder.view(v)) for v in list(op.operands)[:3])
    target = decoder.program.target
    k, m = stationary.view_shape[0], prod(stationary.view_shape[1:])
    n = prod(moving.view_shape[1:])
    dtype = cost_dtype(moving.dtype)
    if not target.tensor.supports(dtype):
        raise SimulationError(
            f"the tensor engine of '{target.name}' does not multiply {dtype}", op=op
        )
    stride = innermost_bytes([moving])
    changed, held = (cost.matmul(target, k, m, n, dtype, c, stride) for c in (True, False))
    flag = decoder.space.apply(lambda x: x != 0, [decoder.index(op.operands[3])], decoder.depth)
    decoder.count("instructions", op.name)
    decoder.count("macs", dtype, by=k * m * n)
    decoder.matmuls[k, m, n, dtype] += decoder.trips
    count_bytes(decoder, stationary, moving, psum)
    decoder.counts[("psum",)] += _true_share(decoder, flag) * prod(psum.shape) * psum.dtype.itemsize
    numerics = _Multiply(k, moving.dtype, psum.dtype)
    times, reads = Times(changed, held), [stationary, moving]
    add_compute(decoder, op, "tensor", times, reads, [psum], numerics, flag)


def _true_share(decoder: Decoder, flag: Linear) -> int:
    """Return in how many executions of the present operation a flag is set."""
    values = decoder.space.values(flag, decoder.depth)
    return int((values != 0).sum()) * decoder.trips // values.size


def _transpose(decoder: Decoder, op: ir.Operation) -> None:
    source, destination = (chip(decoder, op, decoder.view(v)) for v in op.operands)
    rows, columns = source.view_shape
    time = cost.transpose(decoder.program.target, rows, columns, cost_dtype(source.dtype))
    decoder.count("instructions", op.name)
    decoder.count("onchip_copy", by=rows * columns * source.dtype.itemsize)
    count_bytes(decoder, source, destination)
    times = Times(time, time)
    add_compute(decoder, op, "tensor", times, [source], [destination], _Transpose())


HANDLERS: dict[str, Handler] = {
    "npu.matmul": _matmul,
    "npu.transpose": _transpose,
}
