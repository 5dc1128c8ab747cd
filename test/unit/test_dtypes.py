import ml_dtypes
import numpy as np
import pytest

from polystage import dtypes
from polystage.errors import PolystageError
from polystage.mlir import ir


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("f32", np.float32),
        ("f16", np.float16),
        ("f64", np.float64),
        ("bf16", ml_dtypes.bfloat16),
        ("f8E4M3FN", ml_dtypes.float8_e4m3fn),
        ("f8E5M2", ml_dtypes.float8_e5m2),
        ("i1", np.bool_),
        ("i4", ml_dtypes.int4),
        ("i8", np.int8),
        ("i16", np.int16),
        ("i32", np.int32),
        ("i64", np.int64),
        ("ui8", np.uint8),
    ],
)
def test_round_trip(name, dtype):
    with ir.Context():
        type_ = ir.Type.parse(name)
        assert dtypes.numpy_dtype(type_) == np.dtype(dtype)
        assert dtypes.element_type(np.dtype(dtype)) == type_


def test_one_way():
    with ir.Context():
        assert dtypes.numpy_dtype(ir.IndexType.get()) == np.int64
        assert dtypes.numpy_dtype(ir.Type.parse("si8")) == np.int8
        assert dtypes.numpy_dtype(ir.Type.parse("memref<2x3xbf16>")) == ml_dtypes.bfloat16


def test_byte_width():
    with ir.Context():
        widths = {"i1": 1, "bf16": 2, "f32": 4, "index": 8, "i64": 8, "f8E5M2": 1}
        for name, width in widths.items():
            assert dtypes.byte_width(ir.Type.parse(name)) == width


def test_unsupported_is_a_clear_error():
    with ir.Context():
        with pytest.raises(
            PolystageError, match="element type i7 is not supported\nhelp: supported"
        ):
            dtypes.numpy_dtype(ir.Type.parse("i7"))
        with pytest.raises(PolystageError, match="dtype object is not supported"):
            dtypes.element_type(np.dtype(object))


def test_compute_dtype():
    assert dtypes.compute_dtype(np.dtype(ml_dtypes.bfloat16)) == np.float32
    assert dtypes.compute_dtype(np.dtype(np.float16)) == np.float32
    assert dtypes.compute_dtype(np.dtype(np.float64)) == np.float64
    assert dtypes.compute_dtype(np.dtype(np.int8)) == np.int8
    assert dtypes.is_float(np.dtype(ml_dtypes.bfloat16)) and not dtypes.is_float(np.dtype("i4"))
