"""From @main to the calls in it: which views of which arrays every kernel is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from polystage.mlir import func, ir
from polystage.synchronisation.accesses import Buffer, View
from polystage.synchronisation.extraction import Extraction, dram_buffer, whole
from polystage.synchronisation.program import Kernel, MainBody, Node, dram_parts, loop_node


@dataclass(frozen=True)
class Call:
    """A call of a kernel with views of arrays."""

    op: ir.Operation
    callee: str
    views: tuple[View, ...]


@dataclass
class Calls:
    """The calls in a block of @main, and loops around further ones."""

    op: ir.Operation | None
    trips: int
    children: list[Call | Calls] = field(default_factory=list["Call | Calls"])

    def flat(self) -> Iterator[Call]:
        """Yield all calls in order."""
        for child in self.children:
            if isinstance(child, Call):
                yield child
            else:
                yield from child.flat()


def extract_calls(extraction: Extraction, function: func.FuncOp) -> Calls:
    """Return the calls of @main."""
    for argument in function.entry_block.arguments:
        if isinstance(argument.type, ir.MemRefType):
            extraction.views[argument] = whole(dram_buffer(argument.type))
    return _Main(extraction, {}).calls(function.entry_block, None, 1)


@dataclass
class _Main:
    extraction: Extraction
    globals_: dict[str, Buffer]

    def calls(self, block: ir.Block, op: ir.Operation | None, trips: int) -> Calls:
        found = Calls(op, trips)
        for view in block.operations:
            child = self.operation(view.operation)
            if child is not None and (isinstance(child, Call) or child.children):
                found.children.append(child)
        return found

    def operation(self, op: ir.Operation) -> Call | Calls | None:
        """Return a call or a loop, or take note of what an operation makes."""
        extraction = self.extraction
        if op.name == "func.call":
            callee = ir.FlatSymbolRefAttr(op.attributes["callee"]).value
            return Call(op, callee, tuple(extraction.view(v) for v in op.operands))
        if op.name == "scf.for":
            return extraction.loop(op, self.calls)
        if op.name == "memref.alloc":
            extraction.views[op.results[0]] = whole(dram_buffer(op.results[0].type))
        elif op.name == "memref.get_global":
            name = ir.FlatSymbolRefAttr(op.attributes["name"]).value
            buffer = self.globals_.setdefault(name, dram_buffer(op.results[0].type))
            extraction.views[op.results[0]] = whole(buffer)
        else:
            extraction.value(op)
        return None


@dataclass
class Aliases:
    """Which arguments of a kernel are the same memory, for the calls that there are.

    Argument `i` is the same view as `same[i] <= i` in every call. Arguments of `together` may share
    bytes in some other way.
    """

    same: list[int]
    together: frozenset[frozenset[int]]


def aliases(arguments: int, calls: Iterable[Sequence[View]]) -> Aliases:
    """Return how the arguments of a kernel may share memory."""
    views = list(calls)
    same = list(range(arguments))
    together: set[frozenset[int]] = set()
    for i, j in combinations(range(arguments), 2):
        shared = [v for v in views if v[i].buffer is v[j].buffer]
        if shared and len(shared) == len(views) and all(v[i] == v[j] for v in views):
            same[j] = min(same[j], same[i])
        elif shared:
            together.add(frozenset((i, j)))
    return Aliases(same, frozenset(together))


def main_body(calls: Calls, kernels: Mapping[str, Kernel], extraction: Extraction) -> MainBody:
    """Return the body of @main, or of a loop in it, given its kernels."""
    arrays: dict[object, int] = {}

    def body(calls: Calls) -> MainBody:
        return MainBody([node(child) for child in calls.children], calls.trips)

    def node(child: Call | Calls) -> Node:
        if isinstance(child, Calls):
            assert child.op is not None, "only @main's own body is no loop"
            return loop_node(child.op, body(child))
        kernel = kernels[child.callee]
        dram = dram_parts(kernel, child.views, extraction.variables, arrays)
        return Node(child.op, kernel.child, (kernel,), dram)

    return body(calls)
