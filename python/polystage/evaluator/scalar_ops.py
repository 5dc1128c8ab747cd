"""Every scalar operation of the arith and math dialects as a function over numpy arrays.

Values are held in the dtype that arithmetic on them uses: f32 for all shorter floats, bool for i1,
else their own (`dtypes.compute_dtype`). `scalar_function` returns functions over such arrays.
Callers silence numpy's floating-point warnings: infinities and NaN are ordinary values here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from polystage import special_functions
from polystage.dtypes import compute_dtype, numpy_dtype
from polystage.errors import PolystageError
from polystage.mlir import ir

Function = Callable[..., Any]

BOOL = np.dtype(np.bool_)

# --- integers: i1 is bool, where true is -1 signed and 1 unsigned ---


def _signed(x: Any) -> Any:
    return -x.astype(np.int8) if x.dtype == BOOL else x


def _unsigned(x: Any) -> Any:
    """Return the same bits as an unsigned integer."""
    return x.view(np.uint8) if x.dtype == BOOL else x.view(np.dtype(f"u{x.dtype.itemsize}"))


def _truncate(x: Any, dtype: np.dtype) -> Any:
    return (x & x.dtype.type(1)) != 0 if dtype == BOOL else x.astype(dtype, copy=False)


def _integer(function: Function, read: Function) -> Function:
    """Wrap a function of integers so that it wraps around in the dtype of its first argument."""

    def wrapped(*arguments: Any) -> Any:
        dtype = arguments[0].dtype
        result = function(*(read(a) for a in arguments))
        return (
            result.view(dtype) if dtype != BOOL and read is _unsigned else _truncate(result, dtype)
        )

    return wrapped


def _signed_function(function: Function) -> Function:
    return _integer(function, _signed)


def _unsigned_function(function: Function) -> Function:
    return _integer(function, _unsigned)


def _truncating_divide(a: Any, b: Any) -> Any:
    return np.floor_divide(a - np.fmod(a, b), b)


def _ceiling_divide(a: Any, b: Any) -> Any:
    quotient = np.floor_divide(a, b)
    return quotient + (quotient * b != a).astype(quotient.dtype)


def _leading_zeros(x: Any) -> Any:
    width = x.dtype.itemsize * 8
    count = np.full_like(x, width)
    shift = width // 2
    while shift:
        high = x >> x.dtype.type(shift)
        occupied = high != 0
        count = count - occupied.astype(x.dtype) * x.dtype.type(shift)
        x = np.where(occupied, high, x)
        shift //= 2
    return count - (x != 0).astype(x.dtype)


def _trailing_zeros(x: Any) -> Any:
    lowest = x & (~x + x.dtype.type(1))
    width = x.dtype.itemsize * 8
    return np.where(x == 0, x.dtype.type(width), x.dtype.type(width - 1) - _leading_zeros(lowest))


def _integer_power(x: Any, n: Any) -> Any:
    """Return x ** n; a negative power is 1 / x ** -n, rounded to zero."""
    power = np.power(x, np.maximum(n, n.dtype.type(0)))
    one = x.dtype.type(1)
    sign = np.where((n & n.dtype.type(1)) != 0, -one, one)
    inverse = np.where(x == one, one, np.where(x == -one, sign, x.dtype.type(0)))
    return np.where(n < 0, inverse, power).astype(x.dtype)


def _extended_add(a: Any, b: Any) -> tuple[Any, Any]:
    a, b = np.asarray(a), np.asarray(b)
    total = a ^ b if a.dtype == BOOL else a + b
    return total, _unsigned(total) < _unsigned(a)


def _extended_multiply(read: Function) -> Function:
    def multiply(a: Any, b: Any) -> tuple[Any, Any]:
        dtype, width = a.dtype, a.dtype.itemsize * 8
        wide = np.asarray(read(a)).astype(object) * np.asarray(read(b)).astype(object)
        halves = (wide, wide // (1 << width))
        low, high = (np.asarray(h % (1 << width)).astype(f"u{dtype.itemsize}") for h in halves)
        return low.view(dtype), high.view(dtype)

    return multiply


# --- floats ---


def _round_half_away(x: Any) -> Any:
    whole = np.trunc(x)
    return np.copysign(whole + np.copysign(np.abs(x - whole) >= 0.5, x), x).astype(x.dtype)


def _multiply_add(a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c rounded once for f32 and shorter."""
    wide = np.float64
    return (np.multiply(a, b, dtype=wide) + np.asarray(c, wide)).astype(a.dtype)


def _reciprocal_root(x: Any) -> Any:
    return x.dtype.type(1) / np.sqrt(x)


def _is_normal(x: Any) -> Any:
    return np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny)


