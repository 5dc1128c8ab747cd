"""The kernels that `npu.group` asks for: which operations go into one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from polystage.machine.target import Target
from polystage.mlir import ir
from polystage.passes.lower.chains import Chain, chain_obstacle, is_link
from polystage.passes.lower.clusters import Cluster, Declined, cluster_of, not_fused
from polystage.passes.lower.fused_kernel import fused_contraction
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.marks import GROUP, number_of
from polystage.passes.lower.physical_layout import stationary_operand
from polystage.passes.lower.program_order import Order
from polystage.passes.lower.tensor_engine.contraction import Contraction
from polystage.passes.lower.tensor_engine.plan import prefers_tensor_engine

Folded = Mapping[ir.Operation, tuple[ir.Operation, Initial]]
"""Fills that only initialise what another operation accumulates into: that, and the constant."""


def kernels_of_groups(
    operations: Sequence[ir.Operation], folded: Folded, target: Target
) -> Iterator[Cluster | Chain]:
    """Yield what the groups of a program's operations are.

    Raises:
        PassError: operations of a group do not go together.
    """
    groups: dict[int, list[ir.Operation]] = {}
    for op in operations:
        number = number_of(op, GROUP)
        if number is not None and op not in folded:
            groups.setdefault(number, []).append(op)
    initials = dict(folded.values())
    for members in groups.values():
        if len(members) < 2:
            continue
        order = Order(members[0].block)
        if runs_on_array(members[0], target):
            yield _cluster(members, order, folded)
            continue
        if not all(is_link(op, initials) for op in members):
            raise not_fused(members[0], "one is neither elementwise nor a reduction of a constant")
        chain = Chain(tuple(members), tuple(initials.get(op) for op in members))
        if (reason := chain_obstacle(chain, order, initials)) is not None:
            raise not_fused(members[0], reason)
        yield chain


def _cluster(members: Sequence[ir.Operation], order: Order, folded: Folded) -> Cluster:
    fills = [fill for fill, (op, _) in folded.items() if op == members[0]]
    found = cluster_of(members[0], order, fills)
    if isinstance(found, Declined):
        raise not_fused(members[0], found.reason)
    if list(members[1:]) != [found.consumer]:
        raise not_fused(members[0], "another operation of the group does not read its result")
    return found


def runs_on_array(op: ir.Operation, target: Target) -> bool:
    """Whether an operation is a contraction that the array computes."""
    if op.name != "linalg.generic" or not all(
        isinstance(v.type, ir.MemRefType) for v in op.operands
    ):
        return False
    generic = GenericOp.from_op(op.opview).without_unit_dims()
    held = stationary_operand(op)
    contraction = Contraction.match(generic, target, held)
    return contraction is not None and (
        held is not None or prefers_tensor_engine(contraction, target)
    )


def fused(cluster: Cluster, target: Target) -> Declined | None:
    """Return why a cluster's operations have no kernel in common, or None."""
    joined = cluster.joined()
    found = fused_contraction(cluster, joined and joined.without_unit_dims(), target)
    return found if isinstance(found, Declined) else None
