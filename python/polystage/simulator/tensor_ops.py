"""npu.matmul and npu.transpose: operands, cost, numbers."""

from __future__ import annotations

from math import prod

import numpy as np

from polystage.dialects import npu
from polystage.dtypes import cost_dtype, is_float
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

    The array adds to what the sums are when the products arrive there, not when they start. `first`
    is the dimension of k: the partition, or the one after it where there is but one partition.
    """

    def __init__(self, k: int, first: int, dtype: np.dtype, result: np.dtype) -> None:
        self.held = np.dtype(np.float32)
        if not is_float(dtype) and k > 1 << 10:
            self.held = np.dtype(np.float64)
        self.first = first
        self.result = result

    def run(self, reads: list[Array], writes: list[Array], value: int) -> None:
        """Multiply, and add or write."""
        self.finish(self.begin(reads, writes, value), writes, value)

    def begin(self, reads: list[Array], writes: list[Array], value: int) -> list[Array]:
        """Return the product."""
        stationary, moving = (_blas(x.reshape(x.shape[self.first], -1), self.held) for x in reads)
        product = np.matmul(stationary.T, moving).reshape(writes[0].shape)
        return [product if self.result == self.held else product.astype(self.result)]

    def finish(self, results: list[Array], writes: list[Array], value: int) -> None:
        """Add the product to the sums, or write it there."""
        if value:
            np.add(writes[0], results[0], out=writes[0])
        else:
            writes[0][...] = results[0]


class _Transpose(Numerics):
    def run(self, reads: list[Array], writes: list[Array], value: int) -> None:
        """Write the transpose."""
        writes[0][...] = reads[0].T


def _matmul(decoder: Decoder, op: ir.Operation) -> None:
    stationary, moving, sums = (chip(decoder, op, decoder.view(v)) for v in list(op.operands)[:3])
    target = decoder.program.target
    first = 1 if target.is_flat else 0
    k, m = stationary.view_shape[first], prod(stationary.view_shape[first + 1 :])
    n = prod(moving.view_shape[first + 1 :])
    dtype = cost_dtype(moving.dtype)
    if not target.tensor.supports(dtype):
        raise SimulationError(
            f"the tensor engine of '{target.name}' does not multiply {dtype}", op=op
        )
    stride = innermost_bytes([moving], first + 1)
    flag = decoder.index(op.operands[3])
    if not flag.is_constant:
        flag = decoder.space.apply(lambda x: x != 0, [flag], decoder.depth)
    decoder.count("instructions", op.name)
    if npu.AUXILIARY in op.attributes:
        decoder.count("auxiliary", dtype, by=k * m * n)
    else:
        decoder.count("macs", dtype, by=k * m * n)
        decoder.work.matmuls[k, m, n, dtype] += decoder.trips
    *reads, writes = cost.operand_passes(target, k, m, n)
    for window, passes in zip((stationary, moving), reads, strict=True):
        count_bytes(decoder, window, times=passes * decoder.trips)
    adds = (writes - 1) * decoder.trips + _true_share(decoder, flag)
    count_bytes(decoder, sums, times=writes * decoder.trips + adds)
    numerics = _Multiply(k, first, moving.dtype, sums.dtype)
    times = decoder.program.times_of_matmul(k, m, n, dtype, stride)
    add_compute(decoder, op, "tensor", times, [stationary, moving], [sums], numerics, flag)


def _true_share(decoder: Decoder, flag: Linear) -> int:
    """Return in how many executions of the present operation a flag is set."""
    if flag.is_constant:
        return decoder.trips if flag.constant else 0
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
