"""JAX functions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from polystage.errors import FrontendError
from polystage.frontends.mlir import load_mlir
from polystage.frontends.model import Arrays, ImportedModel


def load_jax(
    function: Callable[..., Any], example_inputs: Sequence[Any], name: str = ""
) -> ImportedModel:
    """Import a JAX function of arrays, with example inputs or `jax.ShapeDtypeStruct`s.

    Raises: FrontendError.
    """
    jax, export = _import_jax()
    name = name or getattr(function, "__name__", "function")
    try:
        exported = export.export(jax.jit(function))(*example_inputs)
    except Exception as error:  # export runs the user's code, anything can come out
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FrontendError(f"{name}: jax.export failed: {first}") from error
    model = load_mlir(exported.mlir_module_serialized, name)
    inputs = [spec.name for spec in model.inputs]
    outputs = [spec.name for spec in model.outputs]

    def reference(arrays: Arrays) -> dict[str, np.ndarray]:
        leaves = jax.tree_util.tree_leaves(exported.call(*(arrays[i] for i in inputs)))
        return dict(zip(outputs, map(np.asarray, leaves), strict=True))

    return replace(model, reference="jax", run_reference=reference)


def _import_jax() -> tuple[Any, Any]:
    try:
        import jax
        from jax import export
    except ModuleNotFoundError:
        raise FrontendError(
            "JAX functions need jax, which is not installed", help="pip install 'polystage[jax]'"
        ) from None
    return jax, export