FLOAT_COMPARISONS: tuple[Function, ...] = (
    lambda a, b: np.zeros(np.broadcast(a, b).shape, bool),
    np.equal,
    np.greater,
    np.greater_equal,
    np.less,
    np.less_equal,
    lambda a, b: (a < b) | (a > b),
    lambda a, b: (a == a) & (b == b),
    lambda a, b: ~((a < b) | (a > b)),
    lambda a, b: ~np.less_equal(a, b),
    lambda a, b: ~np.less(a, b),
    lambda a, b: ~np.greater_equal(a, b),
    lambda a, b: ~np.greater(a, b),
    np.not_equal,
    lambda a, b: (a != a) | (b != b),
    lambda a, b: np.ones(np.broadcast(a, b).shape, bool),
)
_INTEGER_COMPARISONS: tuple[tuple[Function, Function], ...] = (
    (np.equal, _signed),
    (np.not_equal, _signed),
    (np.less, _signed),
    (np.less_equal, _signed),
    (np.greater, _signed),
    (np.greater_equal, _signed),
    (np.less, _unsigned),
    (np.less_equal, _unsigned),
    (np.greater, _unsigned),
    (np.greater_equal, _unsigned),
)

_FLOAT_FUNCTIONS: dict[str, Function] = {
    "arith.addf": np.add,
    "arith.subf": np.subtract,
    "arith.mulf": np.multiply,
    "arith.divf": np.divide,
    "arith.remf": np.fmod,
    "math.acos": np.arccos,
    "math.acosh": np.arccosh,
    "math.asin": np.arcsin,
    "math.asinh": np.arcsinh,
    "math.atan": np.arctan,
    "math.atan2": np.arctan2,
    "math.atanh": np.arctanh,
    "math.cbrt": np.cbrt,
    "math.cos": np.cos,
    "math.cosh": np.cosh,
    "math.erf": special_functions.erf,
    "math.erfc": special_functions.erfc,
    "math.exp": np.exp,
    "math.exp2": np.exp2,
    "math.expm1": np.expm1,
    "math.fma": _multiply_add,
    "math.fpowi": lambda x, n: np.power(x, n.astype(x.dtype)),
    "math.log": np.log,
    "math.log10": np.log10,
    "math.log1p": np.log1p,
    "math.log2": np.log2,
    "math.powf": np.power,
    "math.rsqrt": _reciprocal_root,
    "math.sin": np.sin,
    "math.sinh": np.sinh,
    "math.sqrt": np.sqrt,
    "math.tan": np.tan,
    "math.tanh": np.tanh,
    "math.sincos": lambda x: (np.sin(x), np.cos(x)),
}
# results of these need no rounding, whatever the dtype
_EXACT_FUNCTIONS: dict[str, Function] = {
    "arith.select": np.where,
    "arith.negf": np.negative,
    "arith.maximumf": np.maximum,
    "arith.minimumf": np.minimum,
    "arith.maxnumf": np.fmax,
    "arith.minnumf": np.fmin,
    "math.absf": np.abs,
    "math.ceil": np.ceil,
    "math.floor": np.floor,
    "math.round": _round_half_away,
    "math.roundeven": np.rint,
    "math.trunc": np.trunc,
    "math.copysign": np.copysign,
    "math.clampf": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "math.isfinite": np.isfinite,
    "math.isinf": np.isinf,
    "math.isnan": np.isnan,
    "math.isnormal": _is_normal,
    "arith.addi": _signed_function(np.add),
    "arith.subi": _signed_function(np.subtract),
    "arith.muli": _signed_function(np.multiply),
    "arith.divsi": _signed_function(_truncating_divide),
    "arith.divui": _unsigned_function(np.floor_divide),
    "arith.remsi": _signed_function(np.fmod),
    "arith.remui": _unsigned_function(np.remainder),
    "arith.floordivsi": _signed_function(np.floor_divide),
    "arith.ceildivsi": _signed_function(_ceiling_divide),
    "arith.ceildivui": _unsigned_function(_ceiling_divide),
    "arith.maxsi": _signed_function(np.maximum),
    "arith.minsi": _signed_function(np.minimum),
    "arith.maxui": _unsigned_function(np.maximum),
    "arith.minui": _unsigned_function(np.minimum),
    "arith.andi": np.bitwise_and,
    "arith.ori": np.bitwise_or,
    "arith.xori": np.bitwise_xor,
    "arith.shli": _signed_function(np.left_shift),
    "arith.shrsi": _signed_function(np.right_shift),
    "arith.shrui": _unsigned_function(np.right_shift),
    "arith.addui_extended": _extended_add,
    "arith.mulsi_extended": _extended_multiply(_signed),
    "arith.mului_extended": _extended_multiply(_unsigned),
    "math.absi": _signed_function(np.abs),
    "math.ctlz": _unsigned_function(_leading_zeros),
    "math.cttz": _unsigned_function(_trailing_zeros),
    "math.ctpop": lambda x: np.bitwise_count(_unsigned(x)).astype(x.dtype),
    "math.ipowi": _signed_function(_integer_power),
}


# --- casts ---


