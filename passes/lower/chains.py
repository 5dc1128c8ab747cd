"""Operations that the lane engines run one after the other on the same tile: a chain.

    s = sum_d x[m, d]                   kernel(x, z): for tiles of m:
    y[m, d] = x[m, d] - s[m] / n   ->     load x
    v = sum_d y[m, d] * y[m, d]           fold s, compute y, fold v, compute z, on chip
    z[m, d] = y[m, d] * rsqrt(v[m])       store z

All of them have some loops in common, over which the tiles go; every other loop is whole in a tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from polystage.dialects.npu import overlay
from polystage.dialects.npu.views import access_pattern, defining_op
from polystage.machine.components import AccessPattern
from polystage.mlir import ir
from polystage.passes.lower.clusters import conflict, is_elementwise
from polystage.passes.lower.generic_op import Access, GenericOp, Linear
from polystage.passes.lower.initial import Initial
from polystage.passes.lower.program_order import Order, touches
from polystage.passes.memref_types import row_major_strides

Fills = Mapping[ir.Operation, Initial]
"""What operations accumulate into, where that is one constant."""


@dataclass(frozen=True)
class Chain:
    """Operations in program order, each of which reads what some before it wrote; nothing else
    reads what they write but the last. `initials[i]` is what reduction i starts from."""

    operations: tuple[ir.Operation, ...]
    initials: tuple[Initial | None, ...]

    @property
    def inner_arrays(self) -> list[ir.Value]:
        """The arrays that are never stored."""
        return [output_of(op) for op in self.operations[:-1]]

    @property
    def operands(self) -> list[ir.Value]:
        """What its kernel takes: all that its operations read from outside, then the output."""
        inner = self.inner_arrays
        reads = [v for op in self.operations for v in list(op.operands)[:-1] if v not in inner]
        return [*reads, output_of(self.operations[-1])]


@dataclass(frozen=True)
class JointLoops:
    """The loops of a chain: the first `common` are those of all operations. `places[i]` is the
    joint loop for every loop of operation i that iterates."""

    extents: tuple[int, ...]
    common: int
    places: tuple[Mapping[int, int], ...]


def output_of(op: ir.Operation) -> ir.Value:
    """Return the one array that an operation writes."""
    return op.operands[len(op.operands) - 1]


def joint_loops(chain: Chain) -> JointLoops | None:
    """Return the loops of a chain, or None where an array between its operations is not written and
    read along single loops."""
    generics = [GenericOp.from_op(op.opview) for op in chain.operations]
    classes = _Classes()
    for i, op in enumerate(chain.operations):
        for access in generics[i].inputs:
            read = op.operands[access.argument]
            writers = [j for j in range(i) if read == output_of(chain.operations[j])]
            for j in writers:
                if not classes.join((j, generics[j].outputs[0]), (i, access)):
                    return None
    loops = [
        (i, d) for i, generic in enumerate(generics) for d, n in enumerate(generic.extents) if n > 1
    ]
    members: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for loop in loops:
        members.setdefault(classes.root(loop), []).append(loop)
    common = [
        root
        for root, found in members.items()
        if {i for i, _ in found} == set(range(len(generics)))
        and all(d not in generics[i].reductions for i, d in found)
        and len(found) == len(generics)
    ]
    last = len(generics) - 1
    written = [d for x in generics[last].outputs[0].index for d in x.dims]
    common.sort(key=lambda r: next(written.index(d) for i, d in members[r] if i == last))
    order = [*common, *(root for root in members if root not in common)]
    extents = [generics[i].extents[d] for i, d in order]
    numbers = {loop: order.index(root) for root, found in members.items() for loop in found}
    places = tuple({d: n for (i, d), n in numbers.items() if i == k} for k in range(len(generics)))
    return JointLoops(tuple(extents), len(common), places)


class _Classes:
    """Loops of different operations that are one."""

    def __init__(self) -> None:
        self.parents: dict[tuple[int, int], tuple[int, int]] = {}

    def root(self, loop: tuple[int, int]) -> tuple[int, int]:
        """Return the loop that stands for all that are one with `loop`."""
        while loop in self.parents:
            loop = self.parents[loop]
        return loop

    def join(self, written: tuple[int, Access], read: tuple[int, Access]) -> bool:
        """Make the loops of two accesses to one array the same; return whether they are single."""
        (i, a), (j, b) = written, read
        for ours, theirs, extent in zip(a.index, b.index, a.shape, strict=True):
            if extent == 1:
                continue
            if ours.single is None or theirs.single is None:
                return False
            first, second = self.root((i, ours.single)), self.root((j, theirs.single))
            if first != second:
                self.parents[second] = first
        return True


def moved(linear: Linear, place: Mapping[int, int], n: int) -> Linear:
    """Return an expression over the loops of an operation in the joint loops."""
    coefficients = [0] * n
    for d in linear.dims:
        if d in place:
            coefficients[place[d]] += linear.coefficients[d]
    return Linear(linear.constant, tuple(coefficients))


# --- what makes a chain ---------------------------------------------------------------------------


def longest_chain(
    first: ir.Operation, candidates: Sequence[ir.Operation], order: Order, initials: Fills
) -> Chain | None:
    """Return the longest chain that begins with `first`, or None where nothing follows it.

    `candidates` are operations in program order that no other kernel takes.
    """
    members = [first]
    for op in candidates[candidates.index(first) + 1 :]:
        written = [output_of(member) for member in members]
        if any(value in written for value in list(op.operands)[:-1]):
            members.append(op)
    for count in range(len(members), 1, -1):
        chain = Chain(tuple(members[:count]), tuple(initials.get(op) for op in members[:count]))
        if chain_obstacle(chain, order, initials) is None:
            return chain
    return None


def chain_obstacle(chain: Chain, order: Order, initials: Fills) -> str | None:
    """Return why operations do not form a chain, or None."""
    members = set(chain.operations)
    if len({output_of(op) for op in chain.operations}) < len(members):
        return "an operation overwrites what one before it wrote"
    written = [output_of(op) for op in chain.operations]
    for i, op in enumerate(chain.operations[1:], start=1):
        if not any(value in written[:i] for value in list(op.operands)[:-1]):
            return "an operation reads nothing that one before it wrote"
    for op in chain.operations[:-1]:
        allocation = defining_op(output_of(op))
        if allocation is None or allocation.name != "memref.alloc":
            return "a value in between is not an array of its own"
        users = {use.owner.operation for use in output_of(op).uses}
        if any(user not in members and not _fills(user, op) for user in users):
            return "a value in between has other users"
    output, last = output_of(chain.operations[-1]), chain.operations[-1]
    for op in chain.operations:
        reads = [v for v in list(op.operands)[:-1] if isinstance(v.type, ir.MemRefType)]
        sources = [source for value in reads for _, source in overlay.pieces(value)[0]]
        if any(touches(source, output) for source in sources):
            return "the last operation overwrites what one before it reads"
        if op != last and (reason := conflict(op, last, sources, order)) is not None:
            return reason
    loops = joint_loops(chain)
    if loops is None:
        return "a value in between is read through a window"
    if not loops.common:
        return "the operations have no loop in common"
    return None


def _fills(user: ir.Operation, op: ir.Operation) -> bool:
    """Whether `user` only fills what `op` accumulates into."""
    return user.name == "linalg.generic" and len(user.operands) == 1 and user != op


def is_link(op: ir.Operation, initials: Fills) -> bool:
    """Whether an operation can be part of a chain: elementwise, or a reduction from a constant."""
    if op.name != "linalg.generic":
        return False
    if not all(isinstance(v.type, ir.MemRefType) for v in op.operands):
        return False
    generic = GenericOp.from_op(op.opview)
    body = {o.operation.name for o in generic.body.operations}
    if len(generic.outputs) != 1 or body & {"memref.load", "linalg.index"}:
        return False
    if not generic.reductions:
        return is_elementwise(op)
    plain = all(x.single is not None or n == 1 for x, n in zip(*_output(generic), strict=True))
    return plain and op in initials


def _output(generic: GenericOp) -> tuple[Sequence[Linear], Sequence[int]]:
    return generic.outputs[0].index, generic.outputs[0].shape


def whole_bytes(chain: Chain) -> int:
    """Return an estimate of the bytes per partition that a tile takes at least: the inner loops of
    every array whole, in f32."""
    loops = joint_loops(chain)
    assert loops is not None, "a chain has joint loops"
    total = 0
    for op, place in zip(chain.operations, loops.places, strict=True):
        generic = GenericOp.from_op(op.opview)
        for access in (*generic.inputs, *generic.outputs):
            inner = [place[d] for d in access.dims if place.get(d, 0) >= loops.common]
            total += 4 * prod(loops.extents[d] for d in inner)
    return total


def walks_whole(chain: Chain, pattern: AccessPattern) -> bool:
    """Whether an instruction can walk the inner loops of every array whole."""
    loops = joint_loops(chain)
    assert loops is not None, "a chain has joint loops"
    for op, place in zip(chain.operations, loops.places, strict=True):
        generic = GenericOp.from_op(op.opview)
        inner = sorted((d for d in place if place[d] >= loops.common), key=place.__getitem__)
        sizes = [generic.extents[d] for d in inner]
        for access in (*generic.inputs, *generic.outputs):
            walk = access_pattern(sizes, _strides_of_part(access, inner, sizes))
            if len(walk) > pattern.max_free_dims:
                return False
            if any(abs(dim.stride) > pattern.max_stride for dim in walk):
                return False
    return True


def _strides_of_part(access: Access, inner: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Return the stride of every inner loop in a buffer that holds just what they access."""
    steps = [[x.coefficients[d] for d in inner] for x in access.index]
    shape = [1 + sum(abs(c) * (n - 1) for c, n in zip(s, sizes, strict=True)) for s in steps]
    rows = row_major_strides(shape)
    return [
        sum(step[i] * row for step, row in zip(steps, rows, strict=True)) for i in range(len(inner))
    ]
