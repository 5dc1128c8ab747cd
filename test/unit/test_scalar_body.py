"""Scalar bodies: every operation against numpy or plain Python, casts, folds."""

import math

import ml_dtypes
import numpy as np
import pytest

from polystage.errors import PolystageError
from polystage.evaluator.scalar_body import Hooks, compile_body, compile_function
from polystage.mlir import ir

BF16 = np.dtype(ml_dtypes.bfloat16)


def body_of(text):
    context = ir.Context()
    with context:
        module = ir.Module.parse(text)
        return compile_function(module.body.operations[0])


def unary(op, type_, result=None, suffix=""):
    result = result or type_
    colon = suffix or (type_ if result == type_ else f"{type_} to {result}")
    return body_of(
        f"func.func @f(%a: {type_}) -> {result} {{ %r = {op} %a : {colon} return %r : {result} }}"
    )


def binary(op, type_, result=None):
    result = result or type_
    return body_of(
        f"func.func @f(%a: {type_}, %b: {type_}) -> {result} "
        f"{{ %r = {op} %a, %b : {type_} return %r : {result} }}"
    )


FLOATS = np.array([0.0, -0.0, 0.3, 0.5, -0.5, 1.5, 2.5, -2.5, 7.25, -3.7, np.inf, -np.inf, np.nan])
OTHERS = np.roll(FLOATS, 5)
INTS = np.array([0, 1, -1, 2, -2, 7, -7, 63, 100, -128, 127, -77], np.int8)
DIVISORS = np.array([3, -3, 1, 5, 7, -7, 2, 9, -10, 127, 3, 11], np.int8)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("arith.addf", np.add),
        ("arith.subf", np.subtract),
        ("arith.mulf", np.multiply),
        ("arith.divf", np.divide),
        ("arith.remf", np.fmod),
        ("arith.maximumf", np.maximum),
        ("arith.minimumf", np.minimum),
        ("arith.maxnumf", np.fmax),
        ("arith.minnumf", np.fmin),
        ("math.powf", np.power),
        ("math.atan2", np.arctan2),
        ("math.copysign", np.copysign),
    ],
)
def test_float_binary(op, expected, dtype):
    a, b = (x.astype(np.float32 if dtype == "f32" else np.float64) for x in (FLOATS, OTHERS))
    (got,) = binary(op, dtype)([a, b])
    assert got.dtype == a.dtype
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got, expected(a, b))


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("math.exp", np.exp),
        ("math.exp2", np.exp2),
        ("math.expm1", np.expm1),
        ("math.log", np.log),
        ("math.log2", np.log2),
        ("math.log10", np.log10),
        ("math.log1p", np.log1p),
        ("math.sqrt", np.sqrt),
        ("math.cbrt", np.cbrt),
        ("math.sin", np.sin),
        ("math.cos", np.cos),
        ("math.tan", np.tan),
        ("math.asin", np.arcsin),
        ("math.acos", np.arccos),
        ("math.atan", np.arctan),
        ("math.sinh", np.sinh),
        ("math.cosh", np.cosh),
        ("math.tanh", np.tanh),
        ("math.asinh", np.arcsinh),
        ("math.acosh", np.arccosh),
        ("math.atanh", np.arctanh),
        ("math.absf", np.abs),
        ("math.ceil", np.ceil),
        ("math.floor", np.floor),
        ("math.trunc", np.trunc),
        ("math.roundeven", np.rint),
        ("arith.negf", np.negative),
    ],
)
def test_float_unary(op, expected):
    a = FLOATS.astype(np.float32)
    (got,) = unary(op, "f32")([a])
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got, expected(a))


def test_float_functions_that_numpy_lacks():
    a = FLOATS[:10].astype(np.float32)
    erf = [math.erf(x) for x in a]
    np.testing.assert_allclose(unary("math.erf", "f32")([a])[0], erf, rtol=1e-6)
    np.testing.assert_allclose(
        unary("math.erfc", "f32")([a])[0], [math.erfc(x) for x in a], rtol=1e-5
    )
    rounded = [0, 0, 0, 1, -1, 2, 3, -3, 7, -4]
    np.testing.assert_array_equal(unary("math.round", "f32")([a])[0], rounded)
    np.testing.assert_array_equal(
        unary("math.round", "f32")([np.float32([0.49999997, 8388609.0])])[0], [0, 8388609]
    )
    np.testing.assert_allclose(unary("math.rsqrt", "f32")([np.float32([4, 0.25])])[0], [0.5, 2])
    fma = body_of(
        "func.func @f(%a: f32, %b: f32, %c: f32) -> f32 "
        "{ %r = math.fma %a, %b, %c : f32 return %r : f32 }"
    )
    x = np.float32([1 + 2**-12])
    assert fma([x, x, np.float32([-1])])[0] == np.float32(2**-11 + 2**-24)  # rounded once


