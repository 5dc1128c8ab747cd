"""Indices that come from constants of the module: what a gather of a fixed order reads.

Frontends write `x[:, [2, 1, 0]]` as loads at positions that an integer constant holds. Their values
are computed here for every point of an operation's loops, and put into expressions of the loops.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import numpy as np

from polystage.constants import constant_array
from polystage.dialects.npu.views import defining_op
from polystage.dtypes import numpy_dtype
from polystage.errors import PolystageError
from polystage.evaluator.scalar_ops import constant_scalar, is_scalar_op, scalar_function
from polystage.mlir import ir
from polystage.polyhedral.expressions import evaluate
from polystage.polyhedral.operations import (
    indexing_maps,
    is_memref,
    loop_extents,
    slice_of,
    walk_block,
)
from polystage.polyhedral.quasi_affine_fit import Run, fit_box
from polystage.polyhedral.scalar import LOADS
from polystage.polyhedral.statements import Body

MAX_ELEMENTS = 2**22
"""Larger constants and iteration boxes are not looked at."""


MAX_ALTERNATIVES = 8
"""How many accesses a load may become whose indices come in several runs each."""


class _NotConstantError(Exception):
    """A value that depends on more than constants and loop indices."""


class ConstantArrays:
    """The integer arrays of a module that hold constants, seen from one of its functions."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._globals: dict[str, Any] | None = None
        self._known: dict[ir.Value, np.ndarray | None] = {}

    def array(self, value: ir.Value) -> np.ndarray | None:
        """Return the elements of a memref: of a constant, or one in another shape; else None."""
        if value not in self._known:
            self._known[value] = None
            type_ = ir.MemRefType(value.type)
            is_integer = isinstance(type_.element_type, ir.IntegerType | ir.IndexType)
            if is_integer and type_.has_static_shape and np.prod(type_.shape) <= MAX_ELEMENTS:
                self._known[value] = self._computed(value)
        return self._known[value]

    def _computed(self, value: ir.Value) -> np.ndarray | None:
        op = defining_op(value)
        if op is None:
            return None
        if op.name == "memref.get_global":
            return self._global(ir.FlatSymbolRefAttr(op.attributes["name"]).value)
        if op.name in ("memref.collapse_shape", "memref.expand_shape"):
            source = self.array(op.operands[0])
            return None if source is None else source.reshape(list(value.type.shape))
        return None

    def _global(self, name: str) -> np.ndarray | None:
        if self._globals is None:
            module = self._function.operation.parent
            self._globals = {
                op.attributes["sym_name"].value: op.operation
                for op in module.regions[0].blocks[0].operations
                if op.operation.name == "memref.global"
            }
        op = self._globals.get(name)
        if op is None or "constant" not in op.attributes:
            return None
        return constant_array(op.attributes["initial_value"], op.context)


class ConstantIndices:
    """Index values inside of one linalg operation."""

    def __init__(self, op: Any, arrays: ConstantArrays) -> None:
        self._op = op
        self._arrays = arrays
        self._known: dict[ir.Value, np.ndarray] = {}

    @cached_property
    def _maps(self) -> list[ir.AffineMap]:
        return indexing_maps(self._op)

    @cached_property
    def _grid(self) -> list[np.ndarray]:
        """The index of each loop, along an axis of its own."""
        return list(np.indices(loop_extents(self._op, self._maps), sparse=True))

    def runs(self, indices: Sequence[ir.Value], shape: Sequence[int]) -> list[list[Run]] | None:
        """Return the index that a load uses, as alternatives of one run per index, or None.

        All alternatives together hold everywhere, no two at once, and only for indices inside of
        `shape`.
        """
        choices: list[list[Run]] = []
        for index, extent in zip(indices, shape, strict=True):
            try:
                values = self._values(index)
            except (_NotConstantError, PolystageError):
                return None
            if values.min() < 0 or values.max() >= extent:
                return None
            runs = fit_box(np.asarray(values, np.int64))
            if runs is None:
                return None
            choices.append(runs)
        if prod(map(len, choices)) > MAX_ALTERNATIVES:
            return None
        return [list(choice) for choice in product(*choices)]

    def _values(self, value: ir.Value) -> np.ndarray:
        """Return the values at all points of the loops, with extent 1 where a loop is of no
        matter."""
        if value not in self._known:
            self._known[value] = self._computed(value)
        return self._known[value]

    def _computed(self, value: ir.Value) -> np.ndarray:
        op = defining_op(value)
        if op is None:
            return self._argument(value)
        if op.name == "linalg.index":
            return self._grid[ir.IntegerAttr(op.attributes["dim"]).value]
        if op.name == "arith.constant":
            scalar = constant_scalar(op.attributes["value"], value.type)
            return np.reshape(scalar, [1] * len(self._grid))
        if op.name == "memref.load":
            indices = [self._values(operand) for operand in list(op.operands)[1:]]
            return self._elements(op.operands[0], indices)
        if not is_scalar_op(op.name) or len(op.results) != 1:
            raise _NotConstantError
        arguments = [self._values(operand) for operand in op.operands]
        _refuse_large(arguments)
        return scalar_function(op)(*arguments)

    def _argument(self, value: ir.Value) -> np.ndarray:
        if value.owner != self._op.regions[0].blocks[0]:
            raise _NotConstantError
        number = ir.BlockArgument(value).arg_number
        operand, map_ = self._op.operands[number], self._maps[number]
        if not is_memref(operand):
            return self._values(operand)
        return self._elements(operand, [evaluate(expr, self._grid) for expr in map_.results])

    def _elements(self, memref: ir.Value, indices: list[Any]) -> np.ndarray:
        array = self._arrays.array(memref)
        if array is None:
            raise _NotConstantError
        for index, extent in zip(indices, array.shape, strict=True):
            if np.min(index) < 0 or np.max(index) >= extent:
                raise _NotConstantError
        _refuse_large(indices)
        found = array[tuple(indices)]
        dtype = numpy_dtype(ir.MemRefType(memref.type).element_type)
        return np.asarray(found, dtype).reshape(
            np.broadcast_shapes([1] * len(self._grid), found.shape)
        )


def read_for_indices_only(block: ir.Block, body: Body) -> list[ir.Value]:
    """Return the values that a body reads to compute indices which are known without them."""
    needed: set[ir.Value] = set()
    todo = list(list(block.operations)[-1].operands)
    while todo:
        value = todo.pop()
        if value in needed:
            continue
        needed.add(value)
        op = defining_op(value)
        leaf = body.leaf_of.get(value)
        is_known = leaf is not None and body.reads[leaf].indices is not None
        if op is not None and not is_known:
            todo.extend(op.operands)
    indices = [v for op in walk_block(block) if op.name in LOADS for v in list(op.operands)[1:]]
    computing = {part for index in indices for part in slice_of(index)}
    return [value for value in body.leaf_of if value in computing and value not in needed]


def _refuse_large(arrays: Sequence[Any]) -> None:
    if np.prod(np.broadcast_shapes(*(np.shape(array) for array in arrays))) > MAX_ELEMENTS:
        raise _NotConstantError
