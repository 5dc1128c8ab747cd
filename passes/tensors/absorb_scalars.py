"""The pass absorb-scalars."""

from __future__ import annotations

from dataclasses import dataclass

from polystage.forms import walk
from polystage.mlir import ir, linalg
from polystage.passes.registry import Pass, register_pass
from polystage.passes.tensors.generic import (
    affine_maps,
    captured_values,
    element_type,
    inputs_of,
    outputs_of,
)

_CALCULATES = ("arith.", "math.")


@register_pass
@dataclass
class AbsorbScalarsPass(Pass):
    """Let bodies read scalars from tensors as operands, not from outside.

    %s = tensor.extract %t[] ; linalg.generic ins(%x) { .. use of %s .. }
        ->  linalg.generic ins(%x, %t) maps (.., () ) { ^bb0(%x, %s, ..) .. use of %s .. }

    Scalar arithmetic between the read and the body moves into the body. A scalar that does not come
    from tensors at constant places stays outside, and the lowering refuses it.
    """

    name = "absorb-scalars"
    input_form = "tensors"
    output_form = "tensors"

    def run(self, module: ir.Module) -> None:
        """Absorb the scalars of every linalg.generic."""
        with module.context:
            for op in list(walk(module.operation)):
                if op.name == "linalg.generic":
                    self._absorb(op)

    def _absorb(self, op: ir.Operation) -> None:
        scalars = dict.fromkeys(
            v
            for v in (*inputs_of(op), *captured_values(op))
            if not isinstance(v.type, ir.ShapedType) and not _is_constant(v)
        )
        reads = [_reads_of(value) for value in scalars]
        known = [r for r in reads if r is not None]
        if not scalars or len(known) != len(reads):
            return
        leaves = list(dict.fromkeys(leaf for r in known for leaf in r))
        with ir.InsertionPoint(op), op.location:
            new = _rebuild(op, leaves, list(scalars))
        for old, result in zip(op.results, new.results, strict=True):
            old.replace_all_uses_with(result)
        op.erase()
        self.count("scalars absorbed", len(scalars))


def _is_constant(value: ir.Value) -> bool:
    return not isinstance(value.owner, ir.Block) and value.owner.operation.name == "arith.constant"


def _reads_of(value: ir.Value) -> list[ir.Operation] | None:
    """Return the tensor.extract operations that a scalar is computed from, or None."""
    if isinstance(value.owner, ir.Block):
        return None
    op = value.owner.operation
    if op.name == "arith.constant":
        return []
    if op.name == "tensor.extract":
        return [op] if all(_is_constant(i) for i in list(op.operands)[1:]) else None
    if not op.name.startswith(_CALCULATES):
        return None
    found: list[ir.Operation] = []
    for operand in op.operands:
        reads = _reads_of(operand)
        if reads is None:
            return None
        found += reads
    return found


def _rebuild(op: ir.Operation, leaves: list[ir.Operation], scalars: list[ir.Value]) -> ir.Operation:
    """Build `op` with the tensors that `leaves` read as further inputs."""
    old_inputs, outputs = inputs_of(op), outputs_of(op)
    kept = [i for i, v in enumerate(old_inputs) if v not in scalars]
    maps = affine_maps(op)
    read_maps = [_constant_map(leaf, maps[0].n_dims) for leaf in leaves]
    all_maps = [*(maps[i] for i in kept), *read_maps, *maps[len(old_inputs) :]]
    inputs = [*(old_inputs[i] for i in kept), *(leaf.operands[0] for leaf in leaves)]
    new = linalg.GenericOp(
        [r.type for r in op.results],
        inputs,
        outputs,
        ir.ArrayAttr.get([ir.AffineMapAttr.get(m) for m in all_maps]),
        op.attributes["iterator_types"],
    )
    block = new.regions[0].blocks.append(*(element_type(v.type) for v in (*inputs, *outputs)))
    old_block = op.regions[0].blocks[0]
    old_arguments, arguments = list(old_block.arguments), list(block.arguments)
    values = {old_arguments[i]: arguments[n] for n, i in enumerate(kept)}
    values |= {leaf.results[0]: arguments[len(kept) + n] for n, leaf in enumerate(leaves)}
    values |= dict(zip(old_arguments[len(old_inputs) :], arguments[len(inputs) :], strict=True))
    with ir.InsertionPoint(block):
        for scalar in scalars:
            _copy_into(scalar, values)
        for position, value in enumerate(old_inputs):
            if value in scalars:
                values[old_arguments[position]] = values[value]
        for inner in old_block.operations:
            _clone(inner.operation, values)
    return new.operation


def _copy_into(value: ir.Value, values: dict[ir.Value, ir.Value]) -> None:
    """Repeat the scalar arithmetic that makes `value` at the insertion point."""
    op = value.owner.operation
    if value in values or op.name == "arith.constant":
        return
    for operand in op.operands:
        _copy_into(operand, values)
    _clone(op, values)


def _clone(op: ir.Operation, values: dict[ir.Value, ir.Value]) -> None:
    copy = op.clone()
    for i, operand in enumerate(op.operands):
        copy.operands[i] = values.get(operand, operand)
    for old, result in zip(op.results, copy.results, strict=True):
        values[old] = result


def _constant_map(leaf: ir.Operation, n_dims: int) -> ir.AffineMap:
    """Return the map to the place in the tensor that `leaf` reads."""
    places = [i.owner.operation.attributes["value"].value for i in list(leaf.operands)[1:]]
    return ir.AffineMap.get(n_dims, 0, [ir.AffineConstantExpr.get(p) for p in places])
