"""Mutants of synchronised programs: each differs from its program in one thing that is wrong.

* semaphores: one is removed with its signals and waits, one signal or wait is removed, an initial
  value is one too high or too low, a signal comes an instruction of its queue too soon, a wait an
  instruction too late;
* addresses: a buffer lies where another one of its kernel does;
* queues: a transfer is in another one;
* dependences: npu-insert-sync overlooks one, between two operands of instructions or what two
  queues do in two calls, and something else comes of it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from unittest import mock

from chain import clone, run_passes

from polystage.dialects.npu import queues, space_of
from polystage.dialects.npu.queue_rules import places_of
from polystage.dialects.npu.target import required_target
from polystage.forms import walk
from polystage.mlir import ir
from polystage.synchronisation.accesses import Access
from polystage.synchronisation.extraction import Extraction
from polystage.synchronisation.program import ChipPart, DramPart

INSERT_SYNC = "npu-insert-sync"
Ops = list[ir.Operation]
Change = Callable[[Ops], None]


@dataclass(frozen=True)
class Mutant:
    """A program with a mistake: which kind, and where."""

    kind: str
    place: str
    module: ir.Module


def mutants(
    placed: ir.Module, synchronised: ir.Module, random: Random, most: int, most_removed: int
) -> Iterator[Mutant]:
    """Yield mutants of a program that npu-insert-sync has made of a placed one.

    Of each kind there are at most `most`, of removed semaphores `most_removed`, drawn at random;
    0 is all.
    """
    ops = list(walk(synchronised.operation))
    for kind, find in CHANGES.items():
        limit = most_removed if kind == REMOVED else most
        for place, change in drawn(list(find(ops)), random, limit):
            module = clone(synchronised)
            with module.context, ir.Location.unknown():
                change([module.operation, *walk(module.operation)])
            yield Mutant(kind, place, module)
    yield from _overlooked(placed, synchronised, random, most)


def drawn(changes: list[Any], random: Random, most: int) -> list[Any]:
    return changes if not most or len(changes) <= most else random.sample(changes, most)


# --- semaphores ---
# Changes find their operations by position: those of a clone follow its module, hence the + 1.


def _semaphore(op: ir.Operation) -> int:
    return ir.IntegerAttr(op.attributes["semaphore"]).value


def _places(ops: Sequence[ir.Operation], *names: str) -> list[int]:
    return [i + 1 for i, op in enumerate(ops) if op.name in names]


def _erased(positions: Sequence[int]) -> Change:
    def erase(ops: Ops) -> None:
        for i in positions:
            ops[i].erase()

    return erase


def _removed_semaphores(ops: Ops) -> Iterator[tuple[str, Change]]:
    positions: dict[int, list[int]] = {}
    for i in _places(ops, "npu.signal", "npu.wait"):
        positions.setdefault(_semaphore(ops[i - 1]), []).append(i)
    for semaphore, found in sorted(positions.items()):
        yield f"semaphore {semaphore}", _erased(found)


def _removed(name: str) -> Callable[[Ops], Iterator[tuple[str, Change]]]:
    def find(ops: Ops) -> Iterator[tuple[str, Change]]:
        for i in _places(ops, name):
            yield f"semaphore {_semaphore(ops[i - 1])}, operation {i}", _erased([i])

    return find


def _other_value(step: int) -> Callable[[Ops], Iterator[tuple[str, Change]]]:
    def change_of(values: list[int]) -> Change:
        def change(ops: Ops) -> None:
            ops[0].attributes[queues.SEMAPHORES] = ir.DenseI64ArrayAttr.get(values)

        return change

    def find(ops: Ops) -> Iterator[tuple[str, Change]]:
        module = ops[0].parent
        values = queues.semaphores_of(module.operation) or []
        for semaphore, value in enumerate(values):
            if value + step >= 0:
                other = [*values[:semaphore], value + step, *values[semaphore + 1 :]]
                yield f"semaphore {semaphore}", change_of(other)

    return find


def _moved(name: str, after: bool) -> Callable[[Ops], Iterator[tuple[str, Change]]]:
    """Find signals or waits, to be moved beyond the next instruction of their queue in a block."""

    def change_of(position: int, other: int) -> Change:
        def move(ops: Ops) -> None:
            if after:
                ops[position].move_after(ops[other])
            else:
                ops[position].move_before(ops[other])

        return move

    def find(ops: Ops) -> Iterator[tuple[str, Change]]:
        number = {op: i + 1 for i, op in enumerate(ops)}
        for i in _places(ops, name):
            other = _neighbour(ops[i - 1], after)
            if other is not None:
                yield (
                    f"semaphore {_semaphore(ops[i - 1])}, operation {i}",
                    change_of(i, number[other]),
                )

    return find


def _neighbour(op: ir.Operation, after: bool) -> ir.Operation | None:
    """Return the next operation of the same block that has instructions of the queue, after or
    before."""
    block = [o.operation for o in op.block]
    here = block.index(op)
    queue = queues.queue_of(op)
    others = block[here + 1 :] if after else block[:here][::-1]
    return next((o for o in others if o.name != "func.call" and _has(o, queue)), None)


def _has(op: ir.Operation, queue: str | None) -> bool:
    return any(
        o.name not in ("npu.signal", "npu.wait") and queues.queue_of(o) == queue
        for o in [op, *walk(op)]
    )


# --- addresses and queues ---


def _moved_buffers(ops: Ops) -> Iterator[tuple[str, Change]]:
    """Find buffers that can lie where another buffer of their kernel begins."""

    def change_of(position: int, places: list[int]) -> Change:
        def change(ops: Ops) -> None:
            attributes = ops[position].attributes
            attributes["address"] = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), places[0])
            if "addresses" in attributes:
                attributes["addresses"] = ir.DenseI64ArrayAttr.get(places)

        return change

    for i in _places(ops, "npu.alloc"):
        places = places_of(ops[i - 1].opview)
        for address in _rivals(ops, ops[i - 1]) - set(places):
            moved = [address, *places[1:]]
            text = f"operation {i} from address {places[0]} to {address}"
            yield text, change_of(i, moved)


def _rivals(ops: Ops, alloc: ir.Operation) -> set[int]:
    """Return the addresses of the other buffers of a kernel in the same memory."""
    space, function = space_of(alloc.results[0].type), _function(alloc)
    return {
        address
        for op in ops
        if op.name == "npu.alloc" and op != alloc and _function(op) == function
        if space_of(op.results[0].type) == space
        for address in places_of(op.opview)
    }


def _function(op: ir.Operation) -> ir.Operation:
    while op.name != "func.func":
        op = op.parent.operation
    return op


def _other_queues(ops: Ops) -> Iterator[tuple[str, Change]]:
    def change_of(position: int, name: str) -> Change:
        def change(ops: Ops) -> None:
            ops[position].attributes["queue"] = ir.StringAttr.get(name)

        return change

    for i in _places(ops, "npu.dma"):
        names = queues.dma_queue_names(required_target(ops[i - 1]))
        name = queues.queue_of(ops[i - 1])
        assert name is not None
        other = names[(names.index(name) + 1) % len(names)]
        yield f"operation {i} from {name} to {other}", change_of(i, other)


REMOVED = "semaphore removed"
CHANGES: dict[str, Callable[[Ops], Iterator[tuple[str, Change]]]] = {
    REMOVED: _removed_semaphores,
    "wait removed": _removed("npu.wait"),
    "signal removed": _removed("npu.signal"),
    "one token more": _other_value(1),
    "one token less": _other_value(-1),
    "wait later": _moved("npu.wait", after=True),
    "signal sooner": _moved("npu.signal", after=False),
    "address shifted": _moved_buffers,
    "transfer in another queue": _other_queues,
}
OVERLOOKED = "dependence overlooked"
KINDS = (*CHANGES, OVERLOOKED)


# --- dependences ---


def _overlooked(
    placed: ir.Module, synchronised: ir.Module, random: Random, most: int
) -> Iterator[Mutant]:
    """Yield programs for which npu-insert-sync did not see a dependence that it needs."""
    whole = str(synchronised)
    _, dependences = _synchronised_but(placed, None)
    count = 0
    for missing in drawn(dependences, random, 3 * most):
        module, _ = _synchronised_but(placed, missing)
        if str(module) != whole:  # otherwise it follows from others
            yield Mutant(OVERLOOKED, str(missing), module)
            count += 1
        if most and count >= most:
            break


def _synchronised_but(placed: ir.Module, missing: Any) -> tuple[ir.Module, list[Any]]:
    """Synchronise a program without one dependence; return it, and all dependences that were seen.

    They are those between two operands of instructions of a kernel, and between what two queues do
    to the arrays and on-chip bytes of calls.
    """
    accesses: dict[Access, int] = {}
    seen: dict[Any, None] = {}
    access, may_meet = Extraction.access, Access.may_meet

    def numbered(extraction: Extraction, *operand: Any) -> Access:
        found = access(extraction, *operand)
        accesses[found] = len(accesses)
        return found

    def but(meets: Callable[..., bool], key_of: Callable[..., Any]) -> Callable[..., bool]:
        def meets_but(a: Any, b: Any) -> bool:
            if not meets(a, b):
                return False
            key = key_of(a, b)
            seen[key] = None
            return key != missing

        return meets_but

    def operands(a: Access, b: Access) -> tuple[int, int]:
        return accesses[a], accesses[b]

    def parts(a: Any, b: Any) -> tuple[Any, Any]:
        return a, b

    module = clone(placed)
    with (
        mock.patch.object(Extraction, "access", numbered),
        mock.patch.object(Access, "may_meet", but(may_meet, operands)),
        mock.patch.object(ChipPart, "meets", but(ChipPart.meets, parts)),
        mock.patch.object(DramPart, "meets", but(DramPart.meets, parts)),
    ):
        run_passes(module, INSERT_SYNC)
    return module, list(seen)
