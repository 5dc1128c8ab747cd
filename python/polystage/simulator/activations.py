"""What the scalar engine computes: its functions, and a pass of one over a tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import numpy as np

from polystage import special_functions
from polystage.dtypes import compute_dtype, is_float
from polystage.simulator.memory import Array


def _round_half_away(x: Array) -> Array:
    whole = np.trunc(x)
    return np.copysign(whole + np.copysign(np.abs(x - whole) >= 0.5, x), x)


def _gelu_tanh(x: Array) -> Array:
    """Return Gelu with a tanh in place of erf, as GPT-2 computes it."""
    held = x.dtype.type
    inner = held(sqrt(2 / pi)) * (x + held(0.044715) * x * x * x)
    return held(0.5) * x * (held(1) + np.tanh(inner))


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
    "erf": special_functions.erf,
    "erfc": special_functions.erfc,
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
    "relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "gelu": lambda x: x * special_functions.normal_distribution(x),
    "gelu_tanh": _gelu_tanh,
    "sigmoid": special_functions.logistic,
    "silu": lambda x: x * special_functions.logistic(x),
    "softplus": lambda x: np.logaddexp(x, x.dtype.type(0)),
    "square": np.square,
    "reciprocal": np.reciprocal,
}


@dataclass(frozen=True)
class Activation:
    """`function(scale * x + bias)`, with what comes per partition: any of `shift` and `factor`."""

    function: str
    scale: float
    bias: float
    columns: tuple[str, ...]
    dtype: np.dtype[Any]

    def run(self, reads: list[Array], writes: list[Array], _: int) -> None:
        """Read the source and the columns; write the results and, where it is asked for, their sum
        over all free dimensions."""
        source, destination, totals = reads[0], writes[0], writes[1:]
        plain = self.scale == 1.0 and self.bias == 0.0
        if plain and self.function == "identity" and len(reads) == 1 and not totals:
            destination[...] = source
            return
        held = compute_dtype(self.dtype) if is_float(self.dtype) else np.dtype(np.float32)
        value = source.astype(held, copy=False)
        columns = {
            name: column.astype(held, copy=False).reshape(-1, *[1] * (value.ndim - 1))
            for name, column in zip(self.columns, reads[1:], strict=True)
        }
        if "factor" in columns:
            value = value * columns["factor"]
        if not plain:
            value = value * held.type(self.scale)
            value += held.type(self.bias)
        if "shift" in columns:
            value = value + columns["shift"]
        results = ACTIVATIONS[self.function](value)
        for total in totals:
            sums = results.reshape(len(results), -1).sum(axis=1, dtype=np.float32)
            total[...] = sums.reshape(total.shape)
        destination[...] = results
