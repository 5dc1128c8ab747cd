"""A contraction and the elementwise operation that alone reads its result: one kernel for both.

    fill %t, 0                                     kernel(a, b, c, r):
    %t = a x b        {npu.group = 3}        ->      psum = a x b
    %r = relu(%t + c) {npu.group = 3}                r = relu(psum + c)

The result in between is never stored, so that nothing else may look at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import VIEW_OPS, defining_op
from polystage.errors import PassError
from polystage.mlir import ir
from polystage.passes.lower.generic_op import Access, GenericOp, Linear
from polystage.passes.lower.marks import GROUP
from polystage.passes.lower.program_order import Order, accessed, touches, writes


@dataclass(frozen=True)
class Declined:
    """Why operations do not go together."""

    reason: str


@dataclass(frozen=True)
class Cluster:
    """`consumer` reads the result of `producer` as its operand `link`, and nothing else does."""

    producer: ir.Operation
    consumer: ir.Operation
    link: int

    @property
    def operations(self) -> tuple[ir.Operation, ir.Operation]:
        """Both operations, in program order."""
        return self.producer, self.consumer

    @property
    def operands(self) -> list[ir.Value]:
        """What the kernel of both takes: the producer's operands, the output being the consumer's,
        then what the consumer reads besides."""
        *inputs, _ = self.producer.operands
        *others, output = self.consumer.operands
        return [*inputs, output, *(v for i, v in enumerate(others) if i != self.link)]

    @property
    def riders(self) -> dict[int, int]:
        """The consumer's operands by their place among `operands`."""
        first = len(self.producer.operands)
        others = [i for i in range(len(self.consumer.operands) - 1) if i != self.link]
        return {first + k: i for k, i in enumerate(others)}

    def joined(self) -> GenericOp | None:
        """Return the producer with the consumer's operands in its loops, or None where the loops of
        both do not correspond one to one.

        matmul t[m, n], then r[h, m] = relu(t[m, h] + c[h])  ->  matmul r[n, m], riding: c[n]
        """
        producer = GenericOp.from_op(self.producer.opview)
        consumer = GenericOp.from_op(self.consumer.opview)
        place = _corresponding_loops(producer, consumer, self.link)
        if place is None:
            return None
        n_dims = len(producer.extents)

        def moved(access: Access, argument: int) -> Access:
            index = tuple(_moved(linear, place, n_dims) for linear in access.index)
            return replace(access, argument=argument, index=index)

        reads = {access.argument: access for access in consumer.inputs}
        return replace(
            producer,
            outputs=(moved(consumer.outputs[0], producer.outputs[0].argument),),
            riders=tuple(moved(reads[i], k) for k, i in self.riders.items() if i in reads),
        )


def _corresponding_loops(
    producer: GenericOp, consumer: GenericOp, link: int
) -> dict[int, int] | None:
    """Return the producer's loop for every loop of the consumer that iterates."""
    written = producer.outputs[0].index
    read = next((a.index for a in consumer.inputs if a.argument == link), ())
    place: dict[int, int] = {}
    for ours, theirs, extent in zip(written, read, producer.outputs[0].shape, strict=True):
        if extent == 1:
            continue
        if ours.single is None or theirs.single is None:
            return None
        place[theirs.single] = ours.single
    iterating = {d for d, n in enumerate(consumer.extents) if n != 1}
    parallel = {d for d in producer.parallel if producer.extents[d] != 1}
    if set(place) != iterating or set(place.values()) != parallel:
        return None
    return place


def _moved(linear: Linear, place: dict[int, int], n_dims: int) -> Linear:
    coefficients = [0] * n_dims
    for d in linear.dims:
        if d in place:
            coefficients[place[d]] = linear.coefficients[d]
    return Linear(linear.constant, tuple(coefficients))


# --- what goes together ---------------------------------------------------------------------------


def cluster_of(
    producer: ir.Operation, order: Order, fills: Sequence[ir.Operation]
) -> Cluster | Declined:
    """Return the cluster of an operation and the one reader of its result.

    `fills` write what the producer accumulates into; the kernel does that on chip.
    """
    result = producer.operands[len(producer.operands) - 1]
    allocation = defining_op(result)
    if allocation is None or allocation.name != "memref.alloc":
        return Declined("its result is not an array of its own")
    others = {use.owner.operation for use in result.uses} - {producer, *fills}
    if len(others) != 1:
        return Declined(f"its result has {len(others)} other users")
    (consumer,) = others
    if (reason := _obstacle(producer, consumer, result, order)) is not None:
        return Declined(reason)
    (link,) = (i for i, v in enumerate(consumer.operands) if v == result)
    cluster = Cluster(producer, consumer, link)
    joined = cluster.joined()
    if joined is None:
        return Declined("the loops of both do not correspond one to one")
    if any(_is_shifted(rider, joined.outputs[0]) for rider in joined.riders):
        return Declined("its reader overwrites other elements of what it reads")
    return cluster


def _is_shifted(rider: Access, output: Access) -> bool:
    return rider.array == output.array and rider.index != output.index


def _obstacle(
    producer: ir.Operation, consumer: ir.Operation, result: ir.Value, order: Order
) -> str | None:
    """Return why `consumer` cannot follow `producer` in its kernel, or None."""
    if consumer.name in VIEW_OPS or consumer.name == overlay.NAME:
        return f"its result is read through '{consumer.name}'"
    if consumer.name != "linalg.generic" or not is_elementwise(consumer):
        return f"'{consumer.name}' reads its result, but not element by element"
    if sum(v == result for v in consumer.operands) != 1:
        return "its reader reads it twice"
    output = consumer.operands[len(consumer.operands) - 1]
    reads = [
        source
        for value in list(producer.operands)[:-1]
        if isinstance(value.type, ir.MemRefType)
        for _, source in overlay.pieces(value)[0]
    ]
    if any(touches(value, output) for value in reads):
        return "its reader overwrites what it reads"
    if (reason := conflict(producer, consumer, reads, order)) is not None:
        return reason
    for value in list(consumer.operands)[:-1]:
        if overlay.is_overlay(value):
            return "its reader reads an overlay"
        if isinstance(value.type, ir.MemRefType) and touches(value, output) and value != output:
            return "its reader overwrites another window of what it reads"
    return None


def is_elementwise(op: ir.Operation) -> bool:
    """Whether all loops are parallel, one output is written, each element once, and none read
    before."""
    generic = GenericOp.from_op(op.opview)
    if generic.reductions or len(generic.outputs) != 1:
        return False
    output = generic.outputs[0]
    plain = all(
        x.single is not None or n == 1 for x, n in zip(output.index, output.shape, strict=True)
    )
    return plain and not generic.is_read(output)


def conflict(
    producer: ir.Operation, consumer: ir.Operation, reads: Sequence[ir.Value], order: Order
) -> str | None:
    """Return what keeps the producer from running as late as its reader, or None."""
    if producer not in order.place or consumer not in order.place:
        return "its reader is in another block"
    start, stop = order.place[producer] + 1, order.place[consumer]
    for op in order.operations[start:stop]:
        if op.name in ("memref.alloc", "memref.get_global", "arith.constant"):
            continue
        for value in accessed(op):
            if any(touches(value, read) for read in reads) and writes(op, value):
                return f"'{op.name}' between them overwrites what it reads"
    return None


def not_fused(producer: ir.Operation, reason: str) -> PassError:
    """Return the error that a group of operations is none."""
    return PassError(
        f"the operation shares its '{GROUP}' with others, but {reason}",
        op=producer,
        help=f"remove '{GROUP}' from them; npu-fuse-operators sets it where it can be",
    )
