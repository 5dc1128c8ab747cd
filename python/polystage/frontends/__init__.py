"""Models of other frameworks in MLIR: `load` takes a file or an object and tells what it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto

from polystage.errors import FrontendError
from polystage.frontends.batch import refuse_batch
from polystage.frontends.jax import load_jax
from polystage.frontends.mlir import load_mlir
from polystage.frontends.model import ImportedModel, TensorSpec, new_context
from polystage.frontends.onnx import load_onnx
from polystage.frontends.scalesim import load_scalesim
from polystage.frontends.torch import load_torch

__all__ = [
    "ImportedModel",
    "TensorSpec",
    "load",
    "load_jax",
    "load_mlir",
    "load_onnx",
    "load_scalesim",
    "load_torch",
    "new_context",
]

_KINDS = {
    ".onnx": "ONNX",
    ".pt2": "torch.export",
    ".mlir": "MLIR text, StableHLO included",
    ".mlirbc": "MLIR bytecode or StableHLO portable artifact",
    ".csv": "topology of SCALE-Sim",
}


def load(
    source: Any,
    bind: Mapping[str, int] | None = None,
    *,
    batch: int | None = None,
    inputs: Sequence[Any] = (),
    name: str = "",
) -> ImportedModel:
    """Import a model: one function on static tensors (or memrefs), weights as constants.

    `source` is a file (`.onnx`, `.pt2`, `.mlir`, `.mlirbc`, `.csv`), an `onnx.ModelProto`, a
    PyTorch module or JAX function with its example `inputs`, or a `torch.export.ExportedProgram`.
    `bind` gives the dynamic dimensions of an ONNX model their extents. `batch` is the first extent
    of every input, whatever the model was exported with; that no item depends on another is proved,
    and the reference is that of the original model, item by item.

    Raises: FrontendError.
    """
    if isinstance(source, str | Path):
        return _load_file(Path(source), bind or {}, batch)
    if isinstance(source, ModelProto):
        return load_onnx(source, bind, batch)
    if any(c.__module__.startswith("torch.") for c in type(source).__mro__):
        _refuse_bind(bind, "PyTorch program")
        return load_torch(source, inputs, name, batch)
    if callable(source):
        _refuse_bind(bind, "JAX function")
        return load_jax(source, inputs, name, batch)
    raise FrontendError(
        f"cannot import a {type(source).__name__}",
        help="give a file, an onnx.ModelProto, a PyTorch module or a JAX function",
    )


def _load_file(path: Path, bind: Mapping[str, int], batch: int | None) -> ImportedModel:
    if path.suffix == ".onnx":
        return load_onnx(path, bind, batch)
    if not path.is_file():
        raise FrontendError(f"no such file: {path}")
    if path.suffix == ".pt2":
        _refuse_bind(bind, "exported program")
        return load_torch(path, batch=batch)
    if path.suffix in (".mlir", ".mlirbc"):
        _refuse_bind(bind, "MLIR module")
        refuse_batch(batch, "an MLIR module", str(path))
        return load_mlir(path)
    if path.suffix == ".csv":
        _refuse_bind(bind, "topology")
        refuse_batch(batch, "a topology", str(path))
        return load_scalesim(path)
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
