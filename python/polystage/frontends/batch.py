"""Batches: what a batched model must compute, item by item, and the words for what cannot be."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from polystage.errors import FrontendError
from polystage.frontends.independence import check_independence
from polystage.frontends.model import Arrays, ImportedModel

Reference = Callable[[Arrays], dict[str, np.ndarray]]


def check_batch(batch: int | None, name: str) -> None:
    """Hold a batch size to what one can be.

    Raises: FrontendError.
    """
    if batch is not None and batch < 1:
        raise FrontendError(f"{name}: a batch of {batch}: it must be at least 1")


def refuse_batch(batch: int | None, what: str, name: str) -> None:
    """Raise a FrontendError if a batch size is asked of a model whose shapes are fixed."""
    if batch is not None:
        raise FrontendError(
            f"{name}: the batch cannot be set: the shapes of {what} are fixed",
            help="export the model with the batch to compile it for",
        )


def with_items(
    model: ImportedModel, inputs: Sequence[str], item: int, batch: int, run_item: Reference
) -> ImportedModel:
    """Return a batched model whose reference is that of the original, run item by item.

    `item` is the batch that `run_item` takes. That no item depends on another is proved here.

    Raises: FrontendError at the first operation that lets one depend on another.
    """
    if batch > 1:
        check_independence(model, inputs, batch)

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        parts = [
            run_item({n: a[i : i + item] if n in inputs else a for n, a in arrays.items()})
            for i in range(0, batch, item)
        ]
        return {o.name: _joined([p[o.name] for p in parts], o.shape) for o in model.outputs}

    return replace(model, run_reference=run)


def _joined(parts: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Join the outputs of items along the dimension that holds the batch, if one does."""
    for axis, (one, all_items) in enumerate(zip(parts[0].shape, shape, strict=True)):
        if one != all_items:
            return np.concatenate(parts, axis)
    return parts[0]


def repeated(array: Any, batch: int) -> np.ndarray:
    """Return an example input with `batch` items, those that it has in turn."""
    return np.resize(np.asarray(array), (batch, *array.shape[1:]))


def example_batch(shapes: Sequence[tuple[int, ...]], name: str) -> int:
    """Return the common first extent of example inputs; scalars have none.

    Raises: FrontendError where there is none.
    """
    found = sorted({shape[0] for shape in shapes if shape})
    if len(found) != 1:
        listed = ", ".join(map(str, found)) or "none"
        raise FrontendError(
            f"{name}: the batch cannot be set: the example inputs have no common first dimension "
            f"(found {listed})",
            help="give example inputs with the batch to compile for",
        )
    return found[0]
