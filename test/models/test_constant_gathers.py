"""Gathers in a constant order, as frontends import them: none is left, results stay the same."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import polystage as ps
from polystage.passes.tensors.normalize import BUFFERIZE, PREPARE
from polystage.pipeline import run_pipeline
from polystage.polyhedral import TensorProgram
from polystage.reference import jit_run

SHAPE = (2, 8, 3)
SHUFFLE = [0, 4, 1, 5, 2, 6, 3, 7]


def onnx_gather(
    kind: str, constants: Sequence[Any], function: Callable[..., np.ndarray], **attributes: Any
) -> tuple[onnx.ModelProto, Callable[..., np.ndarray]]:
    """Return `exp(kind(relu(x), constants))` as a model, and what it computes."""

    def expected(x: np.ndarray) -> np.ndarray:
        return np.exp(function(np.maximum(x, 0)))

    names = [f"c{i}" for i in range(len(constants))]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node(kind, ["a", *names], ["b"], **attributes),
        helper.make_node("Exp", ["b"], ["y"]),
    ]
    shape = expected(np.zeros(SHAPE, np.float32)).shape
    graph = helper.make_graph(
        nodes,
        "gather",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.array(c, np.int64), n)
            for n, c in zip(names, constants, strict=True)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model, expected


GRID = [[r + c for c in range(5)] for r in range(4)]
COLUMNS = np.broadcast_to(np.array(SHUFFLE)[None, :, None], SHAPE)
MODELS = {
    "reversed": onnx_gather("Gather", [range(7, -1, -1)], lambda x: x[:, ::-1], axis=1),
    "from_the_end": onnx_gather("Gather", [range(-1, -9, -1)], lambda x: x[:, ::-1], axis=1),
    "shuffled": onnx_gather("Gather", [SHUFFLE], lambda x: x[:, SHUFFLE], axis=1),
    "rotated": onnx_gather(
        "Gather", [np.roll(range(8), 3)], lambda x: np.roll(x, 3, axis=1), axis=1
    ),
    "frames": onnx_gather("Gather", [GRID], lambda x: x[:, GRID], axis=1),
    "one": onnx_gather("Gather", [5], lambda x: x[:, 5], axis=1),
    "elements": onnx_gather(
        "GatherElements", [COLUMNS], lambda x: np.take_along_axis(x, COLUMNS, 1), axis=1
    ),
    "points": onnx_gather(
        "GatherND",
        [[[0, 2], [0, 5], [1, 2], [1, 5]]],
        lambda x: x[[0, 0, 1, 1], [2, 5, 2, 5]],
    ),
    "negative_step": onnx_gather("Slice", [[-1], [-9], [1], [-1]], lambda x: x[:, ::-1]),
}


@pytest.mark.parametrize("name", MODELS)
def test_no_gather_is_left(name: str) -> None:
    model, expected = MODELS[name]
    module = ps.load(model).module
    run_pipeline(module, f"builtin.module({PREPARE},{BUFFERIZE})")
    kinds = {str(s.kind) for s in TensorProgram.from_module(module).statements}
    assert kinds <= {"elementwise", "copy", "fill"}
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    before = jit_run(module, [x])[0]
    np.testing.assert_allclose(before, expected(x), rtol=1e-5)
    run_pipeline(module, "builtin.module(poly-eliminate-copies)")
    kinds = {str(s.kind) for s in TensorProgram.from_module(module).statements}
    assert kinds == {"elementwise"}
    np.testing.assert_array_equal(jit_run(module, [x])[0], before)


@pytest.mark.parametrize(
    "index",
    [
        lambda x: x[:, SHUFFLE],
        lambda x: x[:, SHUFFLE][:, [3, 2, 1, 0]],
        lambda x: x.flip(1),
        lambda x: x[[1, 0]][:, [[1, 2], [3, 4]]],
        lambda x: x.transpose(1, 2)[:, :, [0, 0, 1, 1, 2, 2, 3, 3]],
    ],
)
def test_no_gather_of_torch_is_left(index: Callable[[Any], Any]) -> None:
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.exp(index(torch.relu(x)))

    x = torch.randn(SHAPE)
    module = ps.load(Model().eval(), inputs=(x,)).module
    run_pipeline(module, f"builtin.module({PREPARE},{BUFFERIZE},poly-eliminate-copies)")
    kinds = {str(s.kind) for s in TensorProgram.from_module(module).statements}
    assert kinds == {"elementwise"}
    np.testing.assert_allclose(jit_run(module, [x.numpy()])[0], Model()(x).numpy(), rtol=1e-5)
