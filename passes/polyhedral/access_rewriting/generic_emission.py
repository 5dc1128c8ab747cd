"""Writing a planned operation: views, overlays, the operation with the old one's body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polystage.dialects.npu.overlay import overlay
from polystage.mlir import arith, ir, linalg, memref
from polystage.passes.polyhedral.access_rewriting.index_forms import (
    IndexForm,
    make,
    to_affine,
)
from polystage.passes.polyhedral.access_rewriting.operands import TensorOperation, loop_values
from polystage.passes.polyhedral.access_rewriting.overlays import VirtualArray, dropped
from polystage.passes.polyhedral.access_rewriting.splitting import loop_variable
from polystage.passes.polyhedral.access_rewriting.view_steps import Transpose, ViewStep
from polystage.passes.polyhedral.access_rewriting.windows import plain_variable
from polystage.passes.polyhedral.index_arithmetic import index_value

_OWN_ATTRIBUTES = frozenset({"indexing_maps", "iterator_types", "operandSegmentSizes"})


@dataclass(frozen=True)
class NewOperand:
    """An operand to be: a view of an array, of an old operand's value, or a virtual array."""

    number: int
    """The old operand whose element it provides to the body."""
    is_output: bool
    shape: tuple[int, ...]
    index: tuple[IndexForm, ...]
    array: str | None = None
    steps: tuple[ViewStep, ...] = ()
    virtual: VirtualArray | None = None
    kept: ir.Value | None = None

    def moves_with(self, number: int) -> bool:
        """Whether a variable occurs in the index."""
        return any(v == number for form in self.index for v, _ in form.coefficients)

    def without(self, variables: set[int]) -> NewOperand:
        """Return the operand without variables that are always 0."""
        index = tuple(
            make({v: c for v, c in form.coefficients if v not in variables}, form.constant)
            for form in self.index
        )
        return replace(self, index=index)

    def emit(self, values: Mapping[str, ir.Value], indices: Sequence[ir.Value]) -> ir.Value:
        """Create its views at the insertion point."""
        if self.virtual is not None:
            return _emit_virtual(self.virtual, values, indices)
        value = self.kept if self.array is None else values[self.array]
        assert value is not None
        return _through(self.steps, value, indices)


def _emit_virtual(
    virtual: VirtualArray, values: Mapping[str, ir.Value], indices: Sequence[ir.Value]
) -> ir.Value:
    base: ir.Value | None = None
    for layer in reversed(virtual.layers):
        source = _through(layer.steps, values[layer.array], indices)
        if base is None and layer.covers_all:
            base = source
            continue
        fill = virtual.fill if base is None else None
        base = overlay(source, layer.offsets, virtual.shape, base, fill)
    assert base is not None
    return base


def _through(steps: Sequence[ViewStep], value: ir.Value, indices: Sequence[ir.Value]) -> ir.Value:
    for step in steps:
        value = step.emit(value, indices)
    return value


