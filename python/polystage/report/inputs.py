"""The inputs of a run: from a file, or random ones of the model's shapes."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from polystage.errors import PolystageError


class Spec(Protocol):
    """What a model says about an input."""

    @property
    def name(self) -> str:
        """Its name in the model."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Its element type."""
        ...


def random_inputs(specs: Sequence[Spec], seed: int) -> dict[str, np.ndarray]:
    """Return inputs that depend on nothing but `seed`.

    Floats are standard normal. Integers are 0 or 1, which every table that they may index has.
    """
    generator = np.random.default_rng(seed)
    return {spec.name: _random(spec, generator) for spec in specs}


def _random(spec: Spec, generator: np.random.Generator) -> np.ndarray:
    if _is_integer(spec.dtype):
        return generator.integers(0, 2, spec.shape).astype(spec.dtype)
    return generator.standard_normal(spec.shape).astype(spec.dtype)


def load_inputs(path: str, specs: Sequence[Spec]) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` file, held to what the model takes.

    Raises: PolystageError where the file is not one, or a name, shape or type does not fit.
    """
    arrays = _read(path)
    names = [spec.name for spec in specs]
    for name in arrays:
        if name not in names:
            raise PolystageError(
                f"{path}: the model has no input '{name}'", help=f"inputs: {', '.join(names)}"
            )
    return {spec.name: _fitting(path, spec, arrays) for spec in specs}


def _read(path: str) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise PolystageError(f"cannot open '{path}': no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise PolystageError(f"{path}: not an .npz file of arrays: {error}") from None


def _fitting(path: str, spec: Spec, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if spec.name not in arrays:
        wanted = f"{spec.dtype} of shape {spec.shape}"
        raise PolystageError(f"{path}: input '{spec.name}' is missing", help=f"it is {wanted}")
    array = arrays[spec.name]
    if array.shape != spec.shape:
        raise PolystageError(
            f"{path}: input '{spec.name}' has shape {array.shape}, but the model takes {spec.shape}"
        )
    if array.dtype == spec.dtype:
        return array
    if _is_integer(array.dtype) != _is_integer(spec.dtype):
        raise PolystageError(
            f"{path}: input '{spec.name}' is {array.dtype}, but the model takes {spec.dtype}"
        )
    return array.astype(spec.dtype)


def _is_integer(dtype: np.dtype) -> bool:
    return dtype.kind in "iub"
