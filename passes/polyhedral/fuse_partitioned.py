"""Which operations share a kernel on a target whose scratchpad has partitions.

A contraction takes along the elementwise operation that alone reads its result: what leaves psum is
biased, activated or added to another array on its way, and the result in between exists nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from polystage.forms import walk
from polystage.machine.target import Target
from polystage.mlir import func, ir
from polystage.passes.lower.clusters import GROUP, Cluster, Declined, cluster_of
from polystage.passes.lower.fills import initialising_fills
from polystage.passes.lower.fused_kernel import fused_contraction
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.physical_layout import lay_out_arrays, stationary_operand
from polystage.passes.lower.program_order import Order
from polystage.passes.lower.resident.groups import mark_resident
from polystage.passes.lower.tensor_engine.contraction import Contraction
from polystage.passes.lower.tensor_engine.plan import prefers_tensor_engine
from polystage.passes.polyhedral.expand_result import expand_result


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
            for producer, fills in _contractions(function, target):
                expand_result(producer, fills)
            lay_out_arrays(function)
            _fuse(function, target, fusion)
    return fusion


def _fuse(function: func.FuncOp, target: Target, fusion: Fusion) -> None:
    groups = (op.attributes[GROUP] for op in walk(function.operation) if GROUP in op.attributes)
    number = max((ir.IntegerAttr(group).value for group in groups), default=-1)
    for producer, fills in _contractions(function, target):
        found = _cluster(producer, fills, target)
        if isinstance(found, Declined):
            fusion.remark(producer, f"stays a kernel of its own: {found.reason}")
            continue
        number += 1
        attribute = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), number)
        for op in (found.producer, found.consumer):
            op.attributes[GROUP] = attribute
        fusion.count("contractions with an epilogue")


def _contractions(
    function: func.FuncOp, target: Target
) -> Iterator[tuple[ir.Operation, list[ir.Operation]]]:
    """Yield the contractions that the array computes from zeros, each with the fills of its
    output."""
    operations = [op for op in walk(function.operation) if op.name == "linalg.generic"]
    folded = initialising_fills(operations)
    for op in operations:
        if GROUP in op.attributes or op in folded:
            continue
        generic = GenericOp.from_op(op.opview).without_unit_dims()
        contraction = Contraction.match(generic, target, stationary_operand(op))
        if contraction is None:
            continue
        if stationary_operand(op) is None and not prefers_tensor_engine(contraction, target):
            continue
        starts = {fill: initial for fill, (user, initial) in folded.items() if user == op}
        if list(starts.values()) == [Initial(0)]:
            yield op, list(starts)


def _cluster(
    producer: ir.Operation, fills: list[ir.Operation], target: Target
) -> Cluster | Declined:
    found = cluster_of(producer, Order(producer.block), fills)
    if isinstance(found, Declined):
        return found
    if GROUP in found.consumer.attributes:
        return Declined("the reader of its result goes with another operation")
    joined = found.joined()
    fused = fused_contraction(found, joined and joined.without_unit_dims(), target)
    return fused if isinstance(fused, Declined) else found
