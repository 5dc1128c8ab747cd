"""Evaluation of modules on numpy arrays, against numpy."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.errors import PolystageError
from polystage.evaluator.module_evaluator import evaluate, evaluate_generic
from polystage.mlir import ir

BF16 = np.dtype(ml_dtypes.bfloat16)


def module_of(text):
    with ir.Context(), ir.Location.unknown():
        return ir.Module.parse(text)


def generic(maps, iterators, ins, outs, body, loops):
    """Return the text of a linalg.generic on memrefs given as (name, type)."""
    maps = ", ".join(f"affine_map<({loops}) -> ({m})>" for m in maps)
    kinds = ", ".join('"parallel"' if c == "p" else '"reduction"' for c in iterators)
    lists = [
        f"{', '.join(n for n, _ in group)} : {', '.join(t for _, t in group)}"
        for group in (ins, outs)
    ]
    elements = [t.rstrip(">").split("x")[-1].removeprefix("memref<") for _, t in (*ins, *outs)]
    arguments = ", ".join(f"%b{i}: {t}" for i, t in enumerate(elements))
    given = f"ins({lists[0]})" if ins else ""
    return (
        f"linalg.generic {{indexing_maps = [{maps}], iterator_types = [{kinds}]}} "
        f"{given} outs({lists[1]}) {{ ^bb0({arguments}): {body} }}"
    )


def function(arguments, lines, results=()):
    signature = ", ".join(f"{n}: {t}" for n, t in arguments)
    types = ", ".join(t for _, t in results)
    names = ", ".join(n for n, _ in results)
    returned = f"return {names} : {types}" if results else "return"
    arrow = f"-> ({types})" if results else ""
    return f"func.func @main({signature}) {arrow} {{ {lines} {returned} }}"


MAC = "%m = arith.mulf %b0, %b1 : f32 %s = arith.addf %b2, %m : f32 linalg.yield %s : f32"


def test_convolution_with_stride_and_groups():
    x, w, y = "memref<2x6x9x9xf32>", "memref<2x4x3x3x3xf32>", "memref<2x2x4x4x4xf32>"
    grouped = "memref<2x2x3x9x9xf32>"
    lines = (
        f"%g = memref.expand_shape %x [[0], [1, 2], [3], [4]] output_shape [2, 2, 3, 9, 9] : "
        f"{x} into {grouped} "
    )
    lines += generic(
        ["n, g, c, y * 2 + p, x * 2 + q", "g, f, c, p, q", "n, g, f, y, x"],
        "ppppprrr",
        [("%g", grouped), ("%w", w)],
        [("%y", y)],
        MAC,
        "n, g, f, y, x, c, p, q",
    )
    module = module_of(function([("%x", x), ("%w", w), ("%y", y)], lines, [("%y", y)]))
    rng = np.random.default_rng(0)
    x, w = (
        rng.standard_normal((2, 6, 9, 9), np.float32),
        rng.standard_normal((2, 4, 3, 3, 3), np.float32),
    )
    start = rng.standard_normal((2, 2, 4, 4, 4), np.float32)
    got = evaluate(module, [x, w, start])["result0"]
    windows = np.lib.stride_tricks.sliding_window_view(x.reshape(2, 2, 3, 9, 9), (3, 3), (3, 4))
    expected = start + np.einsum("ngcyxpq,gfcpq->ngfyx", windows[:, :, :, ::2, ::2], w)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_integer_contraction_is_exact():
    a, c = "memref<5x70xi8>", "memref<5x6xi32>"
    b = "memref<70x6xi8>"
    body = (
        "%x = arith.extsi %b0 : i8 to i32 %y = arith.extsi %b1 : i8 to i32 "
        "%m = arith.muli %x, %y : i32 %s = arith.addi %b2, %m : i32 linalg.yield %s : i32"
    )
    lines = generic(
        ["m, k", "k, n", "m, n"], "ppr", [("%a", a), ("%b", b)], [("%c", c)], body, "m, n, k"
    )
    module = module_of(function([("%a", a), ("%b", b), ("%c", c)], lines, [("%c", c)]))
    rng = np.random.default_rng(0)
    a, b = (
        rng.integers(-128, 128, (5, 70)).astype(np.int8),
        rng.integers(-128, 128, (70, 6)).astype(np.int8),
    )
    got = evaluate(module, [a, b, np.full((5, 6), 2**30, np.int32)])["result0"]
    np.testing.assert_array_equal(got, a.astype(np.int32) @ b.astype(np.int32) + 2**30)


def test_bf16_sums_are_held_in_f32():
    x, y = "memref<4x1000xbf16>", "memref<4xbf16>"
    lines = generic(
        ["m, k", "m"], "pr", [("%x", x)], [("%y", y)],
        "%s = arith.addf %b1, %b0 : bf16 linalg.yield %s : bf16", "m, k",
    )  # fmt: skip
    module = module_of(function([("%x", x), ("%y", y)], lines, [("%y", y)]))
    ones = np.ones((4, 1000), BF16)
    got = evaluate(module, [ones, np.zeros(4, BF16)])["result0"]
    np.testing.assert_array_equal(got.astype(np.float32), 1000)


@pytest.mark.parametrize("compare", ["ogt", "ugt"])
def test_maximum_with_nan_keeps_the_order_of_the_program(compare):
    x, y = "memref<2x5xf32>", "memref<2xf32>"
    body = (
        f"%c = arith.cmpf {compare}, %b0, %b1 : f32 "
        "%r = arith.select %c, %b0, %b1 : f32 linalg.yield %r : f32"
    )
    lines = generic(["m, k", "m"], "pr", [("%x", x)], [("%y", y)], body, "m, k")
    module = module_of(function([("%x", x), ("%y", y)], lines, [("%y", y)]))
    values = np.float32([[1, 7, np.nan, 2, 3], [1, 2, 9, 4, np.nan]])
    expected = []
    for row in values:
        best = np.float32(-np.inf)
        for v in row:
            unordered = np.isnan(v) or np.isnan(best)
            best = v if v > best or (compare == "ugt" and unordered) else best
        expected.append(best)
    got = evaluate(module, [values, np.full(2, -np.inf, np.float32)])["result0"]
    np.testing.assert_array_equal(got, np.float32(expected))


def test_index_and_gather():
    t, i, y = "memref<9x4xf32>", "memref<3xi64>", "memref<3x4xf32>"
    body = (
        "%r = arith.index_cast %b0 : i64 to index %c = linalg.index 1 : index "
        "%v = memref.load %t[%r, %c] : memref<9x4xf32> linalg.yield %v : f32"
    )
    lines = generic(["m", "m, n"], "pp", [("%i", i)], [("%y", y)], body, "m, n")
    module = module_of(function([("%t", t), ("%i", i), ("%y", y)], lines, [("%y", y)]))
    table, index = np.arange(36, dtype=np.float32).reshape(9, 4), np.int64([8, 0, 3])
    got = evaluate(module, [table, index, np.zeros((3, 4), np.float32)])["result0"]
    np.testing.assert_array_equal(got, table[index])


def test_quasi_affine_reads():
    x, y = "memref<3x4xf32>", "memref<12xf32>"
    lines = generic(
        ["i floordiv 4, i mod 4", "i"], "p", [("%x", x)], [("%y", y)], "linalg.yield %b0 : f32", "i"
    )
    module = module_of(function([("%x", x), ("%y", y)], lines, [("%y", y)]))
    values = np.arange(12, dtype=np.float32)
    got = evaluate(module, [values.reshape(3, 4), np.zeros(12, np.float32)])["result0"]
    np.testing.assert_array_equal(got, values)


def test_views_alias():
    text = """
    func.func @main(%x: memref<4x6xf32>) -> (memref<4x6xf32>, memref<2x3xf32>) {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c2 = arith.constant 2 : index
      %z = arith.constant 0.0 : f32
      %v = memref.subview %x[1, 0] [2, 3] [2, 2] :
        memref<4x6xf32> to memref<2x3xf32, strided<[12, 2], offset: 6>>
      %o = memref.alloc() : memref<2x3xf32>
      memref.copy %v, %o : memref<2x3xf32, strided<[12, 2], offset: 6>> to memref<2x3xf32>
      %row = memref.subview %x[3, 0] [1, 6] [1, 1] :
        memref<4x6xf32> to memref<6xf32, strided<[1], offset: 18>>
      linalg.fill ins(%z : f32) outs(%row : memref<6xf32, strided<[1], offset: 18>>)
      %t = memref.transpose %v (a, b) -> (b, a) :
        memref<2x3xf32, strided<[12, 2], offset: 6>> to memref<3x2xf32, strided<[2, 12], offset: 6>>
      %r = memref.reinterpret_cast %x to offset: [2], sizes: [4], strides: [6] :
        memref<4x6xf32> to memref<4xf32, strided<[6], offset: 2>>
      scf.for %i = %c0 to %c2 step %c1 {
        %e = memref.load %t[%c0, %i] : memref<3x2xf32, strided<[2, 12], offset: 6>>
        memref.store %e, %r[%i] : memref<4xf32, strided<[6], offset: 2>>
      }
      return %x, %o : memref<4x6xf32>, memref<2x3xf32>
    }"""
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    got = evaluate(module_of(text), {"arg0": x})
    np.testing.assert_array_equal(got["result1"], x[1::2, ::2])
    expected = x.copy()
    expected[3] = 0
    for i in range(2):
        expected[i, 2] = expected[1 + 2 * i, 0]
    np.testing.assert_array_equal(got["result0"], expected)
    assert x[3, 0] == 18  # the caller's array stays


def test_affine_loops():
    text = """
    func.func @main(%a: memref<5x7xf32>, %s: memref<5xf32>) {
      affine.for %i = 0 to 5 {
        affine.for %j = affine_map<(d) -> (d)>(%i) to 7 step 2 {
          %x = affine.load %a[%i, %j] : memref<5x7xf32>
          %y = affine.load %s[%i] : memref<5xf32>
          %z = arith.addf %x, %y : f32
          affine.store %z, %s[%i] : memref<5xf32>
        }
      }
      return
    }"""
    a = np.random.default_rng(0).standard_normal((5, 7), np.float32)
    got = evaluate(module_of(text), [a, np.zeros(5, np.float32)])["arg1"]
    np.testing.assert_allclose(got, [a[i, i::2].sum() for i in range(5)], rtol=1e-5)


def test_tensors():
    text = """
    func.func @main(%x: tensor<2x3xf32> {npu.name = "x"}) -> (tensor<3x6xf32> {npu.name = "y"}) {
      %z = arith.constant 0.5 : f32
      %w = arith.constant dense<[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]> : tensor<2x3xf32>
      %p = tensor.pad %x low[0, 1] high[1, 2] {
        ^bb0(%i: index, %j: index): tensor.yield %z : f32
      } : tensor<2x3xf32> to tensor<3x6xf32>
      %s = tensor.extract_slice %w[0, 1] [1, 2] [1, 1] : tensor<2x3xf32> to tensor<2xf32>
      %r = tensor.insert_slice %s into %p[2, 4] [1, 2] [1, 1] : tensor<2xf32> into tensor<3x6xf32>
      %e = tensor.empty() : tensor<3x6xf32>
      %t = linalg.add ins(%r, %r : tensor<3x6xf32>, tensor<3x6xf32>)
        outs(%e : tensor<3x6xf32>) -> tensor<3x6xf32>
      return %t : tensor<3x6xf32>
    }"""
    x = np.float32([[1, 2, 3], [4, 5, 6]])
    expected = np.pad(x, [(0, 1), (1, 2)], constant_values=0.5)
    expected[2, 4:] = [2, 3]
    np.testing.assert_array_equal(evaluate(module_of(text), {"x": x})["y"], 2 * expected)


def test_generic_alone():
    text = """
    func.func @main(%x: tensor<4xf32>, %o: tensor<4xf32>) -> tensor<4xf32> {
      %r = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
          iterator_types = ["parallel"]} ins(%x : tensor<4xf32>) outs(%o : tensor<4xf32>) {
        ^bb0(%a: f32, %b: f32):
          %e = math.exp %a : f32
          linalg.yield %e : f32
      } -> tensor<4xf32>
      return %r : tensor<4xf32>
    }"""
    module = module_of(text)
    op = next(iter(module.body.operations[0].regions[0].blocks[0].operations))
    x = np.linspace(-1, 1, 4, dtype=np.float32)
    np.testing.assert_array_equal(evaluate_generic(op, [x, None])[0], np.exp(x))


def test_invalid_inputs():
    module = module_of(
        "func.func @main(%x: memref<2xf32>) -> memref<2xf32> { return %x : memref<2xf32> }"
    )
    with pytest.raises(PolystageError, match="input 'arg0' is missing"):
        evaluate(module)
    with pytest.raises(PolystageError, match=r"input 'arg0' has shape \[3\], not \[2\]"):
        evaluate(module, [np.zeros(3, np.float32)])


def test_invalid_operation():
    module = module_of("func.func @main() { %t = llvm.mlir.zero : !llvm.ptr return }")
    with pytest.raises(PolystageError, match=r"cannot evaluate operation 'llvm\.mlir\.zero'"):
        evaluate(module)


def test_memory_that_nothing_wrote_shows():
    module = module_of(
        "func.func @main() -> memref<2xf32> "
        "{ %x = memref.alloc() : memref<2xf32> return %x : memref<2xf32> }"
    )
    assert np.isnan(evaluate(module)["result0"]).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=5, max_size=5),
    st.permutations("abkmn"),
    st.sets(st.sampled_from("abkmn"), min_size=1),
    st.sets(st.sampled_from("abkmn"), min_size=1),
    st.sets(st.sampled_from("abkmn"), min_size=1),
    st.integers(0, 1000),
)
def test_any_contraction_against_einsum(sizes, order, left, right, out, seed):
    """Sums over dimensions of one operand only, batches, repeats: whatever the maps say."""
    extent = dict(zip("abkmn", sizes, strict=True))
    used = left | right
    out = out & used or {next(iter(sorted(used)))}
    dims = [d for d in order if d in used]
    names = ["".join(d for d in order if d in group) for group in (left, right, out)]
    types = ["memref<" + "x".join([*(str(extent[d]) for d in n), "f32"]) + ">" for n in names]
    lines = generic(
        [", ".join(n) for n in names],
        "".join("p" if d in out else "r" for d in dims),
        list(zip(["%x", "%y"], types, strict=False)),
        [("%z", types[2])],
        MAC,
        ", ".join(dims),
    )
    arguments = list(zip(["%x", "%y", "%z"], types, strict=True))
    module = module_of(function(arguments, lines, [("%z", types[2])]))
    rng = np.random.default_rng(seed)
    x, y, z = (rng.standard_normal([extent[d] for d in n]).astype(np.float32) for n in names)
    expected = z + np.einsum(f"{names[0]},{names[1]}->{names[2]}", x, y)
    np.testing.assert_allclose(
        evaluate(module, [x, y, z])["result0"], expected, rtol=1e-3, atol=1e-4
    )


def test_an_operand_passed_on_is_not_seen_as_another_output_overwrites_it():
    memref = "memref<3xi32>"
    body = "%s = arith.addi %b0, %b0 : i32 linalg.yield %s, %b0 : i32, i32"
    lines = "%y = memref.alloc() : memref<3xi32> " + generic(
        ["i", "i", "i"], "p", [("%x", memref)], [("%x", memref), ("%y", memref)], body, "i"
    )
    module = module_of(function([("%x", memref)], lines, [("%y", memref)]))
    np.testing.assert_array_equal(evaluate(module, [np.arange(3)])["result0"], [0, 1, 2])
