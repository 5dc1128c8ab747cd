"""Small random models, of all kinds of operations that engines and queues are busy with.

A graph grows step by step from its input: contractions, elementwise arithmetic, reductions,
softmax, pads, concats, slices, transposes, gathers. What no later step read is added up at the end,
so that every step counts. The same seed gives the same model.
"""

from collections.abc import Callable, Sequence
from math import prod
from random import Random

import numpy as np
import onnx

from models.small_cases import Graph

Shape = tuple[int, ...]
LARGEST = 44
"""Rows and columns of a matrix of scale 1."""

SQUASHING = ("Relu", "Sigmoid", "Tanh", "Abs")
ARITHMETIC = ("Add", "Sub", "Mul", "Max")


class RandomGraph(Graph):
    """A graph of matrices and images that grows by random steps; extents go with `scale`."""

    def __init__(self, seed: int, scale: int) -> None:
        self.random = Random(seed)
        self.scale = scale
        self.largest = (LARGEST * scale) ** 2
        is_image = self.random.random() < 0.35
        shape = self.image_shape() if is_image else self.matrix_shape()
        super().__init__(shape)
        self.shapes: dict[str, Shape] = {"x": shape}
        self.unread = ["x"]

    def matrix_shape(self) -> Shape:
        """Return random extents of a matrix."""
        most = LARGEST * self.scale
        return self.random.randint(3, most), self.random.randint(3, most)

    def image_shape(self) -> Shape:
        """Return random extents of an image, batch and channels first."""
        most = 8 + 2 * self.scale
        height, width = self.random.randint(4, most), self.random.randint(4, most)
        return 1, self.random.randint(2, 12 * self.scale), height, width

    # --- values ---

    def value(self, rank: int) -> str | None:
        """Return a value of a rank, mostly one that nothing has read yet."""
        found = [name for name, shape in self.shapes.items() if len(shape) == rank]
        fresh = [name for name in self.unread if name in found]
        if fresh and self.random.random() < 0.8:
            return fresh[-1]
        return self.random.choice(found) if found else None

    def emit(self, kind: str, shape: Sequence[int], *inputs: str, **attributes: object) -> str:
        """Append a node with one output, and remember its shape and what it reads."""
        name = self.add(kind, *inputs, **attributes)
        self.shapes[name] = tuple(shape)
        self.unread = [n for n in self.unread if n not in inputs] + [name]
        return name

    def any_value(self) -> str:
        """Return a matrix or an image."""
        found = self.value(self.random.choice([2, 4]))
        return found if found is not None else self.unread[-1]

    # --- steps: each returns whether it did anything ---

    def contract(self) -> bool:
        """Multiply a matrix with a weight, perhaps with a bias and an activation."""
        data = self.value(2)
        if data is None:
            return False
        rows, inner = self.shapes[data]
        columns = self.random.randint(2, min(LARGEST * self.scale, self.largest // rows))
        result = self.emit(
            "MatMul", (rows, columns), data, self.weight(inner, columns, fan_in=inner)
        )
        if self.random.random() < 0.5:
            result = self.emit("Add", (rows, columns), result, self.weight(columns))
        if self.random.random() < 0.5:
            self.emit(self.random.choice(SQUASHING), (rows, columns), result)
        return True

    def multiply(self) -> bool:
        """Multiply a matrix with its own transpose, or with a squashed one."""
        data = self.value(2)
        if data is None or self.shapes[data][0] ** 2 > self.largest:
            return False
        rows, inner = self.shapes[data]
        other = self.emit("Tanh", (rows, inner), data)
        other = self.emit("Transpose", (inner, rows), other, perm=[1, 0])
        scaled = self.emit("Mul", (rows, inner), data, self.number(inner**-0.5))
        self.emit("MatMul", (rows, rows), scaled, other)
        return True

    def convolve(self) -> bool:
        """Convolve an image, perhaps by channel, with a stride or a border."""
        data = self.value(4)
        if data is None:
            return False
        _, channels, height, width = self.shapes[data]
        by_channel = self.random.random() < 0.25
        extent = self.random.choice([1, 1, 2, 3])
        border = self.random.choice([0, extent // 2])
        stride = self.random.choice([1, 1, 2])
        size = [(n + 2 * border - extent) // stride + 1 for n in (height, width)]
        filters = channels if by_channel else self.random.randint(2, 12 * self.scale)
        if min(size) < 1:
            return False
        inner = 1 if by_channel else channels
        result = self.emit(
            "Conv",
            (1, filters, *size),
            data,
            self.weight(filters, inner, extent, extent, fan_in=inner * extent**2),
            self.weight(filters),
            pads=[border] * 4,
            strides=[stride] * 2,
            group=channels if by_channel else 1,
        )
        if self.random.random() < 0.5:
            self.emit("Relu", self.shapes[result], result)
        return True

    def pool(self) -> bool:
        """Halve an image."""
        data = self.value(4)
        if data is None or min(self.shapes[data][2:]) < 2:
            return False
        _, channels, height, width = self.shapes[data]
        kind = self.random.choice(["MaxPool", "AveragePool"])
        shape = (1, channels, height // 2, width // 2)
        self.emit(kind, shape, data, kernel_shape=[2, 2], strides=[2, 2])
        return True

    def flatten(self) -> bool:
        """Make a matrix of an image: channels by pixels, or pixels by channels."""
        data = self.value(4)
        if data is None:
            return False
        _, channels, height, width = self.shapes[data]
        shape = (channels, height * width)
        flat = self.emit("Reshape", shape, data, self.integers(*shape))
        if self.random.random() < 0.5:
            self.emit("Transpose", shape[::-1], flat, perm=[1, 0])
        return True

    def squash(self) -> bool:
        """Apply an activation."""
        data = self.any_value()
        self.emit(self.random.choice(SQUASHING), self.shapes[data], data)
        return True

    def combine(self) -> bool:
        """Combine a value with another one of its shape, or with a row of weights."""
        data = self.any_value()
        shape = self.shapes[data]
        same = [n for n, s in self.shapes.items() if s == shape and n != data]
        other = self.random.choice(same) if same else self.weight(shape[-1])
        self.emit(self.random.choice(ARITHMETIC), shape, data, other)
        return True

    def normalise(self) -> bool:
        """Subtract the mean or the largest along a dimension."""
        data = self.any_value()
        shape = self.shapes[data]
        dim = self.random.randrange(1 if len(shape) == 4 else 0, len(shape))
        kept = [1 if d == dim else n for d, n in enumerate(shape)]
        if self.random.random() < 0.5:
            found = self.emit("ReduceMean", kept, data, axes=[dim])
        else:
            found = self.emit("ReduceMax", kept, data, axes=[dim])
        del self.shapes[found]
        self.emit("Sub", shape, data, found)
        return True

    def soften(self) -> bool:
        """Take the softmax along rows or columns."""
        data = self.value(2)
        if data is None:
            return False
        self.emit("Softmax", self.shapes[data], data, axis=self.random.choice([-1, -1, 0]))
        return True

    def pad(self) -> bool:
        """Put a border around a value."""
        data = self.any_value()
        shape = self.shapes[data]
        first = 2 if len(shape) == 4 else 0
        before = [self.random.randint(0, 2) if d >= first else 0 for d in range(len(shape))]
        after = [self.random.randint(0, 2) if d >= first else 0 for d in range(len(shape))]
        padded = [n + a + b for n, a, b in zip(shape, before, after, strict=True)]
        if prod(padded) > self.largest or padded == list(shape):
            return False
        value = self.number(self.random.choice([0.0, 1.0]))
        self.emit("Pad", padded, data, self.integers(*before, *after), value)
        return True

    def concat(self) -> bool:
        """Put a value beside another of the same shape but for one dimension, or beside itself."""
        data = self.any_value()
        shape = self.shapes[data]
        dim = self.random.randrange(1 if len(shape) == 4 else 0, len(shape))
        fitting = [
            n
            for n, s in self.shapes.items()
            if len(s) == len(shape)
            and all(a == b for d, (a, b) in enumerate(zip(s, shape, strict=True)) if d != dim)
        ]
        other = self.random.choice(fitting)
        total = self.shapes[other][dim] + shape[dim]
        joined = [total if d == dim else n for d, n in enumerate(shape)]
        if prod(joined) > self.largest:
            return False
        self.emit("Concat", joined, data, other, axis=dim)
        return True

    def cut(self) -> bool:
        """Take every first or second element of a part of a dimension."""
        data = self.any_value()
        shape = self.shapes[data]
        dim = self.random.randrange(1 if len(shape) == 4 else 0, len(shape))
        if shape[dim] < 3:
            return False
        start = self.random.randrange(shape[dim] // 2)
        step = self.random.choice([1, 2])
        kept = -(-(shape[dim] - start) // step)
        ends = [self.integers(n) for n in (start, shape[dim], dim, step)]
        self.emit("Slice", [kept if d == dim else n for d, n in enumerate(shape)], data, *ends)
        return True

    def transpose(self) -> bool:
        """Swap rows and columns."""
        data = self.value(2)
        if data is None:
            return False
        self.emit("Transpose", self.shapes[data][::-1], data, perm=[1, 0])
        return True

    def gather(self) -> bool:
        """Take rows of a table by where the rows of a matrix are largest."""
        data = self.value(2)
        if data is None:
            return False
        rows, columns = self.shapes[data]
        width = self.random.randint(2, 24 * self.scale)
        found = self.add("ArgMax", data, axis=1, keepdims=0)
        self.emit("Gather", (rows, width), self.weight(columns, width), found, axis=0)
        self.unread = [n for n in self.unread if n != data]
        return True

    def number(self, value: float) -> str:
        """Return a constant number."""
        return self.constant(np.array(value, np.float32))

    # --- the whole ---

    def step(self) -> None:
        """Take a random step."""
        while not self.random.choices(list(STEPS), list(STEPS.values()))[0](self):
            pass

    def finished(self) -> onnx.ModelProto:
        """Return the model; its output adds up the values that nothing has read."""
        left = [n for n in self.unread if n != "x"] or [self.emit("Relu", self.shapes["x"], "x")]
        result = max(left, key=lambda n: prod(self.shapes[n]))
        shape = self.shapes[result]
        for name in left:
            if name != result:
                total = self.add("ReduceSum", name, keepdims=0)
                result = self.add("Add", result, total)
        return self.model(result, shape)


STEPS: dict[Callable[[RandomGraph], bool], int] = {
    RandomGraph.contract: 5,
    RandomGraph.multiply: 2,
    RandomGraph.convolve: 4,
    RandomGraph.pool: 1,
    RandomGraph.flatten: 1,
    RandomGraph.squash: 2,
    RandomGraph.combine: 3,
    RandomGraph.normalise: 2,
    RandomGraph.soften: 2,
    RandomGraph.pad: 2,
    RandomGraph.concat: 2,
    RandomGraph.cut: 1,
    RandomGraph.transpose: 1,
    RandomGraph.gather: 2,
}
"""The steps and how often they are taken."""


def random_model(seed: int, scale: int = 1) -> onnx.ModelProto:
    """Return the random model of a seed: two to five steps."""
    graph = RandomGraph(seed, scale)
    for _ in range(graph.random.randint(2, 5)):
        graph.step()
    return graph.finished()
