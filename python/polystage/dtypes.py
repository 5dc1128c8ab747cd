"""Element types of MLIR and dtypes of numpy, each from the other."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from polystage.errors import PolystageError
from polystage.mlir import ir

_FLOATS: dict[str, np.dtype] = {
    "f16": np.dtype(np.float16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f8E3M4": np.dtype(ml_dtypes.float8_e3m4),
    "f8E4M3": np.dtype(ml_dtypes.float8_e4m3),
    "f8E4M3FN": np.dtype(ml_dtypes.float8_e4m3fn),
    "f8E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "f8E4M3B11FNUZ": np.dtype(ml_dtypes.float8_e4m3b11fnuz),
    "f8E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "f8E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "f8E8M0FNU": np.dtype(ml_dtypes.float8_e8m0fnu),
}
_INTEGERS: dict[int, np.dtype] = {
    1: np.dtype(np.bool_),
    2: np.dtype(ml_dtypes.int2),
    4: np.dtype(ml_dtypes.int4),
    8: np.dtype(np.int8),
    16: np.dtype(np.int16),
    32: np.dtype(np.int32),
    64: np.dtype(np.int64),
}
_UNSIGNED: dict[int, np.dtype] = {
    2: np.dtype(ml_dtypes.uint2),
    4: np.dtype(ml_dtypes.uint4),
    8: np.dtype(np.uint8),
    16: np.dtype(np.uint16),
    32: np.dtype(np.uint32),
    64: np.dtype(np.uint64),
}
_NAMES: dict[np.dtype, str] = (
    {dtype: name for name, dtype in _FLOATS.items()}
    | {dtype: f"i{width}" for width, dtype in _INTEGERS.items()}
    | {dtype: f"ui{width}" for width, dtype in _UNSIGNED.items()}
)
_SMALL_FLOATS = frozenset(d for d in _FLOATS.values() if d.itemsize < 4)


def numpy_dtype(type_: ir.Type) -> np.dtype:
    """Return the dtype that holds one element of `type_`, or of what a shaped `type_` is made of.

    Signless integers become signed ones, `i1` becomes bool, `index` becomes int64.

    Raises: PolystageError for an element type that numpy cannot hold.
    """
    if isinstance(type_, ir.ShapedType):
        type_ = type_.element_type
    dtype: np.dtype | None = None
    if isinstance(type_, ir.IndexType):
        dtype = np.dtype(np.int64)
    elif isinstance(type_, ir.IntegerType):
        dtype = (_UNSIGNED if type_.is_unsigned else _INTEGERS).get(type_.width)
    elif isinstance(type_, ir.FloatType):
        dtype = _FLOATS.get(str(type_))
    if dtype is None:
        known = ", ".join([*(f"i{w}" for w in _INTEGERS), "index", *_FLOATS])
        raise PolystageError(
            f"element type {type_} is not supported", help=f"supported are {known}"
        )
    return dtype


def element_type(dtype: np.dtype | type, context: ir.Context | None = None) -> ir.Type:
    """Return the MLIR element type of `dtype`; signed integers and bool become signless.

    Raises: PolystageError for a dtype without an MLIR type.
    """
    name = _NAMES.get(np.dtype(dtype))
    if name is None:
        known = ", ".join(str(d) for d in _NAMES)
        raise PolystageError(f"dtype {dtype} is not supported", help=f"supported are {known}")
    return ir.Type.parse(name, context)


def byte_width(type_: ir.Type) -> int:
    """Return the bytes that one element of `type_` takes: one for `i1`, eight for `index`."""
    return numpy_dtype(type_).itemsize


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype that computes on `dtype` before rounding: f32 for all shorter floats."""
    return np.dtype(np.float32) if dtype in _SMALL_FLOATS else dtype


def cost_dtype(type_: ir.Type | np.dtype | str) -> str:
    """Return the name by which targets know an operand type: f32, bf16, f16, f8, i8.

    All floats of 8 bits are `f8`. Other types keep the names that MLIR gives them.

    >>> cost_dtype("f8E4M3"), cost_dtype(np.dtype(np.float16)), cost_dtype("i32")
    ('f8', 'f16', 'i32')
    """
    name = _NAMES.get(type_, type_.name) if isinstance(type_, np.dtype) else str(type_)
    return "f8" if name.startswith("f8") else name


def is_float(dtype: np.dtype) -> bool:
    """Say whether `dtype` is a floating-point one, those of ml_dtypes included."""
    return dtype.kind == "f" or dtype in _SMALL_FLOATS
