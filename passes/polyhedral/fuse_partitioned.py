"""Which operations share a kernel on a target whose scratchpad has partitions.

A contraction takes along the elementwise operation that alone reads its result: what leaves psum is
biased, activated or added to another array on its way, and the result in between exists nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from polystage.forms import walk
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.lower.chains import Chain, is_link, longest_chain, walks_whole, whole_bytes
from polystage.passes.lower.clusters import Cluster, Declined, cluster_of
from polystage.passes.lower.fills import initialising_fills
from polystage.passes.lower.groups import Folded, fused, runs_on_array
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.marks import GROUP, number_of
from polystage.passes.lower.physical_layout import lay_out_arrays
from polystage.passes.lower.program_order import Order
from polystage.passes.lower.resident.marking import mark_resident
from polystage.passes.polyhedral.expand_result import expand_result

PLACES = 3
"""How many tiles of a chain the scratchpad has to hold, so that one is loaded while another is
computed."""


@dataclass
class Fusion:
    """What was done, and why not more: counts by what they count, and remarks on operations."""

    statistics: dict[str, int] = field(default_factory=dict[str, int])
    remarks: list[tuple[ir.Operation, str]] = field(default_factory=list[tuple[ir.Operation, str]])

    def count(self, what: str, number: int = 1) -> None:
        """Add to a statistic."""
        self.statistics[what] = self.statistics.get(what, 0) + number

    def remark(self, op: ir.Operation, text: str) -> None:
        """Say why an operation stays by itself."""
        self.remarks.append((op, text))


def fuse_partitioned(module: ir.Module, target: Target, resident: bool = True) -> Fusion:
    """Mark operations that share a kernel with equal `npu.group`: first, if asked for, groups whose
    arrays stay on chip, then contractions with their readers.

    Arrays get the layout that `npu.partition` asks for, because what goes together depends on it.
    """
    fusion = Fusion()
    for function in module.body.operations:
        if isinstance(function, func.FuncOp) and not function.is_external:
            if resident:
                marked = mark_resident(function, target)
                fusion.remarks += marked.remarks
                fusion.count("resident groups", marked.groups)
            _expand_results(function)
            lay_out_arrays(function)
            _Marker(function, target, fusion).mark()
    return fusion


def _expand_results(function: func.FuncOp) -> None:
    """Let reductions write what their readers see, where that is the same in more dimensions."""
    operations = [op for op in walk(function.operation) if op.name == "linalg.generic"]
    starts: dict[ir.Operation, list[ir.Operation]] = {}
    for fill, (op, _) in initialising_fills(operations).items():
        starts.setdefault(op, []).append(fill)
    for op, fills in starts.items():
        if GROUP not in op.attributes:
            expand_result(op, fills)


class _Marker:
    """Marks the groups of one program, in program order."""

    def __init__(self, function: func.FuncOp, target: Target, fusion: Fusion) -> None:
        self.target = target
        self.fusion = fusion
        self.operations = [op for op in walk(function.operation) if op.name == "linalg.generic"]
        self.folded = initialising_fills(self.operations)
        self.initials = dict(self.folded.values())
        numbers = [number_of(op, GROUP) for op in self.operations]
        self.groups = max((n for n in numbers if n is not None), default=-1) + 1

    def mark(self) -> None:
        """Mark contractions with the readers of their results, then chains of what is left."""
        for producer, fills in contractions(self.free, self.folded, self.target):
            found = self._cluster(producer, fills)
            if isinstance(found, Declined):
                self.fusion.remark(producer, f"stays a kernel of its own: {found.reason}")
            else:
                self._mark(found.operations)
                self.fusion.count("contractions with an epilogue")
        links = [op for op in self.free if self._may_chain(op)]
        for op in links:
            left = [link for link in links if GROUP not in link.attributes]
            if op not in left:
                continue
            chain = longest_chain(op, left, Order(op.block), self.initials)
            if chain is not None and self._fits(chain):
                self._mark(chain.operations)
                self.fusion.count("chains")

    @property
    def free(self) -> list[ir.Operation]:
        """The operations that are in no group, and no fills that cost nothing."""
        return [
            op for op in self.operations if GROUP not in op.attributes and op not in self.folded
        ]

    def _mark(self, operations: Sequence[ir.Operation]) -> None:
        i64 = ir.IntegerType.get_signless(64)
        for op in operations:
            op.attributes[GROUP] = ir.IntegerAttr.get(i64, self.groups)
        self.groups += 1

    def _cluster(self, producer: ir.Operation, fills: list[ir.Operation]) -> Cluster | Declined:
        found = cluster_of(producer, Order(producer.block), fills)
        if isinstance(found, Declined):
            return found
        if GROUP in found.consumer.attributes:
            return Declined("the reader of its result goes with another operation")
        return fused(found, self.target) or found

    def _may_chain(self, op: ir.Operation) -> bool:
        return is_link(op, self.initials) and not runs_on_array(op, self.target)

    def _fits(self, chain: Chain) -> bool:
        if whole_bytes(chain) * PLACES > self.target.sbuf.bytes_per_partition:
            return False
        return walks_whole(chain, self.target.access_pattern)


def contractions(
    operations: Sequence[ir.Operation], folded: Folded, target: Target
) -> Iterator[tuple[ir.Operation, list[ir.Operation]]]:
    """Yield the contractions that the array computes from zeros, each with the fills of its
    output."""
    for op in operations:
        starts = {fill: initial for fill, (user, initial) in folded.items() if user == op}
        if list(starts.values()) == [Initial(0)] and runs_on_array(op, target):
            yield op, list(starts)