def test_float_classes():
    a = np.float32([0, 1e-40, 1, np.inf, np.nan])
    expected = {
        "isfinite": [1, 1, 1, 0, 0],
        "isinf": [0, 0, 0, 1, 0],
        "isnan": [0, 0, 0, 0, 1],
        "isnormal": [0, 0, 1, 0, 0],
    }
    for name, values in expected.items():
        got = unary(f"math.{name}", "f32", "i1", suffix="f32")([a])[0]
        np.testing.assert_array_equal(got, np.array(values, bool))


def test_powers():
    body = body_of(
        "func.func @f(%a: f32, %b: i32) -> f32 "
        "{ %r = math.fpowi %a, %b : f32, i32 return %r : f32 }"
    )
    np.testing.assert_array_equal(
        body([np.float32([2, 3]), np.int32([3, -1])])[0], np.float32([8, 1 / 3])
    )
    base, power = np.int8([2, 2, 1, -1, -1, 0]), np.int8([3, -1, -4, -3, -2, 0])
    np.testing.assert_array_equal(binary("math.ipowi", "i8")([base, power])[0], [8, 0, 1, -1, 1, 1])


def c_divide(a, b):
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q


def wrap(x):
    return (x + 128) % 256 - 128


U = 256
INT_CASES = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.divsi": c_divide,
    "arith.remsi": lambda a, b: a - b * c_divide(a, b),
    "arith.divui": lambda a, b: (a % U) // (b % U),
    "arith.remui": lambda a, b: (a % U) % (b % U),
    "arith.floordivsi": lambda a, b: a // b,
    "arith.ceildivsi": lambda a, b: -(-a // b),
    "arith.ceildivui": lambda a, b: -(-(a % U) // (b % U)),
    "arith.maxsi": max,
    "arith.minsi": min,
    "arith.maxui": lambda a, b: max(a % U, b % U),
    "arith.minui": lambda a, b: min(a % U, b % U),
    "arith.andi": lambda a, b: a & b,
    "arith.ori": lambda a, b: a | b,
    "arith.xori": lambda a, b: a ^ b,
}


@pytest.mark.parametrize("op", INT_CASES)
def test_int_binary(op):
    (got,) = binary(op, "i8")([INTS, DIVISORS])
    expected = [wrap(INT_CASES[op](int(a), int(b))) for a, b in zip(INTS, DIVISORS, strict=True)]
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, expected)


def test_shifts():
    shifts = np.array([0, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4], np.int8)
    pairs = [(int(a), int(s)) for a, s in zip(INTS, shifts, strict=True)]
    cases = {
        "arith.shli": [wrap(a << s) for a, s in pairs],
        "arith.shrsi": [a >> s for a, s in pairs],
        "arith.shrui": [wrap((a % U) >> s) for a, s in pairs],
    }
    for op, expected in cases.items():
        np.testing.assert_array_equal(binary(op, "i8")([INTS, shifts])[0], expected)


def test_bit_counts():
    values = np.int32([0, 1, -1, 2, 0x00F0, -(2**31), 12345])
    bits = [format(int(v) & 0xFFFFFFFF, "032b") for v in values]
    leading = [len(b) - len(b.lstrip("0")) for b in bits]
    trailing = [len(b) - len(b.rstrip("0")) for b in bits]
    np.testing.assert_array_equal(unary("math.ctlz", "i32")([values])[0], leading)
    np.testing.assert_array_equal(unary("math.cttz", "i32")([values])[0], trailing)
    np.testing.assert_array_equal(
        unary("math.ctpop", "i32")([values])[0], [b.count("1") for b in bits]
    )
    np.testing.assert_array_equal(unary("math.absi", "i32")([values[:3]])[0], [0, 1, 1])


def extended(op, second):
    types = "i8, i1" if second == "i1" else "i8"
    return body_of(
        f"func.func @f(%a: i8, %b: i8) -> (i8, {second}) "
        f"{{ %r, %s = {op} %a, %b : {types} return %r, %s : i8, {second} }}"
    )


