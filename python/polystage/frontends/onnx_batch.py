"""The batch of an ONNX model, changed after export.

A model exported for a batch of 1 holds it in many places: its inputs, the targets of reshapes, the
sizes of resizes. With all shapes known, the nodes are gone through in order, and each is inferred
anew with the batch that its operands have now; every value must keep its shape but for one
dimension, which grows with the batch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from polystage.errors import FrontendError
from polystage.frontends.batch import check_batch

Shape = tuple[int, ...]

_LARGEST_PARAMETER = 64
"""Most elements of an operand that shapes are inferred from, such as sizes and axes."""

_REPEATED_STATES = {"LSTM": {4: 0, 5: 1, 6: 1}, "GRU": {4: 0, 5: 1}, "RNN": {4: 0, 5: 1}}
"""Operands of recurrent operators that have one entry for each item: where they stand, its axis."""


@dataclass(frozen=True)
class Batch:
    """A batch of `size` items instead of `item`, in the first dimension of the `inputs`.

    `bind` binds that dimension to a single item where it is dynamic.
    """

    size: int
    item: int
    inputs: tuple[str, ...]
    bind: Mapping[str, int]


def find_batch(model: onnx.ModelProto, name: str, size: int) -> Batch:
    """Return which inputs of a model have a batch, and how large it is.

    The batch is the first dimension. Where that is dynamic in some inputs, these are the ones that
    have it; else all inputs that have dimensions, which then must agree.

    Raises: FrontendError where they do not, or `size` is no multiple of a fixed batch.
    """
    check_batch(size, name)
    weights = {w.name for w in model.graph.initializer}
    inputs = (v for v in model.graph.input if v.name not in weights)
    first = {v.name: v.type.tensor_type.shape.dim[0] for v in inputs if _rank(v)}
    dynamic = {n: d for n, d in first.items() if not d.HasField("dim_value") or d.dim_value < 0}
    if dynamic:
        return Batch(
            size, 1, tuple(dynamic), {d.dim_param or f"{n}.0": 1 for n, d in dynamic.items()}
        )
    if not first:
        raise FrontendError(f"{name}: the batch cannot be set: no input has dimensions")
    extents = {n: d.dim_value for n, d in first.items()}
    item = next(iter(extents.values()))
    if set(extents.values()) != {item}:
        found = ", ".join(f"{extent} of '{n}'" for n, extent in extents.items())
        raise FrontendError(
            f"{name}: the batch cannot be set: the first dimensions of the inputs differ ({found})",
            help="export the model with a dynamic first dimension for the inputs with a batch",
        )
    if not item or size % item:
        raise FrontendError(
            f"{name}: the model has a batch of {item}, of which {size} is no multiple",
            help="export it with a batch of 1",
        )
    return Batch(size, item, tuple(first), {})


def bind_batch(bind: Mapping[str, int], batch: Batch, name: str) -> dict[str, int]:
    """Return all dimensions to bind, that of the batch to a single item.

    Raises: FrontendError where the user bound it.
    """
    for dimension in batch.bind:
        if dimension in bind:
            raise FrontendError(
                f"{name}: dimension '{dimension}' is the batch, but is bound to {bind[dimension]}",
                help="give one of --batch and --bind",
            )
    return {**bind, **batch.bind}


def set_batch(model: onnx.ModelProto, name: str, batch: Batch) -> onnx.ModelProto:
    """Return the model with another batch; all its shapes are known, and constants folded.

    Raises: FrontendError that names the first node which cannot take it.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    walk = _Walk(changed, name, batch)
    for value in changed.graph.input:
        if value.name in batch.inputs:
            value.type.tensor_type.shape.dim[0].dim_value = batch.size
            walk.types[value.name].CopyFrom(value.type)
    nodes = [new for node in model.graph.node for new in walk.rewrite(node)]
    del changed.graph.node[:], changed.graph.value_info[:]
    changed.graph.node.extend(nodes)
    for value in changed.graph.output:
        value.type.CopyFrom(walk.types[value.name])
    return shape_inference.infer_shapes(changed, data_prop=True)


