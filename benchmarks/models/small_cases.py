"""Five small graphs full of data movement that compute nothing, as bug reports of compilers show.

* `pad_transpose_conv`: a padded convolution between the transposes of a model in NHWC;
* `concat_channels`: three convolutions side by side, concatenated along channels (Inception);
* `shufflenet_v2_unit`: split, a branch of three convolutions, concat, channel shuffle, between the
  convolutions around it in a network;
* `permute_view_relu_view_permute`: an activation on a tensor in another order and shape;
* `vit_attention`: the attention of ViT-tiny, whose query, key and value come of one product.

Each is an ONNX model with weights drawn from a fixed seed; after copy elimination none of them
needs a copy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import polystage as ps
from polystage.frontends import ImportedModel

OPSET, IR_VERSION = 17, 8


class Graph:
    """An ONNX graph under construction, with one input `x` and one output."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node and return the name of its output, or of each of them."""
        names = [f"{kind.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, *shape: int, fan_in: int = 1) -> str:
        """Return a weight under which activations keep their size."""
        array = self._random.standard_normal(shape) * fan_in**-0.5
        return self.constant(array.astype(np.float32))

    def integers(self, *values: int) -> str:
        """Return a constant list of integers: a shape, or axes."""
        return self.constant(np.array(values, np.int64))

    def constant(self, array: np.ndarray) -> str:
        """Return a constant."""
        name = f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def convolution(
        self, data: str, channels: int, filters: int, extent: int = 1, groups: int = 1
    ) -> str:
        """Append a convolution with a bias that keeps height and width."""
        inner = channels // groups
        weight = self.weight(filters, inner, extent, extent, fan_in=inner * extent**2)
        pads, bias = [extent // 2] * 4, self.weight(filters)
        return self.add("Conv", data, weight, bias, pads=pads, group=groups)

    def reshape(self, data: str, *shape: int) -> str:
        """Append a reshape."""
        return self.add("Reshape", data, self.integers(*shape))

    def transpose(self, data: str, *order: int) -> str:
        """Append a transpose."""
        return self.add("Transpose", data, perm=order)

    def model(self, result: str, shape: Sequence[int]) -> onnx.ModelProto:
        """Return the checked model whose output is `result`."""
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, extents)
            for name, extents in (("x", self.shape), (result, shape))
        ]
        graph = helper.make_graph(self.nodes, "small_case", ends[:1], ends[1:], self.weights)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def pad_transpose_conv() -> onnx.ModelProto:
    graph = Graph((1, 14, 14, 16))
    image = graph.transpose("x", 0, 3, 1, 2)
    result = graph.add("Relu", graph.convolution(image, 16, 24, 3))
    return graph.model(graph.transpose(result, 0, 2, 3, 1), (1, 14, 14, 24))


def concat_channels() -> onnx.ModelProto:
    graph = Graph((1, 16, 14, 14))
    branches = [
        graph.add("Relu", graph.convolution("x", 16, filters, extent))
        for filters, extent in ((8, 1), (24, 3), (12, 5))
    ]
    return graph.model(graph.add("Concat", *branches, axis=1), (1, 44, 14, 14))


def shufflenet_v2_unit() -> onnx.ModelProto:
    channels = 48
    graph = Graph((1, 16, 14, 14))
    data = graph.add("Relu", graph.convolution("x", 16, channels))
    data = shuffled_unit(graph, data, channels)
    result = graph.add("Relu", graph.convolution(data, channels, 32))
    return graph.model(result, (1, 32, 14, 14))


def shufflenet_v2_unit_alone() -> onnx.ModelProto:
    """Return the unit between the input and the output of a model.

    Half of the input goes to the output as it is, which no rewrite can spare.
    """
    graph = Graph((1, 48, 14, 14))
    return graph.model(shuffled_unit(graph, "x", 48), (1, 48, 14, 14))


def shuffled_unit(graph: Graph, data: str, channels: int) -> str:
    """Append the unit of stride 1: half of the channels pass by, then both halves interleave."""
    half = channels // 2
    kept, branch = graph.add("Split", data, outputs=2, axis=1)
    branch = graph.add("Relu", graph.convolution(branch, half, half))
    branch = graph.convolution(branch, half, half, 3, groups=half)
    branch = graph.add("Relu", graph.convolution(branch, half, half))
    both = graph.add("Concat", kept, branch, axis=1)
    pairs = graph.transpose(graph.reshape(both, 1, 2, half, 14, 14), 0, 2, 1, 3, 4)
    return graph.reshape(pairs, 1, channels, 14, 14)


def permute_view_relu_view_permute() -> onnx.ModelProto:
    graph = Graph((2, 12, 10, 8))
    flat = graph.reshape(graph.transpose("x", 0, 2, 3, 1), 2, 80, 12)
    image = graph.reshape(graph.add("Relu", flat), 2, 10, 8, 12)
    return graph.model(graph.transpose(image, 0, 3, 1, 2), (2, 12, 10, 8))


def vit_attention() -> onnx.ModelProto:
    tokens, heads, depth = 197, 3, 64
    width = heads * depth
    graph = Graph((1, tokens, width))
    fused = graph.add("MatMul", "x", graph.weight(width, 3 * width, fan_in=width))
    fused = graph.add("Add", fused, graph.weight(3 * width))
    fused = graph.reshape(fused, 1, tokens, 3, heads, depth)
    parts = graph.add("Split", graph.transpose(fused, 2, 0, 3, 1, 4), outputs=3, axis=0)
    query, key, value = (graph.add("Squeeze", part, graph.integers(0)) for part in parts)
    scale = graph.constant(np.array(depth**-0.5, np.float32))
    scores = graph.add("MatMul", query, graph.transpose(key, 0, 1, 3, 2))
    scores = graph.add("Softmax", graph.add("Mul", scores, scale), axis=-1)
    mixed = graph.transpose(graph.add("MatMul", scores, value), 0, 2, 1, 3)
    mixed = graph.reshape(mixed, 1, tokens, width)
    result = graph.add("MatMul", mixed, graph.weight(width, width, fan_in=width))
    return graph.model(graph.add("Add", result, graph.weight(width)), (1, tokens, width))


ONNX_MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "pad_transpose_conv": pad_transpose_conv,
    "concat_channels": concat_channels,
    "shufflenet_v2_unit": shufflenet_v2_unit,
    "permute_view_relu_view_permute": permute_view_relu_view_permute,
    "vit_attention": vit_attention,
}


def _importer(build: Callable[[], onnx.ModelProto]) -> Callable[[], ImportedModel]:
    return lambda: ps.load(build())


CASES: dict[str, Callable[[], ImportedModel]] = {
    name: _importer(build) for name, build in ONNX_MODELS.items()
}
"""The same, imported."""