def test_extended_arithmetic():
    total, carry = extended("arith.addui_extended", "i1")([INTS, DIVISORS])
    exact = [(int(a) % U) + (int(b) % U) for a, b in zip(INTS, DIVISORS, strict=True)]
    np.testing.assert_array_equal(total, [wrap(x) for x in exact])
    np.testing.assert_array_equal(carry, [x >= U for x in exact])
    low, high = extended("arith.mulsi_extended", "i8")([INTS, DIVISORS])
    exact = [int(a) * int(b) for a, b in zip(INTS, DIVISORS, strict=True)]
    np.testing.assert_array_equal(low, [wrap(x) for x in exact])
    np.testing.assert_array_equal(high, [x >> 8 for x in exact])
    low, high = extended("arith.mului_extended", "i8")([INTS, DIVISORS])
    exact = [(int(a) % U) * (int(b) % U) for a, b in zip(INTS, DIVISORS, strict=True)]
    np.testing.assert_array_equal(high, [wrap(x >> 8) for x in exact])


def unordered(a, b):
    return math.isnan(a) or math.isnan(b)


CMPF = {
    "false": lambda a, b: False,
    "oeq": lambda a, b: a == b,
    "ogt": lambda a, b: a > b,
    "oge": lambda a, b: a >= b,
    "olt": lambda a, b: a < b,
    "ole": lambda a, b: a <= b,
    "one": lambda a, b: not unordered(a, b) and a != b,
    "ord": lambda a, b: not unordered(a, b),
    "ueq": lambda a, b: unordered(a, b) or a == b,
    "ugt": lambda a, b: unordered(a, b) or a > b,
    "uge": lambda a, b: unordered(a, b) or a >= b,
    "ult": lambda a, b: unordered(a, b) or a < b,
    "ule": lambda a, b: unordered(a, b) or a <= b,
    "une": lambda a, b: a != b,
    "uno": unordered,
    "true": lambda a, b: True,
}


@pytest.mark.parametrize("predicate", CMPF)
def test_cmpf(predicate):
    a, b = (x.astype(np.float32) for x in np.meshgrid(FLOATS, OTHERS))
    (got,) = binary(f"arith.cmpf {predicate},", "f32", "i1")([a, b])
    expected = [CMPF[predicate](float(x), float(y)) for x, y in zip(a.flat, b.flat, strict=True)]
    np.testing.assert_array_equal(got.ravel(), expected)


CMPI = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "slt": lambda a, b: a < b,
    "sle": lambda a, b: a <= b,
    "sgt": lambda a, b: a > b,
    "sge": lambda a, b: a >= b,
    "ult": lambda a, b: a % U < b % U,
    "ule": lambda a, b: a % U <= b % U,
    "ugt": lambda a, b: a % U > b % U,
    "uge": lambda a, b: a % U >= b % U,
}


@pytest.mark.parametrize("predicate", CMPI)
def test_cmpi(predicate):
    a, b = np.meshgrid(INTS, DIVISORS)
    (got,) = binary(f"arith.cmpi {predicate},", "i8", "i1")([a, b])
    expected = [CMPI[predicate](int(x), int(y)) for x, y in zip(a.flat, b.flat, strict=True)]
    np.testing.assert_array_equal(got.ravel(), expected)


def test_i1_is_minus_one_signed_and_one_unsigned():
    a, b = np.array([False, False, True, True]), np.array([False, True, False, True])
    assert binary("arith.cmpi slt,", "i1")([a, b])[0].tolist() == [False, False, True, False]
    assert binary("arith.cmpi ult,", "i1")([a, b])[0].tolist() == [False, True, False, False]
    assert binary("arith.addi", "i1")([a, b])[0].tolist() == [False, True, True, False]
    assert binary("arith.muli", "i1")([a, b])[0].tolist() == [False, False, False, True]
    assert binary("arith.maxsi", "i1")([a, b])[0].tolist() == [False, False, False, True]
    assert binary("arith.maxui", "i1")([a, b])[0].tolist() == [False, True, True, True]
    flags = np.array([False, True])
    assert unary("arith.extui", "i1", "i32")([flags])[0].tolist() == [0, 1]
    assert unary("arith.extsi", "i1", "i32")([flags])[0].tolist() == [0, -1]
    assert unary("arith.uitofp", "i1", "f32")([flags])[0].tolist() == [0, 1]
    assert unary("arith.sitofp", "i1", "f32")([flags])[0].tolist() == [0, -1]
    assert unary("arith.trunci", "i8", "i1")([np.int8([2, 3])])[0].tolist() == [False, True]


