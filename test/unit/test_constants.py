"""Constants: attributes to arrays and back, remembered or read from the printed form."""

import gc
import io
import weakref

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polystage import constants
from polystage.constants import constant_array, constant_attr
from polystage.dtypes import element_type
from polystage.errors import PolystageError
from polystage.mlir import ir

DTYPES = [
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    np.float64,
    np.bool_,
    np.int8,
    np.int32,
    np.int64,
    np.uint8,
]


def attr_of(array: np.ndarray) -> ir.Attribute:
    return constant_attr(array, "w", element_type(array.dtype))


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3), (5, 7), (3, 1, 11)])
def test_round_trip(dtype: type, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=shape) * 4).astype(dtype)
    with ir.Context():
        assert_same(constant_array(attr_of(array)), array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_of_a_resource_that_came_from_a_file(dtype: type) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=(5, 7)) * 4).astype(dtype)
    with ir.Context():
        module = ir.Module.parse("module {}")
        module.operation.attributes["p.x"] = attr_of(array)
        text, file = str(module), io.BytesIO()
        module.operation.write_bytecode(file)
    for content in (text, file.getvalue()):
        with ir.Context() as context:
            context.allow_unregistered_dialects = True
            read = ir.Module.parse(content)
            assert_same(constant_array(read.operation.attributes["p.x"]), array)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dense<1.5> : tensor<2x3xbf16>", np.full((2, 3), 1.5, ml_dtypes.bfloat16)),
        ("dense<[1.5, 0x7F80, -2.0]> : tensor<3xbf16>", np.array([1.5, np.inf, -2], "bfloat16")),
        ("dense<true> : tensor<4xi1>", np.ones(4, bool)),
        ("dense<[[1, 2], [3, 4]]> : tensor<2x2xi64>", np.array([[1, 2], [3, 4]])),
        ("dense<7> : tensor<i32>", np.array(7, np.int32)),
        ("dense<3> : tensor<2xindex>", np.array([3, 3])),
        ('dense<"0x0000803F00000040"> : tensor<2xf32>', np.array([1, 2], np.float32)),
    ],
)
def test_dense(text: str, expected: np.ndarray) -> None:
    with ir.Context():
        assert_same(constant_array(ir.Attribute.parse(text)), expected)


def test_splat_is_broadcast_not_copied() -> None:
    with ir.Context():
        array = constant_array(ir.Attribute.parse("dense<0.5> : tensor<1000x1000xbf16>"))
        assert array.strides == (0, 0)


def test_array_is_not_copied_and_read_only() -> None:
    array = np.arange(100, dtype=np.float32)
    with ir.Context():
        found = constant_array(attr_of(array))
        assert np.shares_memory(found, array)
        assert not found.flags.writeable


def test_equal_names_are_kept_apart() -> None:
    first, second = np.zeros(100, np.float32), np.ones(100, np.float32)
    with ir.Context():
        attributes = [attr_of(first), attr_of(second)]
        assert_same(constant_array(attributes[0]), first)
        assert_same(constant_array(attributes[1]), second)


def test_arrays_are_forgotten_with_their_context() -> None:
    array = np.zeros(100, np.float32)
    context = ir.Context()
    with context:
        attr_of(array)
    assert context in constants._ARRAYS
    alive = weakref.ref(context)
    del context
    gc.collect()
    assert alive() is None


def test_wrong_dtype() -> None:
    with ir.Context(), pytest.raises(PolystageError) as error:
        constant_attr(np.zeros(3, np.float64), "w", ir.F32Type.get())
    assert error.value.message == "constant 'w' is float64, but f32 takes float32"


def test_no_elements() -> None:
    with ir.Context(), pytest.raises(PolystageError) as error:
        constant_array(ir.Attribute.parse('"text"'))
    assert error.value.message == 'attribute "text" holds no elements that can be read'


def test_elided_data() -> None:
    with ir.Context(), pytest.raises(PolystageError) as error:
        constant_array(ir.Attribute.parse("dense_resource<__elided__> : tensor<40xf32>"))
    assert error.value.message == "the data of constant '__elided__' is missing"


@given(hnp.arrays(np.float16, st.integers(0, 60), elements=st.floats(width=16)))
def test_any_half_floats(array: np.ndarray) -> None:
    with ir.Context():
        attribute = attr_of(array.astype(ml_dtypes.bfloat16))
        assert_same(constant_array(attribute), array.astype(ml_dtypes.bfloat16))
