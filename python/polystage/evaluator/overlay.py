"""An `npu.overlay` on numpy arrays: a view without storage, put together when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Overlay:
    """`source` from `offsets` on, lying over `base`."""

    source: np.ndarray
    offsets: tuple[int, ...]
    base: np.ndarray | Overlay

    def elements(self) -> np.ndarray:
        """Return what the overlay shows now, as a new array."""
        shown = np.array(elements_of(self.base))
        window = zip(self.offsets, self.source.shape, strict=True)
        shown[tuple(slice(offset, offset + size) for offset, size in window)] = self.source
        return shown


def elements_of(value: Any) -> Any:
    """Return the elements of an overlay; any other value is what it is."""
    return value.elements() if isinstance(value, Overlay) else value
