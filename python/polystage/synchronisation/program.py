"""The order that a program needs: which calls of kernels conflict, also across inferences.

A call is one child of the body of @main: its kernel is analysed once, and stands for what its
queues touch, on chip and of each argument. Among the conflicts of two queues only the latest
matters, since both execute in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from polystage.mlir import ir
from polystage.synchronisation.accesses import Access, Range, Variables, View
from polystage.synchronisation.conflicts import Conflicts
from polystage.synchronisation.kernel import Body, Ordered, accesses_in
from polystage.synchronisation.order import Child, Edge, Orders

Rectangle = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ChipPart:
    """Bytes of partitions of an on-chip memory."""

    memory: str
    bytes: Range
    partitions: Range
    writes: bool

    def meets(self, other: ChipPart) -> bool:
        """Say whether two parts share a byte that one of them writes."""
        return (
            (self.writes or other.writes)
            and self.memory == other.memory
            and _meet(self.bytes, other.bytes)
            and _meet(self.partitions, other.partitions)
        )


@dataclass(frozen=True)
class DramPart:
    """Bytes of an array in DRAM; boxes compare where offset and strides of the layout are equal."""

    bytes: Range
    layout: tuple[int, ...] | None
    box: tuple[Range, ...] | None
    writes: bool

    def meets(self, other: DramPart) -> bool:
        """Say whether two parts of one array share a byte that one of them writes."""
        if not (self.writes or other.writes) or not _meet(self.bytes, other.bytes):
            return False
        if self.box is None or other.box is None or self.layout != other.layout:
            return True
        return all(_meet(a, b) for a, b in zip(self.box, other.box, strict=True))


def _meet(a: Range, b: Range) -> bool:
    return a[0] < b[1] and b[0] < a[1]


@dataclass(eq=False)
class Kernel:
    """A kernel as its callers see it: what every queue touches on chip, and of every argument."""

    child: Child
    chip: dict[int, tuple[ChipPart, ...]]
    arguments: dict[int, tuple[tuple[int, Access], ...]]

    @classmethod
    def of(cls, child: Child, body: Body) -> Kernel:
        """Summarise the accesses of a body whose queues know `child` of each other."""
        chip: dict[int, dict[ChipPart, None]] = defaultdict(dict)
        arguments: dict[int, list[tuple[int, Access]]] = defaultdict(list)
        for node in body.children:
            for queue, access in accesses_in(node):
                if access.buffer.memory == "dram":
                    arguments[queue].append((access.buffer.argument, access))
                    continue
                low, high = access.bytes
                for at in access.buffer.addresses:
                    span = (at + low, at + high)
                    part = ChipPart(access.buffer.memory, span, access.partitions, access.writes)
                    chip[queue][part] = None
        return cls(
            child,
            {q: tuple(parts) for q, parts in chip.items()},
            {q: tuple(found) for q, found in arguments.items()},
        )


Parts = dict[int, dict[int, list[DramPart]]]
"""Queue -> array -> parts."""


@dataclass(eq=False)
class Node:
    """A child of @main's body, or of a loop in it: a call, or a loop with a body of its own.

    `chips` are the kernels executed, whose on-chip bytes count.
    """

    op: ir.Operation
    child: Child
    chips: tuple[Kernel, ...]
    dram: Parts
    body: MainBody | None = None


@dataclass(eq=False)
class MainBody:
    """The body of @main, which every inference executes, or of a loop in it."""

    children: list[Node] = field(default_factory=list[Node])
    trips: int = 1


def dram_parts(
    kernel: Kernel, views: Sequence[View], variables: Variables, arrays: dict[object, int]
) -> Parts:
    """Return what a call touches of the arrays whose views it is given."""
    parts: dict[int, dict[int, dict[DramPart, None]]] = {}
    for queue, accesses in kernel.arguments.items():
        found = parts.setdefault(queue, {})
        for argument, access in accesses:
            view = views[argument]
            array = arrays.setdefault(view.buffer, len(arrays))
            found.setdefault(array, {})[_moved(access, view, variables)] = None
    return {q: {array: list(group) for array, group in p.items()} for q, p in parts.items()}


def _moved(access: Access, view: View, variables: Variables) -> DramPart:
    """Return an access to an argument as an access to the array that a call passes a view of."""
    size = view.buffer.item_bytes
    first, last = view.offset.range(variables.ranges)
    low, high = access.bytes
    span = (first * size + low, last * size + high)
    if first != last:
        return DramPart(span, None, None, access.writes)
    return DramPart(span, (first, *access.buffer.strides), access.box_hull, access.writes)


def order_program(body: MainBody, queues: int, *, reduce: bool = True) -> list[Ordered]:
    """Return the edges that @main's body needs, and those of the loops in it."""
    found: list[Ordered] = []
    _Program(queues, reduce, found, {}).order(body)
    return found


