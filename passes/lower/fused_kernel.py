"""Writes the kernel of a cluster: a contraction whose results leave psum through the operation that
reads them."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.machine.target import Target
from polystage.passes.lower.clusters import Cluster, Declined, not_fused
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.physical_layout import stationary_operand
from polystage.passes.lower.tensor_engine.contraction import Contraction
from polystage.passes.lower.tensor_engine.epilogue import Epilogue, read_epilogue
from polystage.passes.lower.tensor_engine.lowering import lower_contraction
from polystage.passes.lower.tensor_engine.prepare import prepared


def fused_contraction(
    cluster: Cluster, generic: GenericOp | None, target: Target
) -> tuple[Contraction, Epilogue] | Declined:
    """Return the contraction that `generic` is, a form of the cluster's operations joined, and what
    happens to its results."""
    if generic is None:
        return Declined("the loops of both do not correspond one to one")
    contraction = _match(cluster, generic, target)
    if contraction is None:
        return Declined(f"the array of '{target.name}' does not compute it")
    if not contraction.stores_rows:
        return Declined("its reader stores columns of what it computes in rows")
    epilogue = read_epilogue(cluster, contraction, target)
    return epilogue if isinstance(epilogue, Declined) else (contraction, epilogue)


def _match(cluster: Cluster, generic: GenericOp, target: Target) -> Contraction | None:
    """Return the contraction with the operand held that the producer names, or with the other one
    where only then the reader stores rows, and all of them lie in one dimension."""
    named = Contraction.match(generic, target, stationary_operand(cluster.producer))
    if named is None or named.stores_rows:
        return named
    other = Contraction.match(generic, target)
    return named if other is None or len(other.rows) > 1 else other


def lower_cluster(
    builder: KernelBuilder, cluster: Cluster, causes: Sequence[str], initial: Initial | None
) -> None:
    """Write the kernel of a cluster, whose arguments are the operands of the cluster.

    Raises:
        PassError: the operations do not go together.
    """
    if initial != Initial(0):
        raise not_fused(cluster.producer, "the accumulation does not start from zeros")
    joined = cluster.joined()
    assert joined is not None, "a cluster has corresponding loops"
    target = builder.target
    found = fused_contraction(cluster, joined.without_unit_dims(), target)
    if isinstance(found, Declined):
        raise not_fused(cluster.producer, found.reason)
    contraction, values = prepared(
        builder, joined.without_unit_dims(), lambda generic: _match(cluster, generic, target)
    )
    epilogue = read_epilogue(cluster, contraction, target)
    if isinstance(epilogue, Declined):
        raise not_fused(cluster.producer, epilogue.reason)
    lower_contraction(builder, contraction, values, causes, initial, epilogue)
