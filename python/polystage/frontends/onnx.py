"""ONNX files."""

import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper, shape_inference, version_converter

from polystage.constants import constant_attr
from polystage.dtypes import numpy_dtype
from polystage.errors import FrontendError
from polystage.frontends.batch import with_items
from polystage.frontends.diagnostics import run_upstream
from polystage.frontends.finish import entry_function, finish_module, mark_unsigned, model_name
from polystage.frontends.model import ImportedModel, TensorSpec, new_context
from polystage.frontends.onnx_batch import Batch, bind_batch, find_batch, set_batch
from polystage.frontends.onnx_limits import violation
from polystage.frontends.onnx_simplify import expand_functions, simplify
from polystage.mlir import ir
from polystage.reference import onnxruntime_run

OLDEST_OPSET = 17
_SCAN_WITHOUT_BATCH = 9
_DOMAINS = ("", "ai.onnx")
_IR_VERSION = 8
"""From 4 on, weights need not be inputs too, which the converter insists on before."""
_LARGE_BYTES = 1024

_TO_LINALG = (
    "builtin.module(torch-onnx-to-torch-backend-pipeline"
    "{backend-legal-ops=aten.flatten.using_ints,aten.unflatten.int},"
    "torch-backend-to-linalg-on-tensors-backend-pipeline)"
)


def load_onnx(
    source: str | Path | onnx.ModelProto,
    bind: Mapping[str, int] | None = None,
    batch: int | None = None,
) -> ImportedModel:
    """Import an ONNX model: one function on static tensors, weights as resources.

    `bind` gives dynamic dimensions their extent, by their name in the model, or as `input.position`
    where they have none. `batch` is the extent of the inputs' first dimension, whatever the model
    has there. Models older than opset 17 are converted.

    Raises: FrontendError.
    """
    name = "model" if isinstance(source, onnx.ModelProto) else str(source)
    original = read_model(source, name)
    wanted = None if batch is None else find_batch(original, name, batch)
    model = prepare_model(original, name, bind or {}, wanted)
    imported = _import(source, model, name)
    if wanted is None or wanted.size == wanted.item:
        return imported
    return with_items(imported, wanted.inputs, wanted.item, wanted.size, imported.run_reference)


