"""From what was decided to the IR: all rewrites at once, then what is no longer used goes."""

from typing import Any

from polystage.dialects.npu.views import defining_op
from polystage.mlir import ir
from polystage.passes.polyhedral.copy_elimination.backward import Move
from polystage.passes.polyhedral.copy_elimination.elimination import Outcome
from polystage.passes.polyhedral.copy_elimination.working_program import WorkingProgram
from polystage.polyhedral.memrefs import ALLOCATIONS
from polystage.polyhedral.scalar import LOADS
from polystage.polyhedral.views import VIEW_OPS

_HOISTED = frozenset({*ALLOCATIONS, *VIEW_OPS, "arith.constant", "npu.overlay"})
_LOOPS = frozenset({"affine.for", "scf.for"})


def emit(program: WorkingProgram, outcome: Outcome) -> None:
    """Change the IR to what the program has become."""
    if not program.original.statements:
        return
    body = _blocks(program.original.statements[0].op)[-1]
    for move in outcome.moves:
        _move(move)
    changed = sorted(
        (node for node in program.nodes.values() if node.rewrite is not None),
        key=lambda node: (node.place, program.order[node.name]),
    )
    values = {name: a.value for name, a in program.arrays.items() if a.value is not None}
    used = {array for node in changed for array in node.arrays}
    for array in program.arrays:
        if array in used:
            _keep_alive(values[array], [n.statement.op for n in program.touching(array)])
    for node in [removal.node for removal in outcome.removals] + outcome.dead:
        node.statement.op.erase()
    for node in changed:
        assert node.rewrite is not None
        node.rewrite.emit(values)
    _erase_unused(body)


def _move(move: Move) -> None:
    """Move a statement, and what it needs, before another one."""
    block = move.node.statement.op.block
    anchor = _in_block(move.before.statement.op, block)
    _hoist(move.node.statement.op, anchor)


def _hoist(op: Any, anchor: Any) -> None:
    for operand in op.operands:
        producer = defining_op(operand)
        if (
            producer is not None
            and producer.block == op.block
            and producer.name in _HOISTED
            and not producer.is_before_in_block(anchor)
        ):
            _hoist(producer, anchor)
    op.move_before(anchor)


def _keep_alive(value: ir.Value, users: list[Any]) -> None:
    """Move the allocation behind `value` before its first user; it is never freed."""
    producer = defining_op(value)
    if producer is None or not users:
        return
    for use in list(value.uses):
        if use.owner.operation.name == "memref.dealloc":
            use.owner.operation.erase()
    first = users[0]
    block = _common_block([producer, *users])
    anchor = _in_block(first, block)
    if producer.block != block or not producer.is_before_in_block(anchor):
        producer.move_before(anchor)


def _common_block(ops: list[Any]) -> Any:
    """Return the innermost block that holds all of `ops`, at whatever depth."""
    chains = [_blocks(op) for op in ops]
    for block in chains[0]:
        if all(block in chain for chain in chains[1:]):
            return block
    raise AssertionError("operations of one function share its body")


def _blocks(op: Any) -> list[Any]:
    """Return the blocks around `op`, innermost first."""
    found = [op.block]
    while op.block.owner.operation.name != "func.func":
        op = op.block.owner.operation
        found.append(op.block)
    return found


def _in_block(op: Any, block: Any) -> Any:
    """Return the operation of `block` that is `op`, or holds it."""
    while op.block != block:
        op = op.block.owner.operation
    return op


def _erase_unused(block: ir.Block) -> None:
    """Erase what only statements needed that are gone: loops, loads, views, allocations."""
    for view in reversed(list(block.operations)):
        op: Any = view.operation
        if op.name in _LOOPS:
            body = op.regions[0].blocks[0]
            _erase_unused(body)
            if len(list(body.operations)) == 1 and not op.results:
                op.erase()
        elif op.name in _HOISTED | LOADS and _is_unused(op):
            for use in list(op.results[0].uses):
                use.owner.operation.erase()
            op.erase()


def _is_unused(op: Any) -> bool:
    return all(use.owner.operation.name == "memref.dealloc" for use in op.results[0].uses)