@dataclass
class _Program:
    queues: int
    reduce: bool
    found: list[Ordered]
    chips: dict[tuple[int, int, int, int], bool]
    """Whether two queues of two kernels meet on chip."""

    def order(self, body: MainBody) -> None:
        """Find the edges of a body and of the bodies in it."""
        for node in body.children:
            if node.body is not None:
                self.order(node.body)
                node.child = self.as_child(node.body)
        conflicts = _Calls(self, body.children)
        orders = self.orders(conflicts)
        orders.execute()
        kept = orders.execute() if self.reduce else conflicts.all_edges(1)
        if kept:
            anchors = tuple(node.op for node in body.children)
            self.found.append(Ordered(anchors, tuple(sorted(kept))))

    def orders(self, conflicts: _Calls) -> Orders:
        """Return the clocks of a body that was not executed yet."""
        return Orders([node.child for node in conflicts.nodes], self.queues, conflicts.wanted)

    def as_child(self, body: MainBody) -> Child:
        """Return what the queues know of each other when a loop has ended."""
        orders = self.orders(_Calls(self, body.children))
        for _ in range(min(body.trips, 3)):
            orders.execute()
        return orders.as_child()

    def meet_on_chip(self, a: Kernel, source: int, b: Kernel, target: int) -> bool:
        """Say whether two queues of two kernels touch the same bytes on chip."""
        key = (id(a), source, id(b), target)
        if key not in self.chips:
            parts = b.chip.get(target, ())
            self.chips[key] = any(p.meets(q) for p in a.chip.get(source, ()) for q in parts)
        return self.chips[key]


class _Calls(Conflicts):
    """Finds conflicts between calls."""

    def __init__(self, program: _Program, nodes: Sequence[Node]) -> None:
        self.program = program
        self.nodes = nodes
        super().__init__([node.child.queues for node in nodes])

    def latest(self, execution: int, y: int, queue: int, other: int, known: int) -> Edge | None:
        """Return the edge from the latest call that conflicts, in this execution or the last."""
        total, places = len(self.nodes), self.places[other]
        for ago in (0, 1):
            for x in reversed(places):
                if (x >= y) if ago == 0 else (x < y):
                    continue
                if (execution - ago) * total + x <= known:
                    return None
                if self._meet(x, other, y, queue):
                    return Edge(y, queue, x, other, ago)
        return None

    def _meet(self, x: int, source: int, y: int, target: int) -> bool:
        a, b = self.nodes[x], self.nodes[y]
        if a is b and a.body is not None:
            return False  # the loop's own body sees to it
        meet = self.program.meet_on_chip
        if any(meet(p, source, q, target) for p in a.chips for q in b.chips):
            return True
        parts = b.dram.get(target, {})
        return any(
            p.meets(q)
            for array, group in a.dram.get(source, {}).items()
            if array in parts
            for p in group
            for q in parts[array]
        )


def loop_node(op: ir.Operation, body: MainBody) -> Node:
    """Return a loop of @main as a child; what its queues know of each other is found later."""
    dram: Parts = {}
    for node in body.children:
        for queue, arrays in node.dram.items():
            for array, parts in arrays.items():
                dram.setdefault(queue, {}).setdefault(array, []).extend(parts)
    kernels = dict.fromkeys(kernel for node in body.children for kernel in node.chips)
    return Node(op, Child(()), tuple(kernels), dram, body)
