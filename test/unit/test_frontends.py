"""Frontends: every kind of file, what it becomes, and what is refused with which words."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from polystage.errors import FrontendError
from polystage.evaluator.module_evaluator import evaluate
from polystage.frontends import ImportedModel, load
from polystage.mlir import ir
from polystage.passes.tensors.normalize import NORMALIZE_PIPELINE
from polystage.pipeline import run_pipeline

RNG = np.random.default_rng(0)


def value(name: str, shape: list, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def onnx_model(
    nodes: list, inputs: list, outputs: list, weights: dict | None = None, opset: int = 20
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        outputs,
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    domains = {node.domain for node in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def small_network(opset: int = 20, batch: int | str = 1) -> onnx.ModelProto:
    weights = {
        "w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "gamma": RNG.uniform(0.5, 2, 4).astype(np.float32),
        "beta": RNG.normal(size=4).astype(np.float32),
        "mean": RNG.normal(size=4).astype(np.float32),
        "var": RNG.uniform(0.5, 2, 4).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv1", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", *list(weights)[1:]], ["n"], "norm1"),
        helper.make_node("Relu", ["n"], ["y"], "relu1"),
    ]
    shape = [batch, 3, 9, 9]
    return onnx_model(nodes, [value("x", shape)], [value("y", [batch, 4, 5, 5])], weights, opset)


def random_inputs(model: ImportedModel) -> dict[str, np.ndarray]:
    return {
        s.name: (
            RNG.normal(size=s.shape) if s.dtype.kind == "f" else RNG.integers(0, 3, s.shape)
        ).astype(s.dtype)
        for s in model.inputs
    }


def assert_computes_its_reference(model: ImportedModel, tolerance: float = 1e-5) -> None:
    """The imported module and its normalised form give what the original gives."""
    inputs = random_inputs(model)
    expected = model.run_reference(inputs)
    assert set(expected) == {s.name for s in model.outputs}
    run_pipeline(model.module, NORMALIZE_PIPELINE)
    single = {n: a.astype("f4") if a.dtype == np.float64 else a for n, a in inputs.items()}
    found = evaluate(model.module, single)
    for spec in model.outputs:
        assert expected[spec.name].shape == spec.shape
        np.testing.assert_allclose(
            found[spec.name], expected[spec.name], rtol=tolerance, atol=tolerance
        )


def locations(model: ImportedModel) -> str:
    return model.module.operation.get_asm(enable_debug_info=True, large_elements_limit=4)


def message(source: object, **options: object) -> str:
    with pytest.raises(FrontendError) as error:
        load(source, **options)
    return str(error.value)


class TestOnnx:
    def test_small_network(self, tmp_path: Path) -> None:
        path = tmp_path / "small.onnx"
        onnx.save(small_network(), path)
        model = load(path)
        assert model.name == "small"
        assert [(s.name, s.shape, s.dtype) for s in model.inputs] == [("x", (1, 3, 9, 9), "f4")]
        assert [(s.name, s.shape, s.dtype) for s in model.outputs] == [("y", (1, 4, 5, 5), "f4")]
        assert model.reference == "onnxruntime"
        assert 'loc("conv1")' in locations(model)
        assert_computes_its_reference(model)

    def test_batch_norm_disappears(self) -> None:
        model = load(small_network())
        run_pipeline(model.module, NORMALIZE_PIPELINE)
        text = model.module.operation.get_asm(large_elements_limit=4)
        assert text.count("arith.mulf") == 1  # that of the convolution
        assert "math.sqrt" not in text

    @pytest.mark.parametrize("opset", [9, 13, 17, 21])
    def test_opsets(self, opset: int) -> None:
        model = load(small_network(opset))
        assert "conv1" in locations(model)
        assert_computes_its_reference(model)

    def test_bound_dimension(self) -> None:
        model = load(small_network(batch="batch"), bind={"batch": 2})
        assert model.inputs[0].shape == (2, 3, 9, 9)
        assert_computes_its_reference(model)

    def test_unbound_dimension(self) -> None:
        assert message(small_network(batch="batch")) == (
            "model: dimension 0 of input 'x' is dynamic ('batch'), but every shape must be known "
            "when the model is compiled\nhelp: give it an extent, e.g. --bind batch=1"
        )

    def test_bound_unnamed_dimension(self) -> None:
        model = small_network()
        model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
        assert "--bind x.0=1" in message(model)
        assert load(model, bind={"x.0": 1}).inputs[0].shape == (1, 3, 9, 9)

    def test_bind_of_no_dimension(self) -> None:
        assert message(small_network(batch="batch"), bind={"batch": 1, "n": 2}) == (
            "model: no dynamic dimension is called 'n'\n"
            "help: dynamic dimensions of its inputs: batch"
        )

    def test_weights_that_are_inputs_too(self) -> None:
        model = small_network()
        model.graph.input.append(value("w", [4, 3, 3, 3]))
        assert [s.name for s in load(model).inputs] == ["x"]

    def test_external_data(self, tmp_path: Path) -> None:
        path = tmp_path / "big.onnx"
        onnx.save(small_network(), path, save_as_external_data=True, size_threshold=0)
        assert_computes_its_reference(load(path))

    def test_external_data_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "big.onnx"
        onnx.save(
            small_network(), path, save_as_external_data=True, location="w.bin", size_threshold=0
        )
        (tmp_path / "w.bin").unlink()
        assert "w.bin" in message(path)

    def test_integers_and_gather(self) -> None:
        table = RNG.normal(size=(10, 4)).astype(np.float32)
        nodes = [helper.make_node("Gather", ["table", "i"], ["y"], "embedding")]
        inputs = [value("i", [2, 3], TensorProto.INT64)]
        model = load(onnx_model(nodes, inputs, [value("y", [2, 3, 4])], {"table": table}))
        assert model.inputs[0].dtype == np.int64
        assert_computes_its_reference(model)

    def test_doubles(self) -> None:
        nodes = [helper.make_node("Exp", ["x"], ["y"])]
        x, y = (value(n, [3], TensorProto.DOUBLE) for n in "xy")
        assert_computes_its_reference(load(onnx_model(nodes, [x], [y])))

    def test_missing_file(self) -> None:
        assert message("no/such.onnx") == "no such file: no/such.onnx"

    def test_truncated_file(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.onnx"
        content = small_network().SerializeToString()
        for length in (0, 1, 10, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            assert "not a complete ONNX file" in message(path)

    def test_custom_operator(self) -> None:
        nodes = [helper.make_node("Fused", ["x"], ["y"], "f1", domain="com.acme")]
        assert message(onnx_model(nodes, [value("x", [2])], [value("y", [2])])) == (
            "model: at 'f1': operator 'com.acme::Fused' is not supported; only the operators of "
            "ONNX are\nhelp: export the model without custom or runtime-specific operators"
        )

    def test_operator_that_the_importer_lacks(self) -> None:
        nodes = [helper.make_node("Foo", ["x"], ["y"], "f1")]
        text = message(onnx_model(nodes, [value("x", [2, 3])], [value("y", [2, 3])]))
        assert "'f1'" in text and "Foo" in text
        assert len(text.splitlines()) == 2

    def test_shape_that_depends_on_values(self) -> None:
        nodes = [helper.make_node("NonZero", ["x"], ["y"], "nz")]
        y = value("y", [1, None], TensorProto.INT64)
        assert "every shape must be known" in message(onnx_model(nodes, [value("x", [4])], [y]))


LINALG = """
func.func @f(%x: tensor<4x8xf32>, %w: tensor<8x5xf32>) -> tensor<4x5xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4x5xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<4x5xf32>) -> tensor<4x5xf32>
  %y = linalg.matmul ins(%x, %w : tensor<4x8xf32>, tensor<8x5xf32>) outs(%f : tensor<4x5xf32>)
    -> tensor<4x5xf32>
  return %y : tensor<4x5xf32>
}
"""
AFFINE = """
func.func @scale(%A: memref<6x5xf64>, %alpha: memref<1xf64>, %B: memref<6x5xf64>) {
  affine.for %i = 0 to 6 {
    affine.for %j = 0 to 5 {
      %a = affine.load %A[%i, %j] : memref<6x5xf64>
      %s = affine.load %alpha[0] : memref<1xf64>
      %p = arith.mulf %a, %s : f64
      affine.store %p, %B[%i, %j] : memref<6x5xf64>
    }
  }
  return
}
"""
MEMREFS = """
func.func @main(%x: memref<4xf32>) -> memref<4xf32> {
  %y = memref.alloc() : memref<4xf32>
  linalg.exp ins(%x : memref<4xf32>) outs(%y : memref<4xf32>)
  return %y : memref<4xf32>
}
"""


class TestMlir:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "program.mlir"
        path.write_text(text)
        return path

    def test_linalg_on_tensors(self, tmp_path: Path) -> None:
        model = load(self.write(tmp_path, LINALG))
        assert model.form == "tensors"
        assert [s.name for s in model.inputs] == ["x", "w"]
        assert [s.name for s in model.outputs] == ["result"]
        assert_computes_its_reference(model)

    def test_linalg_on_memrefs(self, tmp_path: Path) -> None:
        model = load(self.write(tmp_path, MEMREFS))
        assert model.form == "buffers"
        assert_computes_its_reference(model)

    def test_affine_loops_return_what_they_write(self, tmp_path: Path) -> None:
        model = load(self.write(tmp_path, AFFINE))
        assert [s.name for s in model.inputs] == ["A", "alpha", "B"]
        assert [s.name for s in model.outputs] == ["B"]
        assert model.inputs[0].dtype == np.float64
        assert_computes_its_reference(model)

    def test_bytecode(self, tmp_path: Path) -> None:
        path = tmp_path / "program.mlirbc"
        with ir.Context(), path.open("wb") as file:
            ir.Module.parse(LINALG).operation.write_bytecode(file)
        assert_computes_its_reference(load(path))

    def test_not_mlir(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "func.func @f( {")
        assert message(path).startswith(f"{path}:1:14: not valid MLIR: ")

    def test_several_functions(self, tmp_path: Path) -> None:
        text = "func.func @f() { return }\nfunc.func @g() { return }"
        assert message(self.write(tmp_path, text)).endswith(
            "program.mlir: expected one function with a body, found @f, @g\n"
            "help: call the function to compile @main"
        )

    def test_dynamic_shape(self, tmp_path: Path) -> None:
        text = "func.func @main(%x: tensor<?xf32>) -> tensor<?xf32> { return %x : tensor<?xf32> }"
        assert "every shape must be known" in message(self.write(tmp_path, text))

    def test_nothing_comes_out(self, tmp_path: Path) -> None:
        text = "func.func @main(%x: memref<4xf32>) { return }"
        assert message(self.write(tmp_path, text)).endswith(
            "the function has no result and writes to no argument"
        )

    def test_bind(self, tmp_path: Path) -> None:
        assert message(self.write(tmp_path, LINALG), bind={"batch": 1}) == (
            "dimension 'batch' cannot be bound: the shapes of a MLIR module are fixed\n"
            "help: export the model with the shapes to compile it for"
        )

    def test_missing_file(self) -> None:
        assert message("no/such.mlir") == "no such file: no/such.mlir"


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"")
    assert message(path).startswith(
        f"{path}: '.tflite' is no known kind of model\nhelp: known: .onnx"
    )


def test_unknown_kind_of_object() -> None:
    assert message(17).startswith("cannot import a int\nhelp: give a file")