def _import(
    source: str | Path | onnx.ModelProto, model: onnx.ModelProto, name: str
) -> ImportedModel:
    """Return what a prepared model is in MLIR, with the original as its reference."""
    module = import_graph(model, name)
    graph = model.graph
    weights = {w.name for w in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    finish_module(module, name, [i.name for i in inputs], [o.name for o in graph.output])
    function = entry_function(module, name)
    results = function.type.results
    outputs = tuple(
        TensorSpec(o.name, tuple(r.shape), _dtype(o, numpy_dtype(r)))
        for o, r in zip(graph.output, results, strict=True)
    )
    mark_unsigned(function, outputs)
    return ImportedModel(
        name=model_name(graph.name if isinstance(source, onnx.ModelProto) else source),
        module=module,
        inputs=tuple(_input_spec(i, name) for i in inputs),
        outputs=outputs,
        form="tensors",
        reference="onnxruntime",
        run_reference=lambda arrays: onnxruntime_run(source, arrays),
    )


def read_model(source: str | Path | onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the model with all its weights, or say why the file cannot be read."""
    if isinstance(source, onnx.ModelProto):
        return source
    try:
        model = onnx.load(str(source))
    except FileNotFoundError as error:
        missing = error.filename or source
        raise FrontendError(f"no such file: {missing}") from None
    except (DecodeError, onnx.checker.ValidationError, UnicodeDecodeError, OSError) as error:
        raise FrontendError(
            f"{name}: not a complete ONNX file ({str(error).splitlines()[0].rstrip('.')})",
            help="export or download it again",
        ) from None
    if not model.ir_version or not model.graph.output:
        raise FrontendError(
            f"{name}: not a complete ONNX file (it holds no graph with an output)",
            help="export or download it again",
        )
    return model


def prepare_model(
    model: onnx.ModelProto, name: str, bind: Mapping[str, int], batch: Batch | None = None
) -> onnx.ModelProto:
    """Return a copy with bound dimensions, opset 17 or newer, every node named, shapes inferred.

    The data of large weights is set aside meanwhile, so that files over 2 GB pass.
    """
    with _without_large_weights(model) as light:
        _bind_dimensions(light, name, bind_batch(bind, batch, name) if batch else bind)
        light = expand_functions(light)
        _check_domains(light, name)
        names = _layer_names(light.graph.node)
        light = _convert_opset(light, name)
        try:
            light = simplify(light)
        except shape_inference.InferenceError as error:
            raise FrontendError(f"{name}: {_last_line(error)}") from None
        _refuse_empty_outputs(light, name)
        _name_nodes(light.graph.node, names)
        if batch and batch.size != batch.item:
            light = set_batch(light, name, batch)
        _check_nodes(light, name)
        _check_limits(light, name)
        _restore_weights(light, model)
    return light


def import_graph(model: onnx.ModelProto, name: str) -> ir.Module:
    """Return the model on tensors, as torch-mlir's importer and its pipeline make it."""
    from torch_mlir.dialects import torch as torch_dialect
    from torch_mlir.extras import onnx_importer

    class Constants(onnx_importer.ContextCache):
        """Remembers the arrays behind weights."""

        def tensor_proto_to_attr(self, tp: onnx.TensorProto) -> ir.Attribute:
            return _weight_attr(tp, self.tensor_element_type(tp.data_type))

    context = new_context()
    torch_dialect.register_dialect(context)
    info = onnx_importer.ModelInfo(model, config=onnx_importer.Config())
    module = info.create_module(context=context)
    try:
        importer = onnx_importer.NodeImporter.define_function(
            info.main_graph, module.operation, Constants(context)
        )
        importer.import_all()
    except (onnx_importer.OnnxImportError, ir.MLIRError) as error:
        raise FrontendError(f"{name}: {str(error).splitlines()[0]}") from None
    run_upstream(module, _TO_LINALG, name)
    return module


def _weight_attr(tensor: onnx.TensorProto, element_type: ir.Type) -> ir.Attribute:
    array = numpy_helper.to_array(tensor)
    with element_type.context:
        return constant_attr(
            np.ascontiguousarray(array).reshape(array.shape),
            tensor.name or "constant",
            element_type,
        )


def _bind_dimensions(model: onnx.ModelProto, name: str, bind: Mapping[str, int]) -> None:
    """Give the dynamic dimensions of the inputs their extents; later shapes are inferred anew."""
    weights = {w.name for w in model.graph.initializer}
    used: set[str] = set()
    for value in model.graph.input:
        if value.name not in weights:
            used |= _bind_input(value, name, bind)
    unknown = sorted(set(bind) - used)
    if unknown:
        known = ", ".join(sorted(used)) or "none"
        raise FrontendError(
            f"{name}: no dynamic dimension is called '{unknown[0]}'",
            help=f"dynamic dimensions of its inputs: {known}",
        )
    if used:
        del model.graph.value_info[:]
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                if not dim.HasField("dim_value"):
                    dim.Clear()


def _bind_input(value: onnx.ValueInfoProto, name: str, bind: Mapping[str, int]) -> set[str]:
    if not value.type.HasField("tensor_type"):
        raise FrontendError(f"{name}: input '{value.name}' is no tensor")
    if not value.type.tensor_type.HasField("shape"):
        raise FrontendError(
            f"{name}: input '{value.name}' has no shape",
            help="give it one in the model (onnx.shape_inference, onnxsim)",
        )
    used: set[str] = set()
    for position, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            continue
        key = dim.dim_param or f"{value.name}.{position}"
        if key not in bind:
            raise FrontendError(
                f"{name}: dimension {position} of input '{value.name}' is dynamic ('{key}'), "
                "but every shape must be known when the model is compiled",
                help=f"give it an extent, e.g. --bind {key}=1",
            )
        dim.dim_value = bind[key]
        used.add(key)
    return used


def _check_domains(model: onnx.ModelProto, name: str) -> None:
    for node in _all_nodes(model.graph.node):
        if node.domain not in _DOMAINS:
            raise FrontendError(
                f"{name}: at '{node.name or node.op_type}': operator "
                f"'{node.domain}::{node.op_type}' is not supported; only the operators of ONNX are",
                help="export the model without custom or runtime-specific operators",
            )


def _convert_opset(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    version = max((o.version for o in model.opset_import if o.domain in _DOMAINS), default=1)
    if version >= OLDEST_OPSET:
        return model
    if version < _SCAN_WITHOUT_BATCH and any(n.op_type == "Scan" for n in model.graph.node):
        raise FrontendError(
            f"{name}: the Scan of opset {version} has a batch dimension, which the conversion to "
            f"opset {OLDEST_OPSET} loses",
            help=f"export the model with opset {OLDEST_OPSET} or newer",
        )
    model.ir_version = max(model.ir_version, _IR_VERSION)
    try:
        return version_converter.convert_version(model, OLDEST_OPSET)
    except (
        RuntimeError,
        version_converter.ConvertError,
        shape_inference.InferenceError,
    ) as error:
        raise FrontendError(
            f"{name}: opset {version} cannot be converted to {OLDEST_OPSET}: {_last_line(error)}",
            help=f"export the model with opset {OLDEST_OPSET} or newer",
        ) from None


def _check_nodes(model: onnx.ModelProto, name: str) -> None:
    """Refuse a node that its operator's schema does not allow; the importer would crash on some."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {o.domain: o.version for o in model.opset_import}
    for node in _all_nodes(model.graph.node):
        found = _schema_violation(node, context) or _missing_input(node, context)
        if found:
            raise FrontendError(
                f"{name}: at '{node.name or node.output[-1]}': operator '{node.op_type}' is not "
                f"valid: {found}"
            )


def _schema_violation(node: onnx.NodeProto, context: Any) -> str:
    try:
        onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as error:
        found = str(error).splitlines()[0].rstrip(".")
        if "with schema" in found:  # else an operator without a schema: the importer names it
            return re.sub(r"^Node(\(.*?\))? with schema\(.*?\) ", "it ", found)
    return ""


def _missing_input(node: onnx.NodeProto, context: Any) -> str:
    """Return which required input is left out, which the checker allows."""
    try:
        schema = onnx.defs.get_schema(node.op_type, context.opset_imports[""], "")
    except (onnx.defs.SchemaError, KeyError):
        return ""
    for formal, actual in zip(schema.inputs, node.input, strict=False):
        if formal.option == onnx.defs.OpSchema.FormalParameterOption.Single and not actual:
            return f"its input '{formal.name}' is missing"
    return ""


def _check_limits(model: onnx.ModelProto, name: str) -> None:
    found = violation(model.graph)
    if found:
        node, reason = found
        raise FrontendError(
            f"{name}: at '{node.name or node.output[-1]}': operator '{node.op_type}' is not "
            f"supported here: {reason}",
            help="replace the operator in the model, or cut the model before it",
        )


def _refuse_empty_outputs(model: onnx.ModelProto, name: str) -> None:
    for output in model.graph.output:
        extents = [
            d.dim_value for d in output.type.tensor_type.shape.dim if d.HasField("dim_value")
        ]
        if 0 in extents:
            raise FrontendError(
                f"{name}: output '{output.name}' of shape {extents} has no elements"
            )


def _layer_names(nodes: Iterable[onnx.NodeProto]) -> dict[str, str]:
    """Return what to call the node that makes each value: its name, or the value's."""
    return {value: node.name or node.output[0] for node in nodes for value in node.output if value}


def _name_nodes(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Name every node as before its model was converted, which forgets names."""
    for node in nodes:
        first = next(iter(node.output), node.op_type)
        node.name = names.get(first) or node.name or first


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _all_nodes(attribute.g.node)


@contextmanager
def _without_large_weights(model: onnx.ModelProto) -> Generator[onnx.ModelProto, None, None]:
    """Yield a copy in which large weights have no data."""
    large = [w for w in model.graph.initializer if len(w.raw_data) > _LARGE_BYTES]
    data = [w.raw_data for w in large]
    for weight in large:
        weight.raw_data = b""
    try:
        light = onnx.ModelProto()
        light.CopyFrom(model)
    finally:
        for weight, raw in zip(large, data, strict=True):
            weight.raw_data = raw
    yield light


def _restore_weights(light: onnx.ModelProto, model: onnx.ModelProto) -> None:
    originals = {w.name: w for w in model.graph.initializer}
    for weight in light.graph.initializer:
        original = originals.get(weight.name)
        if original is not None and len(original.raw_data) > _LARGE_BYTES:
            weight.raw_data = original.raw_data


def _input_spec(value: onnx.ValueInfoProto, name: str) -> TensorSpec:
    shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return TensorSpec(value.name, shape, _dtype(value))


def _dtype(value: onnx.ValueInfoProto, default: np.dtype | None = None) -> np.dtype:
    elem_type = value.type.tensor_type.elem_type
    if not elem_type and default is not None:
        return default
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))


def _last_line(error: Any) -> str:
    return str(error).strip().splitlines()[-1].strip().rstrip(".")
