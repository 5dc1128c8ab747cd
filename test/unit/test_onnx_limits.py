"""What the ONNX frontend refuses or spells out because the importer gets it wrong."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import polystage as ps
from polystage.errors import FrontendError
from polystage.reference import jit_run, onnxruntime_run


def model_of(node, inputs, outputs, opset=22):
    def values(shapes):
        return [helper.make_tensor_value_info(n, t, s) for n, (t, s) in shapes.items()]

    graph = helper.make_graph([node], "g", values(inputs), values(outputs))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def refusal(model):
    with pytest.raises(FrontendError) as error:
        ps.load(model)
    return error.value.message


def test_invalid_grid_sample():
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], name="sample")
    shapes = {"x": (TensorProto.FLOAT, (1, 1, 3, 3)), "grid": (TensorProto.FLOAT, (1, 2, 2, 2))}
    assert refusal(model_of(node, shapes, {"y": (TensorProto.FLOAT, (1, 1, 2, 2))})) == (
        "model: at 'sample': operator 'GridSample' is not supported here: the importer computes it "
        "wrongly where a grid point lies outside the image"
    )


def test_invalid_number_of_inputs():
    """The importer dies of it."""
    node = helper.make_node("NonMaxSuppression", ["x"], ["y"], name="boxes")
    shapes = {"x": (TensorProto.FLOAT, (4,))}
    assert refusal(model_of(node, shapes, {"y": (TensorProto.INT64, None)})) == (
        "model: at 'boxes': operator 'NonMaxSuppression' is not valid: it has input size 1 not in "
        "range [min=2, max=5]"
    )


def test_invalid_missing_input():
    """The importer dies of it too."""
    node = helper.make_node("NonMaxSuppression", ["x", ""], ["y"], name="boxes")
    shapes = {"x": (TensorProto.FLOAT, (1, 4, 4))}
    assert refusal(model_of(node, shapes, {"y": (TensorProto.INT64, None)})) == (
        "model: at 'boxes': operator 'NonMaxSuppression' is not valid: its input 'scores' is "
        "missing"
    )


def test_invalid_node_in_a_body():
    y = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    inner = helper.make_node("NonMaxSuppression", ["x"], ["y"], name="boxes")
    body = helper.make_graph([inner], "body", [], [y])
    node = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    shapes = {"c": (TensorProto.BOOL, ()), "x": (TensorProto.FLOAT, (1, 4, 4))}
    assert refusal(model_of(node, shapes, {"z": (TensorProto.INT64, None)})) == (
        "model: at 'boxes': operator 'NonMaxSuppression' is not valid: it has input size 1 not in "
        "range [min=2, max=5]"
    )


@pytest.mark.parametrize("opset", [11, 22])
def test_invalid_number_of_outputs(opset):
    node = helper.make_node("Unique", ["x"], [], name="unique")
    shapes = {"x": (TensorProto.FLOAT, (4,))}
    model = model_of(node, shapes, {"y": (TensorProto.FLOAT, None)}, opset=opset)
    assert "Output 0 is out of bounds" in refusal(model)


def test_invalid_unique():
    """The importer dies where some of its outputs are left out."""
    node = helper.make_node("Unique", ["x"], ["y"], name="unique")
    shapes = {"x": (TensorProto.FLOAT, (4,))}
    assert refusal(model_of(node, shapes, {"y": (TensorProto.FLOAT, None)})) == (
        "model: at 'unique': operator 'Unique' is not supported here: how many elements its "
        "results have depends on values"
    )


def test_invalid_determinant_in_a_body():
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Det", ["x"], ["y"], name="det")], "body", [], [y])
    node = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    shapes = {"c": (TensorProto.BOOL, ()), "x": (TensorProto.FLOAT, (2, 2))}
    assert refusal(model_of(node, shapes, {"z": (TensorProto.FLOAT, None)})) == (
        "model: at 'det': operator 'Det' is not supported here: the importer computes it without "
        "exchanging rows, so that a pivot of 0 gives NaN"
    )


def test_invalid_determinant():
    node = helper.make_node("Det", ["x"], ["y"], name="det")
    shapes = {"x": (TensorProto.FLOAT, (2, 2))}
    assert refusal(model_of(node, shapes, {"y": (TensorProto.FLOAT, ())})) == (
        "model: at 'det': operator 'Det' is not supported here: the importer computes it without "
        "exchanging rows, so that a pivot of 0 gives NaN"
    )


def test_invalid_peepholes():
    inputs = {
        "x": (1, 2, 3),
        "w": (1, 16, 3),
        "r": (1, 16, 4),
        "b": (1, 32),
        "h": (1, 2, 4),
        "c": (1, 2, 4),
        "p": (1, 12),
    }
    names = ["x", "w", "r", "b", "", "h", "c", "p"]
    node = helper.make_node("LSTM", names, ["", "y"], name="lstm", hidden_size=4)
    shapes = {n: (TensorProto.FLOAT, s) for n, s in inputs.items()}
    assert refusal(model_of(node, shapes, {"y": (TensorProto.FLOAT, (1, 2, 4))})) == (
        "model: at 'lstm': operator 'LSTM' is not supported here: the importer ignores the "
        "peephole weights"
    )


def test_invalid_aligned_corners():
    node = helper.make_node(
        "Resize",
        ["x", "", "scales"],
        ["y"],
        name="resize",
        mode="linear",
        coordinate_transformation_mode="align_corners",
    )
    inputs = {"x": (TensorProto.FLOAT, (1, 1, 2, 4)), "scales": (TensorProto.FLOAT, (4,))}
    assert refusal(model_of(node, inputs, {"y": (TensorProto.FLOAT, (1, 1, 1, 2))})) == (
        "model: at 'resize': operator 'Resize' is not supported here: with align_corners the "
        "importer takes the ratio of the extents for the scales"
    )


def test_invalid_scan_with_batch():
    x = helper.make_tensor_value_info("in", TensorProto.FLOAT, (2,))
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, (2,))
    body = helper.make_graph([helper.make_node("Relu", ["in"], ["out"])], "body", [x], [out])
    node = helper.make_node("Scan", ["", "x"], ["y"], body=body, num_scan_inputs=1)
    spec = (TensorProto.FLOAT, (1, 3, 2))
    assert refusal(model_of(node, {"x": spec}, {"y": spec}, opset=8)) == (
        "model: the Scan of opset 8 has a batch dimension, which the conversion to opset 17 loses"
    )


def test_invalid_empty_operand():
    node = helper.make_node("ReduceSum", ["x"], ["y"], name="sum", keepdims=0)
    shapes = {"x": (TensorProto.FLOAT, (2, 0))}
    assert refusal(model_of(node, shapes, {"y": (TensorProto.FLOAT, ())})) == (
        "model: at 'sum': operator 'ReduceSum' is not supported here: its operand 'x' of shape "
        "[2, 0] has no elements"
    )


def test_invalid_empty_output():
    node = helper.make_node("Relu", ["x"], ["y"])
    empty = (TensorProto.FLOAT, (2, 0))
    message = "model: output 'y' of shape [2, 0] has no elements"
    assert refusal(model_of(node, {"x": empty}, {"y": empty})) == message


@pytest.mark.parametrize("norm", [1, 2])
def test_normalising_zeros_gives_zeros(norm):
    node = helper.make_node("LpNormalization", ["x"], ["y"], axis=0, p=norm)
    float_2x2 = (TensorProto.FLOAT, (2, 2))
    model = model_of(node, {"x": float_2x2}, {"y": float_2x2})
    x = np.array([[3, 0], [4, 0]], np.float32)
    (actual,) = jit_run(ps.load(model).module, {"x": x})
    np.testing.assert_allclose(actual, x / np.maximum(np.linalg.norm(x, norm, axis=0), 1))


def test_unsigned_zero_points_along_an_axis():
    node = helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["y"], axis=0)
    inputs = {
        "x": (TensorProto.UINT8, (2, 3)),
        "scale": (TensorProto.FLOAT, (2,)),
        "zero": (TensorProto.UINT8, (2,)),
    }
    model = model_of(node, inputs, {"y": (TensorProto.FLOAT, (2, 3))}, opset=21)
    arrays = {
        "x": np.array([[0, 100, 255], [1, 2, 200]], np.uint8),
        "scale": np.array([0.5, 2], np.float32),
        "zero": np.array([200, 3], np.uint8),
    }
    (actual,) = jit_run(ps.load(model).module, arrays)
    np.testing.assert_array_equal(actual, onnxruntime_run(model, arrays)["y"])


def test_quantised_product_of_batches():
    random = np.random.default_rng(0)
    arrays = {
        "a": random.integers(0, 256, (2, 3, 4)).astype(np.uint8),
        "b": random.integers(0, 256, (2, 4, 5)).astype(np.uint8),
    }
    for name, scale, zero in (("a", 0.01, 120), ("b", 0.02, 130), ("y", 0.03, 110)):
        arrays |= {f"{name}_scale": np.float32(scale), f"{name}_zero": np.uint8(zero)}
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"]
    node = helper.make_node("QLinearMatMul", names, ["y"])
    types = {np.uint8: TensorProto.UINT8, np.float32: TensorProto.FLOAT}
    inputs = {n: (types[arrays[n].dtype.type], arrays[n].shape) for n in names}
    model = model_of(node, inputs, {"y": (TensorProto.UINT8, (2, 3, 5))}, opset=21)
    arrays = {n: np.asarray(a) for n, a in arrays.items()}
    (actual,) = jit_run(ps.load(model).module, arrays)
    np.testing.assert_array_equal(actual.view(np.uint8), onnxruntime_run(model, arrays)["y"])


def test_unsigned_outputs_stay_unsigned():
    node = helper.make_node("Max", ["x", "x"], ["y"])
    spec = (TensorProto.UINT8, (3,))
    model = ps.load(model_of(node, {"x": spec}, {"y": spec}))
    program = ps.compile(model.module, target="neuroncore_v2", dtype="f32")
    x = np.array([1, 128, 255], np.uint8)
    outputs = ps.simulate(program, {"x": x}).outputs
    np.testing.assert_array_equal(outputs["y"], x)
    assert outputs["y"].dtype == np.uint8