def _to_integer(dtype: np.dtype, signed: bool) -> Function:
    """Convert floats, rounding to zero; NaN becomes 0.

    What does not fit is undefined in MLIR. Here i32 and i64 saturate, and narrower types keep the
    low bits of an i32, as compiled code does: importers convert to unsigned 8-bit integers that
    way.
    """
    if dtype.itemsize < 4 and dtype != BOOL:
        widen = _to_integer(np.dtype(np.int32), True)
        return lambda x: widen(x).astype(dtype)
    target = dtype if signed or dtype == BOOL else np.dtype(f"u{dtype.itemsize}")
    info = np.iinfo(np.int8 if dtype == BOOL else target)
    low, high = (0.0, 1.0) if dtype == BOOL else (float(info.min), float(info.max))
    if target.itemsize == 8:
        high = np.nextafter(high, 0.0)  # the greatest double below 2 ** 63 or 2 ** 64

    def convert(x: Any) -> Any:
        wide = np.asarray(x, np.float64)
        return np.clip(np.where(wide == wide, wide, 0.0), low, high).astype(target).view(dtype)

    return convert


def _bitcast(source: np.dtype, target: np.dtype) -> Function:
    def convert(x: Any) -> Any:
        return np.ascontiguousarray(x.astype(source)).view(target).astype(compute_dtype(target))

    def scalar_or_array(x: Any) -> Any:
        return convert(x).reshape(np.shape(x))

    return scalar_or_array


def _cast_function(name: str, source: np.dtype, target: np.dtype) -> Function | None:
    held = compute_dtype(target)
    if name == "arith.extf":
        return lambda x: x.astype(held)
    if name == "arith.truncf":
        return rounding(target, lambda x: x.astype(held))
    if name == "arith.sitofp":
        return rounding(target, lambda x: _signed(x).astype(held))
    if name == "arith.uitofp":
        return rounding(target, lambda x: _unsigned(x).astype(held))
    if name in ("arith.fptosi", "arith.fptoui"):
        return _to_integer(target, name == "arith.fptosi")
    if name in ("arith.extsi", "arith.index_cast", "arith.trunci"):
        return lambda x: _truncate(_signed(x), target)
    if name in ("arith.extui", "arith.index_castui"):
        return lambda x: _truncate(_unsigned(x), target)
    return _bitcast(source, target) if name == "arith.bitcast" else None


CASTS = frozenset(
    f"arith.{name}"
    for name in [
        "extf",
        "truncf",
        "sitofp",
        "uitofp",
        "fptosi",
        "fptoui",
        "extsi",
        "extui",
        "trunci",
        "index_cast",
        "index_castui",
        "bitcast",
    ]
)


def rounding(dtype: np.dtype, function: Function) -> Function:
    """Return `function` with its result rounded to `dtype`, held in the dtype that computes."""
    held = compute_dtype(dtype)
    if held == dtype:
        return function

    def rounded(*arguments: Any) -> Any:
        result = function(*arguments)
        if isinstance(result, tuple):
            return tuple(r.astype(dtype).astype(held) for r in result)
        return result.astype(dtype).astype(held)

    return rounded


def _compare(op: ir.Operation) -> Function:
    predicate = ir.IntegerAttr(op.attributes["predicate"]).value
    if op.name == "arith.cmpf":
        return FLOAT_COMPARISONS[predicate]
    function, read = _INTEGER_COMPARISONS[predicate]
    return lambda a, b: function(read(a), read(b))


def constant_scalar(attribute: ir.Attribute, type_: ir.Type) -> Any:
    """Return the value of a scalar constant as a numpy scalar in the dtype that computes."""
    if isinstance(attribute, ir.BoolAttr):
        return np.bool_(attribute.value)
    declared = numpy_dtype(type_)
    if isinstance(attribute, ir.FloatAttr):
        return np.asarray(attribute.value, compute_dtype(declared))[()]
    value = ir.IntegerAttr(attribute).value
    if declared == BOOL:
        return np.bool_(value & 1)
    return np.asarray(value).astype(declared)[()]


def is_scalar_op(name: str) -> bool:
    """Say whether `scalar_function` knows the operation."""
    known = name in _FLOAT_FUNCTIONS or name in _EXACT_FUNCTIONS or name in CASTS
    return known or name in ("arith.cmpf", "arith.cmpi")


def scalar_function(op: ir.Operation) -> Function:
    """Return what an arith or math operation computes, over arrays in the dtypes that compute.

    Raises: PolystageError for an operation that is not in the tables.
    """
    name = op.name
    if name in ("arith.cmpf", "arith.cmpi"):
        return _compare(op)
    if name in _EXACT_FUNCTIONS:
        return _EXACT_FUNCTIONS[name]
    if name in _FLOAT_FUNCTIONS:
        return rounding(numpy_dtype(op.results[0].type), _FLOAT_FUNCTIONS[name])
    function = None
    if name in CASTS:
        source, target = numpy_dtype(op.operands[0].type), numpy_dtype(op.results[0].type)
        function = _cast_function(name, source, target)
    if function is None:
        raise PolystageError(
            f"operation '{name}' has no meaning on scalars here",
            help="a scalar body holds operations of the arith and math dialects",
            op=op,
        )
    return function