def test_casts():
    assert unary("arith.extui", "i8", "i32")([np.int8([-1])])[0].tolist() == [255]
    assert unary("arith.trunci", "i32", "i8")([np.int32([300, -129])])[0].tolist() == [44, 127]
    assert unary("arith.uitofp", "i8", "f32")([np.int8([-1])])[0].tolist() == [255]
    assert unary("arith.index_cast", "i32", "index")([np.int32([-3])])[0].dtype == np.int64
    x = np.float32([1.00390625])  # between two bf16 values
    assert unary("arith.truncf", "f32", "bf16")([x])[0].dtype == BF16
    assert float(unary("arith.truncf", "f32", "bf16")([x])[0][0]) == 1.0
    assert unary("arith.extf", "bf16", "f32")([x.astype(BF16)])[0].dtype == np.float32
    bits = unary("arith.bitcast", "f32", "i32")([np.float32([1.0])])[0]
    assert bits.tolist() == [0x3F800000]
    assert unary("arith.bitcast", "bf16", "i16")([np.array([1.0], BF16)])[0].tolist() == [0x3F80]
    assert float(unary("arith.bitcast", "i16", "bf16")([np.int16([0x3F80])])[0][0]) == 1.0


@pytest.mark.parametrize(
    ("op", "type_", "expected"),
    [
        ("arith.fptosi", "i8", [1, -1, -1, 0, -1, 0]),
        ("arith.fptoui", "i8", [1, -1, -1, 0, -1, 0]),
        ("arith.fptosi", "i32", [1, -1, 2**31 - 1, -(2**31), 2**31 - 1, 0]),
        ("arith.fptosi", "i64", [1, -1, 10**12 - 4096, -(10**12) + 4096, 2**63 - 1024, 0]),
    ],
)
def test_float_to_int_out_of_range_gives_no_warning(op, type_, expected):
    values = np.float32([1.9, -1.9, 1e12, -1e12, np.inf, np.nan])
    assert unary(op, "f32", type_)([values])[0].tolist() == expected


def test_bf16_rounds_after_every_operation():
    body = body_of(
        """func.func @f(%a: bf16, %b: bf16) -> bf16 {
          %m = arith.mulf %a, %b : bf16
          %r = arith.addf %m, %a : bf16
          return %r : bf16 }"""
    )
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1000)).astype(BF16)
    product = (a.astype(np.float32) * b.astype(np.float32)).astype(BF16)
    expected = (product.astype(np.float32) + a.astype(np.float32)).astype(BF16)
    np.testing.assert_array_equal(body([a, b])[0], expected)


def test_reads_are_cast_to_the_argument_type():
    body = unary("arith.negf", "f32")
    assert body([np.array([1.5], BF16)])[0].dtype == np.float32
    body = unary("arith.negf", "bf16")
    assert float(body([np.float32([1.00390625])])[0][0]) == -1.0


def test_select_constant_and_outside_values():
    body = body_of(
        """func.func @f(%x: f32, %out: f32) -> f32 {
          %z = arith.constant 0.0 : f32
          %c = arith.cmpf ogt, %x, %z : f32
          %r = arith.select %c, %x, %z : f32
          return %r : f32 }"""
    )
    np.testing.assert_array_equal(body([np.float32([-1, 2]), None])[0], [0, 2])
    assert body.used_arguments == (True, False)


def test_index_and_load_hooks():
    context = ir.Context()
    with context:
        module = ir.Module.parse(
            """func.func @f(%t: memref<4x4xf32>, %i: memref<3xi64>, %o: memref<3x4xf32>) {
              linalg.generic {
                  indexing_maps = [affine_map<(a, b) -> (a)>, affine_map<(a, b) -> (a, b)>],
                  iterator_types = ["parallel", "parallel"]}
                  ins(%i : memref<3xi64>) outs(%o : memref<3x4xf32>) {
              ^bb0(%in: i64, %out: f32):
                %r = arith.index_cast %in : i64 to index
                %c = linalg.index 1 : index
                %v = memref.load %t[%r, %c] : memref<4x4xf32>
                linalg.yield %v : f32
              }
              return
            }"""
        )
        generic = next(iter(module.body.operations[0].regions[0].blocks[0].operations))
        body = compile_body(generic.regions[0].blocks[0])
    table = np.arange(16, dtype=np.float32).reshape(4, 4)
    hooks = Hooks(index=lambda d: np.arange(4), load=lambda _, i: table[tuple(i)])
    (got,) = body([np.int64([[3], [0], [1]]), None], hooks)
    np.testing.assert_array_equal(got, table[[3, 0, 1]])
    with pytest.raises(PolystageError, match=r"linalg.index is not available here"):
        body([np.int64([[3]]), None])