class _Walk:
    """The types of all values so far with the new batch, beside those with the old."""

    def __init__(self, model: onnx.ModelProto, name: str, batch: Batch) -> None:
        graph = model.graph
        self.model, self.name, self.old, self.new = model, name, batch.item, batch.size
        self.types: dict[str, onnx.TypeProto] = {}
        self.constants: dict[str, onnx.TensorProto] = {}
        self.merges: dict[str, str] = {}
        """By value the node at which its batch was merged with another dimension."""
        values = (*graph.input, *graph.value_info, *graph.output)
        self.old_types = {v.name: v.type for v in values}
        self.single = {v.name: _shape(v.type) for v in values}
        for weight in graph.initializer:
            self._remember(weight.name, weight)
        for value in graph.input:
            self.types.setdefault(value.name, onnx.TypeProto()).CopyFrom(value.type)

    def rewrite(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return what takes the place of a node, and remember the types of its results."""
        if node.op_type == "Constant":
            self._remember_constant(node)
            return [node]
        if not any(self._is_batched(name) for name in _read(node)):
            self._keep_types(node)
            return [node]
        if any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            raise self._error(node, "its body reads a value that has a batch")
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        before = self._adapt(changed)
        self._infer(changed)
        return [*before, changed]

    def _adapt(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Change operands of a node that hold the old batch; return the constants it needs."""
        if node.op_type == "Reshape":
            return self._target(node, 1, self._reshaped(node))
        if node.op_type == "Expand":
            return self._expanded_target(node)
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in self.constants:
            return self._resized(node)
        if node.op_type == "Concat":
            return self._repeat_for_concat(node)
        before: list[onnx.NodeProto] = []
        for position, axis in _REPEATED_STATES.get(node.op_type, {}).items():
            if len(node.input) > position and node.input[position]:
                before += self._repeat(node, position, axis)
        return before

    def _reshaped(self, node: onnx.NodeProto) -> Shape:
        """Return the target in which the batch is where it is for a single item.

        The elements before the batch must stay before it: the batch goes to the dimension before
        which as many lie, to one of its own if there is a choice.
        """
        data, result = node.input[0], node.output[0]
        source, target = self._single(node, data), self._single(node, result)
        if not self._is_batched(data):
            return target
        axis = self._axis(node, data)
        before = math.prod(source[:axis])
        places = [
            b
            for b, extent in enumerate(target)
            if math.prod(target[:b]) == before and extent % self.old == 0 and extent
        ]
        if not places:
            raise self._error(
                node,
                f"from {list(source)} to {list(target)} it mixes the batch, in dimension {axis}, "
                "with other dimensions",
            )
        place = next((b for b in places if target[b] == self.old), places[0])
        if target[place] != source[axis]:
            self.merges.setdefault(result, node.name)
        return (*target[:place], target[place] // self.old * self.new, *target[place + 1 :])

    def _expanded_target(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if not self._is_batched(node.input[0]):
            return []
        result = self._single(node, node.output[0])
        axis = self._axis(node, node.input[0])
        axis += len(result) - len(self._single(node, node.input[0]))
        return self._target(node, 1, tuple(1 if i == axis else e for i, e in enumerate(result)))

    def _resized(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        axis = self._axis(node, node.input[0])
        sizes = self._single(node, node.output[0])
        grown = (*sizes[:axis], sizes[axis] // self.old * self.new, *sizes[axis + 1 :])
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        return self._target(node, 3, tuple(grown[i] for i in axes) if axes else grown)

    def _repeat_for_concat(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Repeat operands without a batch, such as the class token of a vision transformer."""
        axis = next(self._axis(node, n) for n in node.input if self._is_batched(n))
        positions = [i for i, n in enumerate(node.input) if not self._is_batched(n)]
        return [new for i in positions for new in self._repeat(node, i, axis)]

    def _repeat(self, node: onnx.NodeProto, position: int, axis: int) -> list[onnx.NodeProto]:
        """Repeat an operand that all items share along a dimension, where its extent is 1."""
        name = node.input[position]
        shape = self._single(node, name)
        if self._is_batched(name) or shape[axis] != 1:
            return []
        target = (*shape[:axis], self.new, *shape[axis + 1 :])
        repeated = f"{node.output[0]}_operand{position}"
        expand = helper.make_node("Expand", [name, ""], [repeated], name=repeated)
        before = self._target(expand, 1, target)
        self.types[repeated] = helper.make_tensor_type_proto(
            self.types[name].tensor_type.elem_type, target
        )
        self.single[repeated] = shape
        node.input[position] = repeated
        return [*before, expand]

    def _target(self, node: onnx.NodeProto, position: int, target: Shape) -> list[onnx.NodeProto]:
        """Make a new constant an operand of the node, since others may use the old one."""
        name = f"{node.output[0]}_target"
        tensor = numpy_helper.from_array(np.array(target, np.int64), name)
        node.input[position] = name
        self._remember(name, tensor)
        return [helper.make_node("Constant", [], [name], value=tensor, name=name)]

    def _infer(self, node: onnx.NodeProto) -> None:
        """Infer the types of the results, and hold them to one dimension that has grown."""
        version = next(
            o.version for o in self.model.opset_import if o.domain in (node.domain, "ai.onnx")
        )
        names = [n for n in node.input if n]
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        try:
            found = shape_inference.infer_node_outputs(
                schema,
                node,
                {n: self.types[n] for n in names},
                {n: self.constants[n] for n in names if n in self.constants},
                opset_imports=list(self.model.opset_import),
                ir_version=self.model.ir_version,
            )
        except shape_inference.InferenceError as error:
            reason = str(error).strip().splitlines()[-1].rpartition("] ")[2].rstrip(".")
            raise self._error(node, reason[:1].lower() + reason[1:]) from None
        merged = next((self.merges[n] for n in names if n in self.merges), "")
        for name in filter(None, node.output):
            self.types[name] = found.get(name, onnx.TypeProto())
            if merged:
                self.merges.setdefault(name, merged)
            if self._is_batched(name):
                self._axis(node, name)

    def _is_batched(self, name: str) -> bool:
        return name in self.types and _shape(self.types[name]) != self.single.get(name)

    def _axis(self, node: onnx.NodeProto, value: str) -> int:
        """Return the dimension of a value that holds the batch, which must be the only change."""
        old, new = self._single(node, value), _shape(self.types[value])
        if new is None:
            raise self._error(node, f"the shape of '{value}' would depend on values")
        changed = [i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
        if len(old) == len(new) and len(changed) == 1:
            axis = changed[0]
            if new[axis] * self.old == old[axis] * self.new:
                return axis
        raise self._error(node, f"its '{value}' of shape {list(old)} would become {list(new)}")

    def _single(self, node: onnx.NodeProto, value: str) -> Shape:
        shape = self.single.get(value)
        if shape is None:
            raise self._error(node, f"the shape of '{value}' depends on values")
        return shape

    def _keep_types(self, node: onnx.NodeProto) -> None:
        for name in filter(None, node.output):
            self.types[name] = self.old_types.get(name, onnx.TypeProto())

    def _remember_constant(self, node: onnx.NodeProto) -> None:
        attribute = node.attribute[0]
        if attribute.name == "value":
            self._remember(node.output[0], attribute.t)
        else:
            self._keep_types(node)

    def _remember(self, name: str, tensor: onnx.TensorProto) -> None:
        shape = tuple(tensor.dims)
        self.types[name] = helper.make_tensor_type_proto(tensor.data_type, shape)
        self.single[name] = shape
        set_aside = tensor.HasField("raw_data") and not tensor.raw_data
        if math.prod(shape) <= _LARGEST_PARAMETER and not set_aside:
            self.constants[name] = tensor

    def _error(self, node: onnx.NodeProto, reason: str) -> FrontendError:
        merged = next((self.merges[n] for n in node.input if n in self.merges), "")
        help = f"'{merged}' merges the batch with another dimension; " if merged else ""
        return FrontendError(
            f"{self.name}: at '{node.name or node.output[0]}': operator '{node.op_type}' cannot "
            f"take a batch of {self.new} instead of {self.old}: {reason}",
            help=f"{help}export the model with the batch to compile it for",
        )


def _read(node: onnx.NodeProto) -> list[str]:
    """Return the values that a node or its bodies read."""
    names = [n for n in node.input if n]
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names += _read(inner)
    return names


def _shape(type_: onnx.TypeProto) -> Shape | None:
    tensor = type_.tensor_type
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def _rank(value: onnx.ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)
