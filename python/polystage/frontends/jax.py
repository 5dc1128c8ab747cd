"""JAX functions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from polystage.errors import FrontendError
from polystage.frontends.batch import check_batch, example_batch, with_items
from polystage.frontends.mlir import load_mlir
from polystage.frontends.model import Arrays, ImportedModel


def load_jax(
    function: Callable[..., Any],
    example_inputs: Sequence[Any],
    name: str = "",
    batch: int | None = None,
) -> ImportedModel:
    """Import a JAX function of arrays, with example inputs or `jax.ShapeDtypeStruct`s.

    With a `batch`, the function is traced for example inputs of that many items.

    Raises: FrontendError.
    """
    name = name or getattr(function, "__name__", "function")
    check_batch(batch, name)
    if batch is None:
        return _load(function, example_inputs, name)
    jax, _ = _import_jax()
    item = example_batch(
        [i.shape for leaf in example_inputs for i in jax.tree_util.tree_leaves(leaf)], name
    )
    examples = jax.tree_util.tree_map(lambda i: _batched(jax, i, batch), list(example_inputs))
    model, single = (_load(function, i, name) for i in (examples, example_inputs))
    inputs = [i.name for i in model.inputs if i.shape]
    return with_items(model, inputs, item, batch, single.run_reference)


def _batched(jax: Any, example: Any, batch: int) -> Any:
    shape = (batch, *example.shape[1:]) if example.shape else ()
    return jax.ShapeDtypeStruct(shape, example.dtype)


def _load(function: Callable[..., Any], example_inputs: Sequence[Any], name: str) -> ImportedModel:
    jax, export = _import_jax()
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
