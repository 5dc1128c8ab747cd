"""The loops of an operation in the shape that tiling wants: few, long, and the partition first.

A nest is rewritten step by step, operands along with it (they become views of the kernel's
arguments):

    relu on memref<1x64x55x55>          loops 1 x 64 x 55 x 55
    unit loops dropped, the rest merged  loops 193600, operands memref<193600>
    partition chosen and split off       loops 121 x 1600, operands memref<121x1600>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod

from polystage.errors import PassError
from polystage.mlir import ir, memref
from polystage.passes.lower.generic_op import GenericOp, Linear
from polystage.passes.lower.kernel_builder import KernelBuilder
from polystage.passes.lower.lane_engines.operand import Operand
from polystage.passes.lower.lane_engines.scalar_graph import ScalarBody
from polystage.passes.lower.mosaic import (
    Array,
    Mosaic,
    shape_of,
    strides_of,
)
from polystage.passes.lower.physical_layout import PARTITION_LOOP, partition_loop


@dataclass(frozen=True)
class LoopNest:
    """`extents[d]` iterations of loop d; the first `n_parallel` loops are parallel, the others
    reduce, in order.

    `coordinates[k]` is what `linalg.index k` of the original operation is now. `stack` is a loop
    and how many pieces of it, of `extents[loop]` iterations each, lie side by side on the
    partitions.
    """

    extents: tuple[int, ...]
    n_parallel: int
    inputs: dict[int, Operand]
    outputs: tuple[Operand, ...]
    coordinates: dict[int, Linear]
    stack: tuple[int, int] = (0, 1)
    across: int | None = None
    """The loop that has to lie across the partitions, if that is decided already."""

    @property
    def operands(self) -> list[Operand]:
        """All operands that the body touches."""
        return [*self.inputs.values(), *self.outputs]

    @property
    def reductions(self) -> range:
        """The loops that reduce."""
        return range(self.n_parallel, len(self.extents))

    def map_operands(self, function: Callable[[Operand], Operand]) -> LoopNest:
        """Return the nest with `function` applied to every operand."""
        return replace(
            self,
            inputs={i: function(o) for i, o in self.inputs.items()},
            outputs=tuple(function(o) for o in self.outputs),
        )

    # --- from an operation ------------------------------------------------------------------------

    @classmethod
    def from_generic(
        cls, builder: KernelBuilder, generic: GenericOp, body: ScalarBody, causes: Sequence[str]
    ) -> LoopNest:
        """Read the loops of an operation: unit loops dropped, operands cut to what is accessed.

        `generic` still has its unit loops, because `linalg.index` counts them.
        """
        order = _loop_order(generic)
        place = {d: i for i, d in enumerate(order)}
        extents = tuple(generic.extents[d] for d in order)
        used = body.reads("input")

        def operand(argument: int, index: Sequence[Linear]) -> Operand:
            moved = [_moved(linear, place, len(order)) for linear in index]
            return cut_operand(
                builder, builder.arguments[argument], moved, extents, causes[argument]
            )

        elements = {
            body.operands + k: operand(
                len(builder.arguments) - len(body.tables) + table,
                [Linear(p, (0,) * len(generic.extents)) for p in where],
            )
            for k, (table, where) in enumerate(body.elements)
        }
        inputs = {
            a.argument: operand(a.argument, a.index) for a in generic.inputs if a.argument in used
        }
        return cls(
            extents,
            sum(d not in generic.reductions for d in order),
            inputs | elements,
            tuple(operand(a.argument, a.index) for a in generic.outputs),
            {
                d: _moved(_loop(d, len(generic.extents)), place, len(order))
                for d in sorted(body.reads("index"))
            },
            across=_named_loop(generic, place),
        )

    # --- rewriting --------------------------------------------------------------------------------

    def collapsed(self, builder: KernelBuilder) -> LoopNest:
        """Return the nest with neighbouring loops merged where every operand runs through both as
        through one.

        Loops that `linalg.index` asks for stay as they are.
        """
        fixed = {d for linear in self.coordinates.values() for d in linear.dims}
        starts = [0]
        for d in range(1, len(self.extents)):
            same_kind = (d < self.n_parallel) == (d - 1 < self.n_parallel)
            merges = same_kind and not {d, d - 1} & fixed and d != self.across
            if not merges or not all(_continues(o, d - 1, d) for o in self.operands):
                starts.append(d)
        groups = [
            list(range(a, b))
            for a, b in zip(starts, [*starts[1:], len(self.extents)], strict=True)
            if b > a
        ]
        nest = replace(
            self,
            extents=tuple(prod(self.extents[d] for d in g) for g in groups),
            n_parallel=sum(g[0] < self.n_parallel for g in groups),
            across=next((i for i, g in enumerate(groups) if self.across in g), None),
            coordinates={
                k: _moved(x, {g[-1]: i for i, g in enumerate(groups)}, len(groups))
                for k, x in self.coordinates.items()
            },
        )
        return nest.map_operands(lambda o: _collapsed(builder, o, groups))

    def restricted(self, builder: KernelBuilder, loop: int, start: int, size: int) -> LoopNest:
        """Return the iterations `start <= loop < start + size`; no operand may use the loop in a
        sum."""
        extents = list(self.extents)
        extents[loop] = size

        def cut(operand: Operand) -> Operand:
            dim = operand.dim_of(loop)
            if dim is None:
                assert loop not in operand.dims
                return operand
            offsets, sizes = [0] * len(operand.shape), operand.shape
            offsets[dim], sizes[dim] = start, size
            return replace(operand, value=builder.subview(operand.value, offsets, sizes))

        coordinates = {
            k: Linear(x.constant + x.coefficients[loop] * start, x.coefficients)
            for k, x in self.coordinates.items()
        }
        nest = replace(self, extents=tuple(extents), coordinates=coordinates)
        return nest.map_operands(cut)

    def partitioned(
        self, builder: KernelBuilder, loop: int | None, partitions: int, outer: bool
    ) -> LoopNest:
        """Return the nest with loop 0 the partition, split off `loop`; without one it has a single
        iteration.

        loop = partition * inner + rest where `outer`, else loop = rest * partitions + partition.
        """
        if loop is None:
            nest = replace(self, extents=(1, *self.extents), n_parallel=self.n_parallel + 1)
            return nest._renumbered({d: ((d + 1, 1),) for d in range(len(self.extents))})
        rest = self.extents[loop] // partitions
        kept = [d for d in range(len(self.extents)) if d != loop or rest > 1]
        place: dict[int, tuple[tuple[int, int], ...]]
        place = {d: ((i + 1, 1),) for i, d in enumerate(kept)}
        if rest == 1:
            place[loop] = ((0, 1),)
        else:
            inner = place[loop][0][0]
            place[loop] = ((0, rest), (inner, 1)) if outer else ((0, 1), (inner, partitions))
        extents = [partitions, *(rest if d == loop else self.extents[d] for d in kept)]
        split = self
        if rest > 1:
            shape = [partitions, rest] if outer else [rest, partitions]
            split = self.map_operands(lambda o: _expanded(builder, o, loop, shape))
        n_parallel = self.n_parallel + (1 if rest > 1 else 0)
        return replace(split, extents=tuple(extents), n_parallel=n_parallel)._renumbered(
            place, loop if rest > 1 else None, outer
        )

    def _renumbered(
        self,
        place: dict[int, tuple[tuple[int, int], ...]],
        split: int | None = None,
        outer: bool = True,
    ) -> LoopNest:
        """Return the nest with loop d written as the sum of `factor * loop` over `place[d]`.

        Operands accessed at exactly `split` have two dimensions for it already, marked by equal
        expressions.
        """
        n = len(self.extents)
        halves = [p for p, _ in place[split]] if split is not None else []
        if not outer:
            halves.reverse()

        def index(operand: Operand) -> Operand:
            pieces = list(halves)
            new = []
            for linear in operand.index:
                if split is not None and linear.single == split:
                    new.append(_loop(pieces.pop(0), n))
                else:
                    new.append(_spread(linear, place, n))
            return replace(operand, index=tuple(new))

        coordinates = {k: _spread(x, place, n) for k, x in self.coordinates.items()}
        return replace(self, coordinates=coordinates).map_operands(index)


def expand_scalar(builder: KernelBuilder, value: ir.Value) -> ir.Value:
    """Return a memref of rank 0 as memref<1>."""
    type_ = ir.MemRefType(value.type)
    with builder.insertion_point, ir.Location.unknown(builder.module.context):
        layout = None
        if isinstance(type_.layout, ir.StridedLayoutAttr):
            layout = ir.StridedLayoutAttr.get(type_.get_strides_and_offset()[1], [1])
        result = ir.MemRefType.get([1], type_.element_type, layout, type_.memory_space)
        return memref.ExpandShapeOp(result, value, [], [], [1]).result


def _loop(d: int, n: int) -> Linear:
    return Linear(0, tuple(int(i == d) for i in range(n)))


def _moved(linear: Linear, place: dict[int, int], n: int) -> Linear:
    coefficients = [0] * n
    for d in linear.dims:
        if d in place:
            coefficients[place[d]] = linear.coefficients[d]
    return Linear(linear.constant, tuple(coefficients))


def _spread(linear: Linear, place: dict[int, tuple[tuple[int, int], ...]], n: int) -> Linear:
    coefficients = [0] * n
    for d in linear.dims:
        for new, factor in place[d]:
            coefficients[new] += linear.coefficients[d] * factor
    return Linear(linear.constant, tuple(coefficients))


def _named_loop(generic: GenericOp, place: dict[int, int]) -> int | None:
    """Return the loop that the operation's attribute names.

    Raises:
        PassError: it is not a parallel loop of more than one iteration.
    """
    op = generic.body.owner.operation
    loop = partition_loop(op)
    if loop is None:
        return None
    if loop in place and loop not in generic.reductions:
        return place[loop]
    possible = ", ".join(str(d) for d in sorted(place) if d not in generic.reductions)
    raise PassError(
        f"'{PARTITION_LOOP}' is {loop}, but the parallel loops of more than one iteration are "
        f"{possible or 'none'}",
        op=op,
        help="name one of them, or remove the attribute",
    )


def _loop_order(generic: GenericOp) -> list[int]:
    """Return the loops that iterate: parallel ones in the order of the first output, then
    reductions."""
    kept = [d for d, n in enumerate(generic.extents) if n != 1]
    first = [d for linear in generic.outputs[0].index for d in linear.dims]
    parallel = [d for d in dict.fromkeys([*first, *kept]) if d in kept]
    return [d for d in parallel if d not in generic.reductions] + [
        d for d in kept if d in generic.reductions
    ]


def cut_operand(
    builder: KernelBuilder,
    value: Array,
    index: Sequence[Linear],
    extents: Sequence[int],
    cause: str,
) -> Operand:
    """Return the operand as a view of what is accessed: every expression starts at 0, common
    steps are taken out."""
    shape = shape_of(value)
    if not shape and not isinstance(value, Mosaic):
        return Operand(expand_scalar(builder, value), (Linear(0, (0,) * len(extents)),), cause)
    offsets, sizes, steps, moved = [], [], [], []
    for linear, extent, stride in zip(index, shape, strides_of(value), strict=True):
        spans = [c * (n - 1) for c, n in zip(linear.coefficients, extents, strict=True)]
        low = linear.constant + sum(min(0, s) for s in spans)
        high = linear.constant + sum(max(0, s) for s in spans)
        if low < 0 or high >= extent:
            raise PassError(
                f"an operand of shape {shape} is accessed at {low} to {high} where its extent is "
                f"{extent}",
                help="pad the operand, or correct the indexing maps",
            )
        step = gcd(*linear.coefficients) or 1 if linear.coefficients else 1
        if stride == 1 and step <= 4:
            step = 1  # contiguous transfers, strided reads on chip
        offsets.append(low)
        sizes.append((high - low) // step + 1)
        steps.append(step)
        moved.append(
            Linear((linear.constant - low) // step, tuple(c // step for c in linear.coefficients))
        )
    return Operand(builder.subview(value, offsets, sizes, steps), tuple(moved), cause)


def _continues(operand: Operand, outer: int, inner: int) -> bool:
    """Whether the operand runs through loops `outer` and `inner` as through one loop, or through
    neither."""
    if not operand.dims & {outer, inner}:
        return True
    a, b = operand.dim_of(outer), operand.dim_of(inner)
    if a is None or b is None or a > b:
        return False
    shape, strides = operand.shape, operand.strides
    if any(n != 1 for n in shape[a + 1 : b]):
        return False
    if isinstance(operand.value, Mosaic):
        return operand.value.merges(a, b)
    return strides[a] == strides[b] * shape[b]


def _collapsed(builder: KernelBuilder, operand: Operand, groups: list[list[int]]) -> Operand:
    """Return the operand with the dimensions of merged loops merged, and unit dimensions
    absorbed."""
    group_of = {d: i for i, group in enumerate(groups) for d in group}
    last_of = {group[-1]: i for i, group in enumerate(groups)}
    runs: list[list[int]] = []
    index: list[Linear] = []
    pending: list[int] = []
    for i, linear in enumerate(operand.index):
        pending.append(i)
        if not linear.dims:
            continue
        merged = _moved(linear, last_of, len(groups))
        if linear.single is not None and operand.dim_of(linear.single) == i:
            merged = _loop(group_of[linear.single], len(groups))
            if index and index[-1] == merged:
                runs[-1] += pending
                pending = []
                continue
        runs.append(pending)
        index.append(merged)
        pending = []
    if not runs:
        runs, index, pending = [pending], [Linear(0, (0,) * len(groups))], []
    runs[-1] += pending
    value = builder.collapse(operand.value, [len(run) for run in runs])
    return Operand(value, tuple(index), operand.cause)


def _expanded(builder: KernelBuilder, operand: Operand, loop: int, shape: list[int]) -> Operand:
    """Return the operand with the dimension of `loop` split; both halves keep its expression for
    the moment."""
    dim = operand.dim_of(loop)
    if dim is None:
        return operand
    shapes = [[n] for n in operand.shape]
    shapes[dim] = shape
    index = list(operand.index)
    index.insert(dim, index[dim])
    return replace(operand, value=builder.expand(operand.value, shapes), index=tuple(index))
