"""A model as every frontend hands it on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from polystage.dialects import npu
from polystage.mlir import ir

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class ImportedModel:
    """A model in MLIR, with what is needed to call it and to check it.

    `module` holds one public function, `@main`, whose arguments and results carry their names as
    `npu.name`. `form` is `tensors`, or `buffers` where the file was on memrefs already. `reference`
    names what `run_reference` computes with: `onnxruntime`, `torch`, `jax` or `jit`.
    """

    name: str
    module: ir.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    form: str
    reference: str
    run_reference: Callable[[Arrays], dict[str, np.ndarray]]


def new_context() -> ir.Context:
    """Return a context that knows the npu dialect and, with the importers, those of torch-mlir."""
    context = ir.Context()
    npu.load(context)
    return context
