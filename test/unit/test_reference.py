"""The reference: upstream's JIT against numpy, dtype by dtype."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from polystage.dialects import npu
from polystage.errors import PolystageError
from polystage.evaluator.module_evaluator import evaluate
from polystage.mlir import ir
from polystage.reference import jit_run, onnxruntime_run

RNG = np.random.default_rng(0)
MATMUL = (
    """
func.func @main(%a: tensor<4x8xf32> {{npu.name = "a"}}, %b: tensor<8x5xf32> {{npu.name = "b"}})
    -> (tensor<4x5xf32>, tensor<6x7xf32>) {{
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4x5xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<4x5xf32>) -> tensor<4x5xf32>
  %c = linalg.matmul ins(%a, %b : tensor<4x8xf32>, tensor<8x5xf32>) outs(%f : tensor<4x5xf32>)
    -> tensor<4x5xf32>
  %p = tensor.pad %c low[1, 1] high[1, 1] {{
  ^bb0(%i: index, %j: index):
    tensor.yield %zero : f32
  }} : tensor<4x5xf32> to tensor<6x7xf32>
  return %c, %p : tensor<4x5xf32>, tensor<6x7xf32>
}}
""".format()
    .replace('{npu.name = "a"}', "")
    .replace('{npu.name = "b"}', "")
)
ELEMENTWISE = """
func.func @main(%x: memref<3x4x{0}>) -> memref<3x4x{0}> {{
  %y = memref.alloc() : memref<3x4x{0}>
  linalg.generic {{
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]
    }} ins(%x : memref<3x4x{0}>) outs(%y : memref<3x4x{0}>) {{
  ^bb0(%a: {0}, %b: {0}):
    %r = {1} : {0}
    linalg.yield %r : {0}
  }}
  return %y : memref<3x4x{0}>
}}
"""


def test_tensors() -> None:
    a, b = RNG.normal(size=(4, 8)).astype("f4"), RNG.normal(size=(8, 5)).astype("f4")
    product, padded = jit_run(MATMUL, [a, b])
    np.testing.assert_allclose(product, a @ b, rtol=1e-5)
    np.testing.assert_allclose(padded, np.pad(a @ b, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("type_", "dtype", "operation", "function"),
    [
        ("f32", np.float32, "math.erf %a", None),
        ("f32", np.float32, "math.tanh %a", np.tanh),
        ("f64", np.float64, "math.exp %a", np.exp),
        ("bf16", ml_dtypes.bfloat16, "arith.addf %a, %a", lambda x: x + x),
        ("f16", np.float16, "arith.mulf %a, %a", lambda x: x * x),
        ("bf16", ml_dtypes.bfloat16, "math.exp %a", np.exp),
        ("i8", np.int8, "arith.addi %a, %a", lambda x: x + x),
        ("i64", np.int64, "arith.muli %a, %a", lambda x: x * x),
    ],
)
def test_dtypes(type_: str, dtype: type, operation: str, function: object) -> None:
    x = (RNG.normal(size=(3, 4)) * 2).astype(dtype)
    (y,) = jit_run(ELEMENTWISE.format(type_, operation), [x])
    assert y.dtype == dtype
    if function is not None:
        expected = function(x)
        tolerance = 1e-2 if y.dtype.itemsize < 4 else 1e-5
        np.testing.assert_allclose(y.astype("f8"), expected.astype("f8"), rtol=tolerance)


def test_function_without_results_returns_its_arguments() -> None:
    text = """
    func.func @main(%x: memref<4xf64>, %y: memref<4xf64>) {
      affine.for %i = 0 to 4 {
        %a = affine.load %x[%i] : memref<4xf64>
        affine.store %a, %y[3 - %i] : memref<4xf64>
      }
      return
    }"""
    x, y = np.arange(4.0), np.zeros(4)
    found = jit_run(text, [x, y])
    np.testing.assert_array_equal(found[1], x[::-1])
    assert not y.any()


def test_large_constants_and_the_module_stay_as_they_are() -> None:
    w = RNG.normal(size=100).astype(np.float32)
    elements = ", ".join(map(str, w))
    text = f"""
    memref.global "private" constant @w : memref<100xf32> = dense<[{elements}]>
    func.func @main() -> memref<100xf32> {{
      %w = memref.get_global @w : memref<100xf32>
      return %w : memref<100xf32>
    }}"""
    with ir.Context():
        module = ir.Module.parse(text)
        before = str(module)
        for _ in range(2):
            np.testing.assert_allclose(jit_run(module, [])[0], w, rtol=1e-6)
        assert str(module) == before


def test_strided_result() -> None:
    text = """
    func.func @main(%x: memref<4x6xf32>) -> memref<2x3xf32, strided<[6, 1], offset: 8>> {
      %v = memref.subview %x[1, 2] [2, 3] [1, 1]
        : memref<4x6xf32> to memref<2x3xf32, strided<[6, 1], offset: 8>>
      return %v : memref<2x3xf32, strided<[6, 1], offset: 8>>
    }"""
    x = RNG.normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_array_equal(jit_run(text, [x])[0], x[1:3, 2:5])


OVERLAYS = """
#id = affine_map<(i, j) -> (i, j)>
memref.global "private" constant @table : memref<4x6xf32> = dense<7.0>
func.func @main(%a: memref<2x3xf32>, %b: memref<2x2xf32>, %padded: memref<4x6xf32>,
                %sum: memref<4x6xf32>) {
  %table = memref.get_global @table : memref<4x6xf32>
  %p = "npu.overlay"(%a) {offsets = array<i64: 1, 1>, fill = -0.5 : f32}
    : (memref<2x3xf32>) -> memref<4x6xf32>
  %q = "npu.overlay"(%b, %p) {offsets = array<i64: 0, 3>}
    : (memref<2x2xf32>, memref<4x6xf32>) -> memref<4x6xf32>
  %t = "npu.overlay"(%a, %table) {offsets = array<i64: 2, 0>}
    : (memref<2x3xf32>, memref<4x6xf32>) -> memref<4x6xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
    ins(%p : memref<4x6xf32>) outs(%padded : memref<4x6xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  }
  %corner = memref.subview %padded[0, 0] [2, 2] [1, 1]
    : memref<4x6xf32> to memref<2x2xf32, strided<[6, 1]>>
  memref.copy %corner, %b : memref<2x2xf32, strided<[6, 1]>> to memref<2x2xf32>
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c3 = arith.constant 3 : index
  scf.for %k = %c0 to %c3 step %c1 {
    linalg.generic {indexing_maps = [#id, #id, #id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%q, %q, %t : memref<4x6xf32>, memref<4x6xf32>, memref<4x6xf32>)
      outs(%sum : memref<4x6xf32>) {
    ^bb0(%x: f32, %y: f32, %z: f32, %old: f32):
      %s = arith.addf %x, %z : f32
      %u = arith.addf %s, %old : f32
      linalg.yield %u : f32
    }
    memref.copy %corner, %b : memref<2x2xf32, strided<[6, 1]>> to memref<2x2xf32>
  }
  return
}"""


def test_overlays_show_what_their_operands_hold_when_they_are_read() -> None:
    a, b = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3), (2, 2)))
    padded, total = np.zeros((4, 6), np.float32), np.zeros((4, 6), np.float32)
    with ir.Context() as context, ir.Location.unknown():
        npu.load(context)
        module = ir.Module.parse(OVERLAYS)
        before = str(module)
        jitted = jit_run(module, [a, b, padded, total])
        evaluated = evaluate(module, [a, b, padded, total]).values()
        assert str(module) == before
    padded[...] = -0.5
    padded[1:3, 1:4] = a
    laid = np.array(padded)
    laid[:2, 3:5] = padded[:2, :2]
    table = np.full((4, 6), 7.0, np.float32)
    table[2:, :3] = a
    for _ in range(3):
        total += laid + table
    for results in (jitted, list(evaluated)):
        np.testing.assert_array_equal(results[2], padded)
        np.testing.assert_allclose(results[3], total, rtol=1e-6)


def test_elements_under_no_overlay_are_undefined() -> None:
    text = """
    #id = affine_map<(i) -> (i)>
    func.func @main(%a: memref<2xf32>, %o: memref<3xf32>) {
      %p = "npu.overlay"(%a) {offsets = array<i64: 1>} : (memref<2xf32>) -> memref<3xf32>
      linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
        ins(%p : memref<3xf32>) outs(%o : memref<3xf32>) {
      ^bb0(%x: f32, %y: f32):
        linalg.yield %x : f32
      }
      return
    }"""
    a, o = np.ones(2, np.float32), np.zeros(3, np.float32)
    np.testing.assert_array_equal(jit_run(text, [a, o])[1][1:], a)
    with ir.Context() as context:
        npu.load(context)
        shown = evaluate(ir.Module.parse(text), [a, o])["arg1"]
    np.testing.assert_array_equal(shown, [np.nan, 1, 1])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "@main takes 2 inputs, but 0 were given"),
        (
            [np.zeros((4, 9), "f4"), np.zeros((8, 5), "f4")],
            "input 0 is float32[4, 9], but @main takes float32[4, 8]",
        ),
    ],
)
def test_wrong_inputs(inputs: list, message: str) -> None:
    with pytest.raises(PolystageError) as error:
        jit_run(MATMUL, inputs)
    assert error.value.message == message


def test_no_main() -> None:
    with pytest.raises(PolystageError) as error:
        jit_run("module {}", [])
    assert error.value.message == "the module has no function @main"


def test_onnxruntime() -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "g", [x], [y])
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    array = RNG.normal(size=3).astype(np.float32)
    np.testing.assert_allclose(onnxruntime_run(model, {"x": array})["y"], np.exp(array), rtol=1e-6)
    bad = onnx.ModelProto()
    with pytest.raises(PolystageError, match="onnxruntime: "):
        onnxruntime_run(bad, {})


def test_arithmetic_on_tensors() -> None:
    text = """func.func @main(%x: tensor<3xf32>) -> tensor<3xf32> {
      %y = arith.addf %x, %x : tensor<3xf32>
      return %y : tensor<3xf32>
    }"""
    (found,) = jit_run(text, [np.float32([1, 2, 3])])
    assert found.tolist() == [2, 4, 6]
