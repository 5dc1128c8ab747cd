"""Takes reductions apart from what they reduce, where that is the sum that a contraction goes
into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from polystage.dialects.npu.views import defining_op
from polystage.errors import PassError
from polystage.machine.target import Target
from polystage.mlir import arith, ir, linalg, memref
from polystage.passes.lower.generic_op import Access, GenericOp
from polystage.passes.lower.tensor_engine.contraction import Contraction, multiplied_operands
from polystage.polyhedral.scalar import multiplied_arguments

_FOLDS = ("arith.addf", "arith.maximumf")


def split_folds(operations: Sequence[ir.Operation], target: Target) -> int:
    """Split every reduction over a function of a contraction's result; return how many.

    out = fold(out, relu(a[..] + b[..]))  ->  t[..] = relu(a[..] + b[..])
                                              out = fold(out, t[..])

    Upstream fuses the two, which leaves the contraction with a reader that cannot take its result
    from psum.
    """
    split = 0
    for op in operations:
        if op.name == "linalg.generic" and (value := _folded_value(op)) is not None:
            generic = GenericOp.from_op(op.opview)
            whole = [op.operands[a.argument] for a in generic.inputs if _walks_all(generic, a)]
            plain = _is_plain(generic) and multiplied_operands(generic) is None
            if plain and any(_is_contracted(v, op, target) for v in whole):
                _split(op, generic, value)
                split += 1
    return split


def _folded_value(op: ir.Operation) -> ir.Value | None:
    """Return what a body folds into its output, if it computes that, or None."""
    if not any("reduction" in str(kind) for kind in op.opview.iterator_types):
        return None
    if len(op.opview.outputs) != 1 or not len(op.opview.inputs):
        return None
    body = op.regions[0].blocks[0]
    if multiplied_arguments(body, len(body.arguments) - 1) is not None:
        return None  # a contraction, whose products nobody wants to see
    fold = defining_op(_uncast(list(body.operations)[-1].operands[0]))
    if fold is None or fold.name not in _FOLDS:
        return None
    output = body.arguments[len(body.arguments) - 1]
    values = [v for v in fold.operands if _uncast(v) != output]
    if len(values) != 1 or (output.type == values[0].type and len(list(output.uses)) != 1):
        return None
    return values[0] if defining_op(_uncast(values[0])) is not None else None


def _uncast(value: ir.Value) -> ir.Value:
    while (op := defining_op(value)) is not None and op.name in ("arith.extf", "arith.truncf"):
        value = op.operands[0]
    return value


def _is_plain(generic: GenericOp) -> bool:
    """Whether every operand walks each of its dimensions with one loop."""
    accesses = (*generic.inputs, *generic.outputs)
    return all(x.single is not None or not x.dims for a in accesses for x in a.index)


def _walks_all(generic: GenericOp, access: Access) -> bool:
    """Whether an operand has an element for every iteration, so that no larger array arises."""
    return all(n == 1 or d in access.dims for d, n in enumerate(generic.extents))


def _is_contracted(value: ir.Value, reader: ir.Operation, target: Target) -> bool:
    """Whether a contraction makes an array for one reader."""
    if defining_op(value) is None:
        return False
    users = [use.owner.operation for use in value.uses if use.owner.operation != reader]
    return any(_is_contraction(user, target) for user in users)


def _is_contraction(op: ir.Operation, target: Target) -> bool:
    if op.name != "linalg.generic":
        return False
    try:
        generic = GenericOp.from_op(op.opview).without_unit_dims()
    except PassError:
        return False
    return Contraction.match(generic, target) is not None


def _split(op: ir.Operation, generic: GenericOp, value: ir.Value) -> None:
    """Compute `value` by an operation of its own, in front, and let `op` fold its result."""
    body = op.regions[0].blocks[0]
    n_inputs, n_loops = len(op.opview.inputs), len(generic.extents)
    element = ir.MemRefType(op.opview.outputs[0].type).element_type
    maps = list(ir.ArrayAttr(op.attributes["indexing_maps"]))
    whole = ir.AffineMapAttr.get(ir.AffineMap.get_identity(n_loops))
    with ir.InsertionPoint(op), op.location:
        array = memref.AllocOp(ir.MemRefType.get(list(generic.extents), element), [], []).result
        parallel = ir.Attribute.parse("#linalg.iterator_type<parallel>")
        kinds = ir.ArrayAttr.get([parallel] * n_loops)
        inputs, front_maps = list(op.opview.inputs), [*maps[:n_inputs], whole]
        front = linalg.GenericOp([], inputs, [array], ir.ArrayAttr.get(front_maps), kinds)
        _fill_front(front, body, value, element)
        fold = linalg.GenericOp(
            [],
            [array],
            list(op.opview.outputs),
            ir.ArrayAttr.get([whole, *maps[n_inputs:]]),
            op.attributes["iterator_types"],
        )
        _fill_fold(fold, body, value, element)
    op.erase()


def _fill_front(front: ir.OpView, body: ir.Block, value: ir.Value, element: ir.Type) -> None:
    types = [*(a.type for a in list(body.arguments)[:-1]), element]
    block = front.regions[0].blocks.append(*types)
    known = dict(zip(list(body.arguments)[:-1], list(block.arguments)[:-1], strict=True))
    with ir.InsertionPoint(block):
        for inner in _needed(body, value):
            _clone(inner, known)
        result = known[value]
        if result.type != element:
            result = arith.TruncFOp(element, result).result
        linalg.YieldOp([result])


def _fill_fold(fold: ir.OpView, body: ir.Block, value: ir.Value, element: ir.Type) -> None:
    block = fold.regions[0].blocks.append(element, element)
    first, old = list(block.arguments)
    known: dict[ir.Value, ir.Value] = {body.arguments[len(body.arguments) - 1]: old}
    needed = set(_needed(body, value))
    with ir.InsertionPoint(block):
        same = first.type == value.type
        known[value] = first if same else arith.ExtFOp(value.type, first).result
        for inner in body.operations:
            if inner.operation not in needed:
                _clone(inner.operation, known)


def _needed(body: ir.Block, value: ir.Value) -> list[ir.Operation]:
    """Return the operations of a body that compute a value, in order."""
    wanted = set(_behind(value))
    return [op.operation for op in body.operations if op.operation in wanted]


def _behind(value: ir.Value) -> Iterator[ir.Operation]:
    op = defining_op(value)
    if op is not None and op.name != "arith.constant":
        yield op
        for operand in op.operands:
            yield from _behind(operand)


def _clone(op: ir.Operation, known: dict[ir.Value, ir.Value]) -> None:
    """Copy an operation to the insertion point, with its operands exchanged."""
    copy = op.clone(ir.InsertionPoint.current)
    for number, operand in enumerate(op.operands):
        if operand in known:
            copy.operands[number] = known[operand]
    known.update(zip(op.results, copy.results, strict=True))
