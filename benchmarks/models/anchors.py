"""The workloads of the strongest public mapper's figures: matmuls, attention, two residual blocks.

The blocks are without padding, biases, activations and the residual itself, as that mapper takes
them; weights are constants.
"""

from collections.abc import Callable

import onnx

from models.small_cases import Graph


def matmul() -> onnx.ModelProto:
    return chain(1)


def two_matmuls() -> onnx.ModelProto:
    return chain(2)


def chain(count: int, size: int = 1024) -> onnx.ModelProto:
    """Return a product with `count` square matrices, one after the other."""
    graph = Graph((size, size))
    data = "x"
    for _ in range(count):
        data = graph.add("MatMul", data, graph.weight(size, size, fan_in=size))
    return graph.model(data, (size, size))


def attention() -> onnx.ModelProto:
    """Return one head over 1024 tokens; keys and values are constants."""
    tokens, depth = 1024, 64
    graph = Graph((tokens, depth))
    scores = graph.add("MatMul", "x", graph.weight(depth, tokens, fan_in=depth))
    weights = graph.add("Softmax", scores, axis=-1)
    mixed = graph.add("MatMul", weights, graph.weight(tokens, depth))
    return graph.model(mixed, (tokens, depth))


def mobilenet_block() -> onnx.ModelProto:
    """Return 24 -> 144 -> 24 channels with a depthwise convolution between, on 56 x 56."""
    return _block(24, 144, groups=144)


def bottleneck() -> onnx.ModelProto:
    """Return 256 -> 64 -> 256 channels with a 3 x 3 convolution between, on 56 x 56."""
    return _block(256, 64)


def _block(outer: int, inner: int, groups: int = 1) -> onnx.ModelProto:
    graph = Graph((1, outer, 56, 56))
    data = "x"
    for channels, filters, extent in ((outer, inner, 1), (inner, inner, 3), (inner, outer, 1)):
        shared = groups if extent > 1 else 1
        fan_in = channels // shared * extent**2
        weight = graph.weight(filters, channels // shared, extent, extent, fan_in=fan_in)
        data = graph.add("Conv", data, weight, group=shared)
    return graph.model(data, (1, outer, 54, 54))


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "one matmul 1024": matmul,
    "two matmuls 1024": two_matmuls,
    "attention 1024 x 64": attention,
    "MobileNetV2 block": mobilenet_block,
    "ResNet-50 bottleneck": bottleneck,
}