@dataclass(frozen=True)
class TensorRewrite:
    """A linalg.generic or memref.copy to be replaced."""

    operation: TensorOperation
    operands: tuple[NewOperand, ...]
    constants: Mapping[int, ir.Attribute]
    """Values of old operands that are constant everywhere."""
    dropped: frozenset[int]
    """Loops of extent 1 that go."""
    copied: int | None
    """The operand that a new body yields; None where the old body stays."""

    @property
    def repeats_inputs(self) -> bool:
        """Whether a loop of several iterations moves an output, but no input."""
        return any(
            not any(o.moves_with(loop) for o in self.operands if not o.is_output)
            for loop in self.operation.loops.own
            if self.operation.loops.extent(loop) > 1
            and any(o.moves_with(loop) for o in self.operands if o.is_output)
        )

    def emit(self, values: Mapping[str, ir.Value]) -> ir.Operation:
        """Replace the operation and return the new one."""
        op = self.operation.op
        indices = loop_values(op) if self.operation.loops.depth else []
        with op.context, ir.InsertionPoint(op), op.location:
            moved = [operand.emit(values, indices) for operand in self.operands]
            new = self._emit_copy(moved) or self._emit_generic(moved)
        for name in op.attributes:
            if name not in _OWN_ATTRIBUTES:
                new.attributes[name] = op.attributes[name]
        op.erase()
        return new

    # --- copies -------------------------------------------------------------------------------

    def _emit_copy(self, values: Sequence[ir.Value]) -> ir.Operation | None:
        """Write a memref.copy if views suffice."""
        if not self.operation.is_copy or len(self.operands) != 2 or self.operands[0].virtual:
            return None
        source, target = self.operands
        moving = [self._moving_dims(operand) for operand in (source, target)]
        if moving[0] is None or moving[1] is None or set(moving[0]) != set(moving[1]):
            return None
        if source.shape == target.shape and moving[0] == moving[1]:
            return memref.CopyOp(values[0], values[1]).operation
        if not moving[0]:
            return None
        if not len(moving[1]) == len(target.shape) == len(source.shape):
            values = [
                dropped(operand.shape, sorted(dims.values())).emit(value, [])
                for operand, dims, value in zip(self.operands, moving, values, strict=True)
                if dims is not None
            ]
        order = {v: place for place, v in enumerate(moving[0])}
        permutation = tuple(order[v] for v in moving[1])
        if permutation != tuple(range(len(order))):
            values = [Transpose(permutation).emit(values[0], []), values[1]]
        return memref.CopyOp(values[0], values[1]).operation

    def _moving_dims(self, operand: NewOperand) -> dict[int, int] | None:
        """Return the dimension of each loop of more than one iteration; None for other maps."""
        dims: dict[int, int] = {}
        for dim, (extent, form) in enumerate(zip(operand.shape, operand.index, strict=True)):
            number = plain_variable(form)
            if extent == 1 and (number is not None or not form.terms):
                continue
            if number is None or number in dims:
                return None
            dims[number] = dim
        return dims

    # --- linalg.generic -----------------------------------------------------------------------

    def _emit_generic(self, values: Sequence[ir.Value]) -> ir.Operation:
        dims = self._dims()
        exprs = self._variables(dims)
        maps = [
            ir.AffineMap.get(len(dims), 0, [to_affine(form, exprs) for form in operand.index])
            for operand in self.operands
        ]
        inputs = sum(not operand.is_output for operand in self.operands)
        new = linalg.GenericOp(
            [],
            values[:inputs],
            values[inputs:],
            ir.ArrayAttr.get([ir.AffineMapAttr.get(map_) for map_ in maps]),
            ir.ArrayAttr.get(self._iterators()),
        )
        types = [_element_type(value) for value in values]
        block = new.regions[0].blocks.append(*types, arg_locs=[new.location] * len(types))
        if self.copied is not None:
            provided = self._provided(block)[self.copied]
            with ir.InsertionPoint(block):
                linalg.YieldOp([provided])
        else:
            self._move_body(block)
        return new.operation

    def _dims(self) -> list[int]:
        return [v for v in self.operation.loops.own if v not in self.dropped]

    def _variables(self, dims: Sequence[int]) -> list[Any]:
        """Return an expression for each variable that is a loop of the new operation."""
        exprs: list[Any] = [None] * len(self.operation.loops.ranges)
        for place, number in enumerate(dims):
            exprs[number] = ir.AffineExpr.get_dim(place)
        for number in self.dropped:
            exprs[number] = ir.AffineConstantExpr.get(0)
        return exprs

    def _iterators(self) -> list[ir.Attribute]:
        kinds: list[ir.Attribute] = []
        for loop, kind in enumerate(self.operation.iterators):
            attribute = ir.Attribute.parse(f"#linalg.iterator_type<{kind}>")
            digits = self.operation.loops.digits(loop)
            kinds += [attribute for d in digits if d.variable not in self.dropped]
        return kinds

    def _provided(self, block: ir.Block) -> dict[int, ir.Value]:
        """Return the value of each old operand in the new body; an added input comes first."""
        provided: dict[int, ir.Value] = {}
        for operand, argument in zip(self.operands, block.arguments, strict=True):
            provided.setdefault(operand.number, argument)
        with ir.InsertionPoint.at_block_begin(block):
            for number, fill in self.constants.items():
                provided[number] = arith.ConstantOp(fill.type, fill).result
        return provided

    def _move_body(self, block: ir.Block) -> None:
        old = self.operation.op.regions[0].blocks[0]
        provided = self._provided(block)
        for number, argument in enumerate(old.arguments):
            argument.replace_all_uses_with(provided[number])
        for op in list(old.operations):
            block.append(op)
        self._rewrite_indices(block)

    def _rewrite_indices(self, block: ir.Block) -> None:
        """Compute the index of a split loop from those of its parts."""
        dims = self._dims()
        loops = self.operation.loops
        forms = [loop_variable(loops, loop) for loop in range(len(self.operation.iterators))]
        expected = list(range(loops.depth, loops.depth + len(forms)))
        if dims == expected:
            return
        exprs = self._variables(dims)
        for op in [view.operation for view in block.operations]:
            if op.name != "linalg.index":
                continue
            loop = ir.IntegerAttr(op.attributes["dim"]).value
            expr = to_affine(forms[loop], exprs)
            with ir.InsertionPoint(op), op.location:
                used = [linalg.IndexOp(d).result for d in range(len(dims))]
                op.results[0].replace_all_uses_with(index_value(expr, used, ()))
            op.erase()


def _element_type(value: ir.Value) -> ir.Type:
    return value.type.element_type if isinstance(value.type, ir.ShapedType) else value.type
