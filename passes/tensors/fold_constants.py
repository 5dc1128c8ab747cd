"""The pass fold-constants."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from polystage.constants import constant_attr
from polystage.dtypes import numpy_dtype
from polystage.errors import PolystageError
from polystage.evaluator.module_evaluator import Evaluator
from polystage.mlir import arith, func, ir
from polystage.passes.registry import Pass, register_pass
from polystage.passes.tensors.generic import captured_values, inputs_of, is_broadcast, is_fill

_FOLDABLE = (
    "arith.constant",
    "tensor.cast",
    "tensor.collapse_shape",
    "tensor.concat",
    "tensor.empty",
    "tensor.expand_shape",
    "tensor.extract",
    "tensor.extract_slice",
    "tensor.from_elements",
    "tensor.insert_slice",
    "tensor.pad",
    "tensor.splat",
)
_DIALECTS = ("linalg", "arith", "math")
_RESHAPES = ("tensor.collapse_shape", "tensor.expand_shape")
_CHEAP = ("arith.constant", "tensor.empty", "tensor.splat")
_MAX_INDICES = 1 << 16


@register_pass
@dataclass
class FoldConstantsPass(Pass):
    """Compute at compile time what depends on weights only.

    Transposed and reshaped weights, reciprocals of variances, masks and position tables become
    weights themselves. A constant is not blown up: fills and broadcasts stay as they are, and a
    result may have at most `max_elements` elements unless its operands have as many.
    """

    name = "fold-constants"
    input_form = "tensors"
    output_form = "tensors"

    max_elements: int = 1 << 22
    """Elements that a result may have whose operands are smaller than itself."""

    def run(self, module: ir.Module) -> None:
        """Replace every known value that something unknown uses."""
        with module.context:
            for function in module.body:
                if isinstance(function, func.FuncOp) and function.regions[0].blocks:
                    self._fold(module, function)

    def _fold(self, module: ir.Module, function: func.FuncOp) -> None:
        known = self._known_operations(function)
        needed: list[ir.Operation] = []
        for op in reversed(list(function.regions[0].blocks[0])):
            operation = op.operation
            if operation not in known:
                continue
            users = [_top_level(use.owner) for r in operation.results for use in r.uses]
            if not any(user not in known for user in users):
                continue
            if _stays(operation) and not _are_indices(operation):
                del known[operation]  # it is cheaper to compute than to store
            elif operation.name != "arith.constant":
                needed.append(operation)
        self._materialise(module, needed[::-1])

    def _known_operations(self, function: func.FuncOp) -> dict[ir.Operation, None]:
        """Return the operations whose results can be computed from constants, in order."""
        known: dict[ir.Operation, None] = {}
        for op in function.regions[0].blocks[0]:
            operation = op.operation
            owners = [v.owner for v in (*operation.operands, *captured_values(operation))]
            sources = [o.operation for o in owners if not isinstance(o, ir.Block)]
            if (
                _is_foldable(operation)
                and len(sources) == len(owners)
                and all(source in known for source in sources)
                and self._is_small_enough(operation, sources)
            ):
                known[operation] = None
        return known

    def _is_small_enough(self, op: ir.Operation, sources: Sequence[Any]) -> bool:
        if _stays(op) or op.name == "arith.constant":
            return True
        given = sum(_elements(r.type) for s in sources if not _stays(s) for r in s.results)
        return sum(_elements(r.type) for r in op.results) <= max(self.max_elements, 2 * given)

    def _materialise(self, module: ir.Module, needed: Sequence[ir.Operation]) -> None:
        evaluator = Evaluator(module)
        environment: dict[ir.Value, Any] = {}
        for op in needed:
            try:
                with np.errstate(all="ignore"):
                    _evaluate(evaluator, op, environment)
            except PolystageError as error:
                self.remark(op, f"not folded: {error.message}")
                continue
            for result in op.results:
                _replace(result, environment[result])
            self.count("operations folded")
            self.remark(op, f"'{op.name}' depends on constants only, folded")


def _evaluate(evaluator: Evaluator, op: ir.Operation, environment: dict[ir.Value, Any]) -> None:
    """Execute an operation, after those that it depends on."""
    if all(result in environment for result in op.results):
        return
    for value in (*op.operands, *captured_values(op)):
        if value not in environment:
            _evaluate(evaluator, value.owner.operation, environment)
    evaluator.execute(op, environment)


def _replace(result: ir.Value, value: Any) -> None:
    type_ = result.type
    op = result.owner
    with ir.InsertionPoint(op), op.location:
        if isinstance(type_, ir.RankedTensorType):
            array = np.ascontiguousarray(value, numpy_dtype(type_)).reshape(type_.shape)
            attribute = constant_attr(array, "folded", type_.element_type)
        elif isinstance(type_, ir.FloatType):
            attribute = ir.FloatAttr.get(type_, float(value))
        else:
            attribute = ir.IntegerAttr.get(type_, int(value))
        result.replace_all_uses_with(arith.ConstantOp(type_, attribute).result)


def _is_foldable(op: ir.Operation) -> bool:
    if op.name in _FOLDABLE:
        return True
    return op.name.split(".")[0] in _DIALECTS and len(op.results) > 0


def _stays(op: ir.Operation) -> bool:
    """Return whether an operation is never stored as a constant: a splat, fill or broadcast, or
    one of them in another shape."""
    while op.name in _RESHAPES and not isinstance(op.operands[0].owner, ir.Block):
        op = op.operands[0].owner.operation
    return op.name in _CHEAP[1:] or is_fill(op) or is_broadcast(op)


def _are_indices(op: ir.Operation) -> bool:
    """Return whether an operation yields few integers that nobody accumulates into."""
    for result in op.results:
        type_ = result.type
        if not isinstance(type_, ir.RankedTensorType) or _elements(type_) > _MAX_INDICES:
            return False
        if str(type_.element_type) not in ("i32", "i64", "index") or op.name == "tensor.empty":
            return False
        for use in result.uses:
            user = use.owner.operation
            if user.name in _RESHAPES and not _are_indices(user):
                return False
            if user.name.startswith("linalg.") and use.operand_number >= len(inputs_of(user)):
                return False
    return True


def _elements(type_: ir.Type) -> int:
    return prod(type_.shape) if isinstance(type_, ir.ShapedType) else 1


def _top_level(op: Any) -> ir.Operation:
    """Return the operation of the function's own block that contains `op`."""
    operation = op.operation
    while operation.parent.name != "func.func":
        operation = operation.parent
    return operation
