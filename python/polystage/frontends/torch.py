"""PyTorch modules and programs of `torch.export`."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from polystage.constants import constant_attr
from polystage.errors import FrontendError
from polystage.frontends.batch import (
    check_batch,
    example_batch,
    refuse_batch,
    repeated,
    with_items,
)
from polystage.frontends.diagnostics import run_upstream
from polystage.frontends.finish import entry_function, finish_module, tensor_specs
from polystage.frontends.model import Arrays, ImportedModel, new_context
from polystage.mlir import ir
from polystage.reference import torch_run

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.nn import Module

_TO_LINALG = (
    "builtin.module(func.func(torch-match-quantized-custom-ops),"
    "torchdynamo-export-to-torch-backend-pipeline{extra-library=},"
    "torch-backend-to-linalg-on-tensors-backend-pipeline{allow-non-finites=true})"
)


def load_torch(
    source: "Module | ExportedProgram | str | Path",
    example_inputs: Sequence[Any] = (),
    name: str = "",
    batch: int | None = None,
) -> ImportedModel:
    """Import a PyTorch module with example inputs, an exported program, or its `.pt2` file.

    With a `batch`, a module is exported for example inputs of that many items, and so is a program
    that was exported with a dynamic first dimension. Weights are shared with the module, which must
    not change them afterwards. Layers are named by the module's path and the operator, e.g.
    `encoder.layer.0.attention/softmax`.

    Raises: FrontendError.
    """
    torch = _import_torch()
    with warnings.catch_warnings():  # of torch to itself, nothing that the caller could change
        warnings.simplefilter("ignore")
        name = name or (str(source) if isinstance(source, str | Path) else type(source).__name__)
        if batch is None:
            return _load(torch, source, example_inputs, name)
        check_batch(batch, name)
        return _load_batch(torch, source, example_inputs, name, batch)


def _load_batch(
    torch: Any, source: Any, example_inputs: Sequence[Any], name: str, batch: int
) -> ImportedModel:
    """Export for examples of `batch` items; the reference takes as many as the examples had."""
    if not isinstance(source, torch.nn.Module):
        program = source if isinstance(source, torch.export.ExportedProgram) else None
        program = program or _read_program(Path(source))
        if not program.range_constraints:
            refuse_batch(batch, "an exported program without dynamic_shapes", name)
        source, example_inputs = program.module(), program.example_inputs[0]
    item = example_batch([tuple(i.shape) for i in example_inputs], name)
    examples = [
        torch.from_numpy(repeated(i.detach().numpy(), batch)) if len(i.shape) else i
        for i in map(torch.as_tensor, example_inputs)
    ]
    model = _load(torch, source, examples, name)
    inputs = [i.name for i in model.inputs if i.shape]
    return with_items(model, inputs, item, batch, model.run_reference)


def _load(torch: Any, source: Any, example_inputs: Sequence[Any], name: str) -> ImportedModel:
    program = _exported(source, example_inputs)
    reference = source if isinstance(source, torch.nn.Module) else program.module()
    inputs, outputs = _input_names(program), _output_names(program)
    module = _import_program(program, name)
    finish_module(module, name, inputs, outputs)
    type_ = entry_function(module, name).type
    return ImportedModel(
        name=Path(name).stem,
        module=module,
        inputs=tuple(tensor_specs(type_.inputs, inputs, name)),
        outputs=tuple(tensor_specs(type_.results, outputs, name)),
        form="tensors",
        reference="torch",
        run_reference=lambda arrays: _run(reference, arrays, inputs, outputs),
    )


def _import_torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise FrontendError(
            "PyTorch models need torch, which is not installed",
            help="pip install 'polystage[torch]'",
        ) from None
    return torch


def _exported(source: Any, example_inputs: Sequence[Any]) -> Any:
    """Return the exported program in the operators that the importer knows."""
    torch = _import_torch()
    if isinstance(source, torch.export.ExportedProgram):
        program = source
    elif isinstance(source, torch.nn.Module):
        program = _export(source, example_inputs)
    else:
        program = _read_program(Path(source))
    with torch.no_grad():
        return program.run_decompositions(_decompositions())


def _decompositions() -> dict[Any, Any]:
    """Return torch-mlir's table and two operators that it handles badly.

    `roll` becomes slices of static shape, where torch-mlir makes dynamic ones; an average over a
    window larger than the image becomes a mean, where torch-mlir pads the image to the window.
    """
    from torch_mlir.extras.fx_decomp_util import get_decomposition_table

    torch = _import_torch()

    def roll(tensor: Any, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
        if not dims:
            return roll(tensor.reshape(-1), shifts, [0]).reshape(tensor.shape)
        for shift, dim in zip(shifts, dims, strict=True):
            extent = tensor.shape[dim]
            cut = (extent - shift) % extent if extent else 0
            parts = [tensor.narrow(dim, cut, extent - cut), tensor.narrow(dim, 0, cut)]
            tensor = torch.cat(parts, dim)
        return tensor

    def avg_pool2d(
        image: Any,
        window: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Any:
        height, width = image.shape[-2:]
        covers = window[0] >= height and window[-1] >= width
        if any(padding) or divisor is not None or not covers:
            return NotImplemented  # that is, as it is
        return image.mean((-2, -1), keepdim=True)

    aten = torch.ops.aten
    own = {aten.roll.default: roll, aten.avg_pool2d.default: avg_pool2d}
    return {**get_decomposition_table(), **own}


def _export(module: Any, example_inputs: Sequence[Any]) -> Any:
    torch = _import_torch()
    name = type(module).__name__
    if module.training and not isinstance(module, torch.fx.GraphModule):  # those have no mode
        raise FrontendError(f"{name}: the module is in training mode", help="call eval() first")
    tensors = tuple(torch.from_numpy(i) if isinstance(i, np.ndarray) else i for i in example_inputs)
    try:
        with torch.no_grad():
            return torch.export.export(module, tensors, strict=False)
    except Exception as error:  # export runs the user's code, anything can come out
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise FrontendError(
            f"{name}: torch.export failed: {first[0]}",
            help="see that the module runs on the example inputs and torch.export takes it",
        ) from error


def _read_program(path: Path) -> Any:
    torch = _import_torch()
    if not path.is_file():
        raise FrontendError(f"no such file: {path}")
    try:
        return torch.export.load(path)
    except Exception as error:  # zipfile, pickle and torch errors alike
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FrontendError(
            f"{path}: not a file of torch.export: {first}",
            help="write it with torch.export.save(torch.export.export(module, inputs), path)",
        ) from None


def _import_program(program: Any, name: str) -> ir.Module:
    """Return the program on tensors, as torch-mlir's importer and its pipeline make it.

    `import_program` is used, not `import_frozen_program`, which looks for non-persistent buffers
    (the position ids of BERT, the rotary frequencies of Llama) among the persistent ones.
    """
    from torch_mlir.dialects import torch as torch_dialect
    from torch_mlir.extras import fx_importer

    context = new_context()
    torch_dialect.register_dialect(context)
    importer = fx_importer.FxImporter(
        context=context, hooks=_hooks(), graph_node_importer_cls=_node_importer()
    )
    _check_static_inputs(program, name)
    _check_changes_nothing(program, name)
    try:
        importer.import_program(program, func_name="main")
    except (NotImplementedError, AssertionError, TypeError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FrontendError(f"{name}: the importer failed: {first}") from error
    run_upstream(importer.module, _TO_LINALG, name)
    return importer.module


def _hooks() -> Any:
    """Return hooks that turn tensors into constants without a copy, and remember their arrays."""
    from torch_mlir.extras import fx_importer

    torch = _import_torch()

    class Weights(fx_importer.FxImporterHooks):
        """Keeps one attribute per tensor, also where a model uses the same one twice."""

        def __init__(self) -> None:
            self.attributes: dict[Any, ir.Attribute] = {}

        def resolve_literal(self, gni: Any, literal: Any, info: Any) -> ir.Value | None:
            if not isinstance(literal, torch.Tensor) or literal.is_sparse or not literal.numel():
                return None
            tensor = literal.detach()
            key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            if key not in self.attributes:
                label = info.input_spec.target if info is not None else "constant"
                element_type = fx_importer.create_mlir_tensor_type(tensor).element_type
                self.attributes[key] = constant_attr(_numpy(tensor), label, element_type)
            return ir.Operation.create(
                "torch.vtensor.literal",
                results=[gni._cc.tensor_to_vtensor_type(tensor)],
                attributes={"value": self.attributes[key]},
            ).result

    return Weights()


def _node_importer() -> type:
    """Return a node importer whose locations are the names of layers, not lines of Python."""
    from torch_mlir.extras import fx_importer

    class LayerNames(fx_importer.ContextCache):
        def get_node_location(self, node: Any) -> ir.Location:
            return ir.Location.name(layer_name(node), context=self._c)

    class Importer(fx_importer.GraphNodeImporter):
        def __init__(self, owner: Any, context: ir.Context, cache: Any, block: ir.Block) -> None:
            names = LayerNames(context, py_attr_tracker=cache._py_attr_tracker)
            super().__init__(owner, context, names, block)

    return Importer


def layer_name(node: Any) -> str:
    """Return the path of the module that an FX node belongs to, and its operator."""
    operator = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    path = path.removeprefix("L['self']").lstrip(".")
    return f"{path}/{operator}" if path else operator


def _check_static_inputs(program: Any, name: str) -> None:
    torch = _import_torch()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or not isinstance(value, torch.Tensor):
            continue
        for position, extent in enumerate(value.shape):
            if not isinstance(extent, int):
                raise FrontendError(
                    f"{name}: dimension {position} of input '{node.name}' is dynamic ('{extent}'), "
                    "but every shape must be known when the model is compiled",
                    help="export the model without dynamic_shapes",
                )


def _check_changes_nothing(program: Any, name: str) -> None:
    signature = program.graph_signature
    for kind, changed in (
        ("input", signature.user_inputs_to_mutate),
        ("buffer", signature.buffers_to_mutate),
    ):
        for target in changed.values():
            raise FrontendError(
                f"{name}: the module changes its {kind} '{target}' in place",
                help="return the new value instead; for inference, call eval() and use no cache",
            )


def _input_names(program: Any) -> list[str]:
    torch = _import_torch()
    tensors = {
        n.name
        for n in program.graph.nodes
        if n.op == "placeholder" and isinstance(n.meta.get("val"), torch.Tensor)
    }
    return [name for name in program.graph_signature.user_inputs if name in tensors]


def _output_names(program: Any) -> list[str]:
    """Name every output by its place in what the module returns, e.g. `logits`."""
    torch = _import_torch()
    from torch.utils import _pytree

    spec = program.call_spec.out_spec
    leaves = program.graph_signature.user_outputs
    tree = _pytree.tree_unflatten(list(range(len(leaves))), spec)
    paths, _ = _pytree.tree_flatten_with_path(tree)
    produced = {n.name: n.meta.get("val") for n in program.graph.nodes}
    names: list[str] = []
    for (path, _), leaf in zip(paths, leaves, strict=True):
        if isinstance(produced.get(leaf), torch.Tensor):
            keys = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
            names.append(".".join(keys) or "output")
    return [f"output{n}" if n[0].isdigit() else n for n in names]


def _numpy(tensor: Any) -> np.ndarray:
    torch = _import_torch()
    tensor = tensor.cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _run(
    module: Any, arrays: Arrays, inputs: Sequence[str], outputs: Sequence[str]
) -> dict[str, np.ndarray]:
    return dict(zip(outputs, torch_run(module, [arrays[i] for i in inputs]), strict=True))
