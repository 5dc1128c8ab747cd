"""Evaluation that refuses what only a vectorised reading of an operation makes well defined.

Numpy reads all operands before it writes; loops on a machine do not. So an operation may read what
it writes only element by element, or not at all.
"""

from typing import Any

import numpy as np

from polystage.evaluator import module_evaluator
from polystage.evaluator.module_evaluator import Evaluator, indexing_maps, loop_extents
from polystage.evaluator.overlay import Overlay
from polystage.mlir import ir


class OverlapError(Exception):
    """An instance of an operation touches what another instance writes."""


class StrictEvaluator(Evaluator):
    """Checks the operands of every linalg operation and copy before executing it."""

    def execute(self, op: ir.Operation, environment: dict[ir.Value, Any]) -> None:
        if op.name == "memref.copy":
            source, target = (addresses(environment[v]) for v in op.operands)
            if not np.array_equal(target, source) and np.isin(target, source).any():
                raise OverlapError(f"copies onto itself: {op}")
        super().execute(op, environment)

    def linalg(self, op: ir.Operation, environment: dict[ir.Value, Any]) -> list[Any]:
        arrays = [addresses(environment[v]) for v in op.operands]
        maps = indexing_maps(op)
        extents = loop_extents(maps, [a.shape for a in arrays])
        block = op.regions[0].blocks[0]
        inputs = module_evaluator._input_count(op, len(arrays))
        grids = [
            np.broadcast_to(module_evaluator._view(m, a, extents, False), extents)
            for m, a in zip(maps, arrays, strict=True)
        ]
        for n in range(inputs, len(grids)):
            for m, grid in enumerate(grids):
                is_read = m >= inputs or next(iter(block.arguments[m].uses), None) is not None
                if m == n or not is_read:
                    continue
                if not self._is_allowed(grids[n], grid, m < inputs):
                    raise OverlapError(f"operand {m} overlaps operand {n} in part: {op}")
            for inner in block.operations:
                if inner.operation.name == "memref.load":
                    table = addresses(environment[inner.operation.operands[0]])
                    if np.isin(grids[n], table).any():
                        raise OverlapError(f"loads from what it writes: {op}")
        return super().linalg(op, environment)

    @staticmethod
    def _is_allowed(written: np.ndarray, other: np.ndarray, may_be_equal: bool) -> bool:
        """Tell whether no instance touches what another instance writes."""
        if may_be_equal and len(np.unique(written)) == written.size:
            other = other[other != written]
        return not np.isin(other, written).any()


def addresses(value: Any) -> np.ndarray:
    """Return where each element of an array lies; negative for one that lies nowhere."""
    if isinstance(value, Overlay):
        places = addresses(value.base).copy()
        source = addresses(value.source)
        window = zip(value.offsets, source.shape, strict=True)
        places[tuple(slice(o, o + n) for o, n in window)] = source
        return places
    array = np.asarray(value)
    start = array.__array_interface__["data"][0]
    steps = np.array(array.strides, np.int64).reshape(-1, *[1] * array.ndim)
    return np.asarray(start + (steps * np.indices(array.shape)).sum(0), np.int64)
