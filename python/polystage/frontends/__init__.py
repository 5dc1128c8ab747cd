"""Models of other frameworks in MLIR: `load` takes a file or an object and tells what it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto

from polystage.errors import FrontendError
from polystage.frontends.jax import load_jax
from polystage.frontends.mlir import load_mlir
from polystage.frontends.model import ImportedModel, TensorSpec, new_context
from polystage.frontends.onnx import load_onnx
from polystage.frontends.torch import load_torch

__all__ = [
    "ImportedModel",
    "TensorSpec",
    "load",
    "load_jax",
    "load_mlir",
    "load_onnx",
    "load_torch",
    "new_context",
]

_KINDS = {
    ".onnx": "ONNX",
    ".pt2": "torch.export",
    ".mlir": "MLIR text, StableHLO included",
    ".mlirbc": "MLIR bytecode or StableHLO portable artifact",
}


def load(
    source: Any,
    bind: Mapping[str, int] | None = None,
    *,
    inputs: Sequence[Any] = (),
    name: str = "",
) -> ImportedModel:
    """Import a model: one function on static tensors (or memrefs), weights as constants.

    `source` is a file (`.onnx`, `.pt2`, `.mlir`, `.mlirbc`), an `onnx.ModelProto`, a PyTorch module
    or JAX function with its example `inputs`, or a `torch.export.ExportedProgram`. `bind` gives the
    dynamic dimensions of an ONNX model their extents.

    Raises: FrontendError.
    """
    if isinstance(source, str | Path):
        return _load_file(Path(source), bind or {})
    if isinstance(source, ModelProto):
        return load_onnx(source, bind)
    if any(c.__module__.startswith("torch.") for c in type(source).__mro__):
        _refuse_bind(bind, "PyTorch program")
        return load_torch(source, inputs, name)
    if callable(source):
        _refuse_bind(bind, "JAX function")
        return load_jax(source, inputs, name)
    raise FrontendError(
        f"cannot import a {type(source).__name__}",
        help="give a file, an onnx.ModelProto, a PyTorch module or a JAX function",
    )


def _load_file(path: Path, bind: Mapping[str, int]) -> ImportedModel:
    if path.suffix == ".onnx":
        return load_onnx(path, bind)
    if not path.is_file():
        raise FrontendError(f"no such file: {path}")
    if path.suffix == ".pt2":
        _refuse_bind(bind, "exported program")
        return load_torch(path)
    if path.suffix in (".mlir", ".mlirbc"):
        _refuse_bind(bind, "MLIR module")
        return load_mlir(path)
    known = ", ".join(f"{suffix} ({kind})" for suffix, kind in _KINDS.items())
    raise FrontendError(
        f"{path}: '{path.suffix}' is no known kind of model", help=f"known: {known}"
    )


def _refuse_bind(bind: Mapping[str, int] | None, what: str) -> None:
    if bind:
        raise FrontendError(
            f"dimension '{next(iter(bind))}' cannot be bound: the shapes of a {what} are fixed",
            help="export the model with the shapes to compile it for",
        )
