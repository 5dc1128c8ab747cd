"""Recognises contractions: `out[batch, m, n] += sum_k stationary[batch, k, m] * moving[batch, k,
n]`."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from polystage.dtypes import cost_dtype
from polystage.machine.target import Target
from polystage.passes.lower.generic_op import Access, GenericOp
from polystage.planner.layouts.variants import array_takes
from polystage.polyhedral.scalar import multiplied_arguments


@dataclass(frozen=True)
class Contraction:
    """A contraction and the part that every loop dimension plays.

    `batch` occurs in all three operands, `rows` (m) in stationary and output, `columns` (n) in
    moving and output, `channel` is the contracted dimension that lies on the partitions (it is
    accessed plainly by both operands; -1 where there is none) and `taps` are the other contracted
    dimensions, for instance those of a convolution's window.
    """

    generic: GenericOp
    stationary: Access
    moving: Access
    output: Access
    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    channel: int
    taps: tuple[int, ...]
    is_diagonal: bool = False
    """The stationary operand lies on the diagonal of matrices; it has no rows of its own."""

    @property
    def dtype(self) -> str:
        """The type of the operands, as targets name it."""
        return cost_dtype(self.moving.element_type)

    def extent(self, dims: tuple[int, ...] | list[int]) -> int:
        """Return the product of the extents of `dims`."""
        return prod(self.generic.extents[d] for d in dims)

    @property
    def channels(self) -> int:
        """The extent of the channel dimension, 1 where there is none."""
        return self.generic.extents[self.channel] if self.channel >= 0 else 1

    @property
    def stores_rows(self) -> bool:
        """Whether the innermost dimension of the output is a column, so that results are stored in
        long runs."""
        inner = [x.dims[0] for x in self.output.index if x.dims]
        return bool(inner) and inner[-1] in self.columns

    @classmethod
    def match(
        cls, generic: GenericOp, target: Target, stationary: int | None = None
    ) -> Contraction | None:
        """Return the contraction that `generic` is, or None where the tensor engine cannot compute
        it; with operand `stationary` in that role, if one is named.

        Unit dimensions must have been removed.
        """
        if len(generic.outputs) != 1:
            return None
        operands = multiplied_operands(generic)
        if operands is None:
            return None
        types = [cost_dtype(access.element_type) for access in (*operands, generic.outputs[0])]
        if not array_takes(types, target):
            return None
        found = [c for a, b in (operands, operands[::-1]) if (c := _with_roles(generic, a, b))]
        if stationary is not None:
            found = [c for c in found if c.stationary.argument == stationary]
        if not found:
            return None
        return min(found, key=lambda c: not c.stores_rows)

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel has a filter of its own, and only taps are contracted."""
        return not self.rows and self.channel < 0 and len(self.batch) == 1

    def channel_block(self, target: Target) -> int:
        """Return how many channels of a depthwise contraction the array takes at once."""
        (channel,) = self.batch
        extent = self.generic.extents[channel]
        most = min(target.tensor.rows, target.tensor.columns)
        return next(n for n in range(min(most, extent), 0, -1) if extent % n == 0)

    def tensor_ns(self, target: Target) -> float:
        """Estimate the time of the tensor engine, one tap at a time."""
        array = target.tensor
        if self.is_depthwise:
            return self._depthwise_ns(target)
        moves = self.extent(self.taps) * ceil(self.channels / array.rows)
        moves *= ceil(self.extent(self.rows) / array.columns) * self.extent(self.batch)
        columns = self.extent(self.columns)
        cycles = max(columns, array.min_issue_cycles)
        per_row = getattr(array.cycles_per_row, self.dtype)
        return moves * cycles * per_row / array.clock_ghz

    def _depthwise_ns(self, target: Target) -> float:
        """Estimate the time of a block of channels after the other: taps on the array, while the
        vector engine spreads the weights of the next block over diagonals."""
        array, block = target.tensor, self.channel_block(target)
        blocks, taps = self.extent(self.batch) // block, self.extent(self.taps)
        cycles = max(self.extent(self.columns), array.min_issue_cycles)
        per_row = getattr(array.cycles_per_row, self.dtype)
        array_ns = taps * cycles * per_row / array.clock_ghz
        spread_ns = 2 * taps * block / target.vector.clock_ghz
        return blocks * max(array_ns, spread_ns)

    def vector_ns(self, target: Target) -> float:
        """Estimate the time of the vector engine for the same operation: a product of two inputs,
        and its sum with what is there."""
        spread = (min(self.generic.extents[d], target.vector.lanes) for d in self.generic.parallel)
        lanes = max(spread, default=1)
        return 3 * prod(self.generic.extents) / lanes / target.vector.clock_ghz


def multiplied_operands(generic: GenericOp) -> tuple[Access, Access] | None:
    """Return (a, b) where the body is `out + a * b`, up to casts that keep the value."""
    found = multiplied_arguments(generic.body, generic.outputs[0].argument)
    return None if found is None else (generic.inputs[found[0]], generic.inputs[found[1]])


def _with_roles(generic: GenericOp, stationary: Access, moving: Access) -> Contraction | None:
    """Return the contraction with this assignment of roles, or None where an access does not allow
    it."""
    output = generic.outputs[0]
    s, m, o = stationary.dims, moving.dims, output.dims
    contracted = [d for d in generic.reductions if d in s and d in m]
    if len(contracted) != len(generic.reductions) or not contracted:
        return None
    if set(generic.parallel) != o or any(d not in s | m for d in o):
        return None
    columns = {d for d in m & o if d not in s}
    if not all(_is_plain(a) for a in (stationary, output)) or not _is_window(moving, columns):
        return None
    shared = [d for d in contracted if _is_single(stationary, d) and _is_single(moving, d)]
    channel = max(shared, key=lambda d: (generic.extents[d], -d), default=-1)
    in_output_order = [d for linear in output.index for d in linear.dims]
    return Contraction(
        generic,
        stationary,
        moving,
        output,
        batch=tuple(d for d in in_output_order if d in s and d in m),
        rows=tuple(d for d in in_output_order if d in s and d not in m),
        columns=tuple(d for d in in_output_order if d in columns),
        channel=channel,
        taps=tuple(sorted(d for d in contracted if d != channel)),
    )


def _is_plain(access: Access) -> bool:
    """Whether every dimension of the operand is one loop dimension or a constant."""
    singles = [x.single for x in access.index if x.dims]
    return None not in singles and len(set(singles)) == len(singles)


def _is_window(access: Access, columns: set[int]) -> bool:
    """Whether every dimension slides with at most one column, with positive coefficients."""
    seen: list[int] = []
    for linear in access.index:
        mine = [d for d in linear.dims if d in columns]
        if len(mine) > 1 or any(c < 0 for c in linear.coefficients):
            return False
        seen += linear.dims
    return len(set(seen)) == len(seen)


def _is_single(access: Access, dim: int) -> bool:
    return any(x.single == dim for x in access.index)


def element_bytes(access: Access) -> int:
    """Return the bytes of one element of an operand."""
    return max(1, access.element_type.width // 8)


def output_bytes(contraction: Contraction) -> int:
    """Return the bytes on chip for one element of an output tile: its own, and those of what riders
    have for it."""
    columns = set(contraction.columns)
    riders = (a for a in contraction.generic.riders if a.dims & columns)
    return element_bytes(contraction.output) + sum(map(element_bytes, riders))