def test_unknown_operation_is_a_clear_error():
    with pytest.raises(PolystageError, match=r"operation 'memref\.dim' has no meaning on scalars"):
        body_of(
            """func.func @f(%m: index, %a: memref<1xf32>) -> index {
              %d = memref.dim %a, %m : memref<1xf32>
              return %d : index }"""
        )


# --- folds ---


def fold(lines, type_="f32"):
    return body_of(
        f"func.func @f(%x: {type_}, %acc: {type_}) -> {type_} {{ {lines} return %r : {type_} }}"
    )


@pytest.mark.parametrize(
    ("lines", "type_", "kind"),
    [
        ("%r = arith.addf %acc, %x : f32", "f32", "add"),
        ("%r = arith.mulf %x, %acc : f32", "f32", "mul"),
        ("%r = arith.maximumf %x, %acc : f32", "f32", "max"),
        ("%r = arith.maxnumf %x, %acc : f32", "f32", "maxnum"),
        ("%r = arith.minnumf %x, %acc : f32", "f32", "minnum"),
        ("%r = arith.addi %x, %acc : i32", "i32", "add"),
        ("%r = arith.maxui %x, %acc : i32", "i32", "umax"),
        ("%r = arith.ori %x, %acc : i1", "i1", "or"),
        ("%r = arith.addi %x, %acc : i1", "i1", "xor"),
        ("%c = arith.cmpf ugt, %x, %acc : f32 %r = arith.select %c, %x, %acc : f32", "f32", "max"),
        ("%c = arith.cmpf olt, %x, %acc : f32 %r = arith.select %c, %acc, %x : f32", "f32", "max"),
        ("%c = arith.cmpf ogt, %acc, %x : f32 %r = arith.select %c, %x, %acc : f32", "f32", "min"),
        ("%c = arith.cmpi slt, %x, %acc : i32 %r = arith.select %c, %x, %acc : i32", "i32", "min"),
        ("%c = arith.cmpi ugt, %x, %acc : i32 %r = arith.select %c, %x, %acc : i32", "i32", "umax"),
    ],
)
def test_combiners(lines, type_, kind):
    body = fold(lines, type_)
    assert [c.kind for c in body.combiners] == [kind]
    assert body.reduction_passes == (1,)


@pytest.mark.parametrize(
    "lines",
    [
        "%r = arith.subf %acc, %x : f32",
        "%r = arith.addf %acc, %acc : f32",
        "%y = arith.mulf %acc, %x : f32 %r = arith.addf %y, %acc : f32",
        "%r = arith.mulf %x, %x : f32",
    ],
)
def test_no_combiner(lines):
    assert fold(lines).combiners == ()


def test_product_is_found_behind_casts():
    body = body_of(
        """func.func @f(%a: bf16, %b: bf16, %acc: f32) -> f32 {
          %x = arith.extf %a : bf16 to f32
          %y = arith.extf %b : bf16 to f32
          %m = arith.mulf %x, %y : f32
          %r = arith.addf %acc, %m : f32
          return %r : f32 }"""
    )
    assert body.combiners[0].factors is not None
    a = np.array([1.5, 2], BF16)
    left, right = body.factors([a, a, None])
    np.testing.assert_array_equal(left * right, [2.25, 4])


def test_accumulator_held_wider():
    body = body_of(
        """func.func @f(%a: bf16, %acc: bf16) -> bf16 {
          %x = arith.extf %a : bf16 to f32
          %y = arith.extf %acc : bf16 to f32
          %s = arith.addf %y, %x : f32
          %r = arith.truncf %s : f32 to bf16
          return %r : bf16 }"""
    )
    assert [c.kind for c in body.combiners] == ["add"]


def test_passes_count_tensor_operands():
    body = body_of(
        """func.func @f(%x: f32, %y: f32, %out: f32) -> f32 {
          %two = arith.constant 2.0 : f32
          %a = arith.mulf %x, %two : f32
          %b = arith.addf %a, %y : f32
          %c = arith.cmpf ogt, %b, %two : f32
          %d = arith.select %c, %b, %two : f32
          %e = arith.mulf %d, %d : f32
          return %e : f32 }"""
    )
    assert body.passes == (1, 2, 1, 1)  # the comparison is part of the maximum
    copy = body_of("func.func @f(%x: f32, %out: f32) -> f32 { return %x : f32 }")
    assert copy.passes == (1,)
    fill = body_of(
        "func.func @f(%out: f32) -> f32 { %z = arith.constant 0.0 : f32 return %z : f32 }"
    )
    assert fill.passes == (0,)
