"""What the instructions of a kernel touch: bytes, partitions and boxes, linear in its variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise, product

from polystage.linear import Linear

Range = tuple[int, int]
Extents = tuple[int, ...]
ZERO = Linear()
UNBOUNDED: Range = (-(1 << 40), 1 << 40)


@dataclass
class Variables:
    """The integers that the index values of a kernel are linear in.

    Loop variables count iterations from 0. Others have `relations`, linear forms over variables
    that are at least 0, such as those of a quotient; without one they may be anything.
    """

    ranges: list[Range] = field(default_factory=list[Range])
    relations: dict[int, tuple[Linear, ...]] = field(default_factory=dict[int, tuple[Linear, ...]])

    def new(self, range_: Range, relations: tuple[Linear, ...] = ()) -> Linear:
        """Return a new variable."""
        self.ranges.append(range_)
        if relations:
            self.relations[len(self.ranges) - 1] = relations
        return Linear.variable(len(self.ranges) - 1)

    def quotient(self, dividend: Linear, divisor: int) -> Linear:
        """Return the variable `floor(dividend / divisor)`, for a positive divisor.

        >>> variables = Variables()
        >>> i = variables.new((0, 9))
        >>> variables.ranges[variables.quotient(i, 4).terms[0][0]]
        (0, 2)
        """
        low, high = dividend.range(self.ranges)
        quotient = self.new((low // divisor, high // divisor))
        rest = dividend - quotient * divisor
        self.relations[len(self.ranges) - 1] = (rest, rest * -1 + (divisor - 1))
        return quotient

    def count(self, loops: Sequence[int]) -> Linear:
        """Return how often the body of the innermost of nested loops was executed before."""
        total = Linear()
        for loop in loops:
            total = total * (self.ranges[loop][1] + 1) + Linear.variable(loop)
        return total


@dataclass(frozen=True, eq=False)
class Buffer:
    """A buffer of a kernel: an `npu.alloc`, or an argument in DRAM.

    Shape and strides are in elements. On chip, its `k`-th life has byte `addresses[k % n]` of every
    partition, where the executions of the body of its innermost loop are counted.
    """

    memory: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item_bytes: int
    addresses: tuple[int, ...] = (0,)
    loops: tuple[int, ...] = ()
    argument: int = -1


@dataclass(frozen=True)
class View:
    """A memref value: a strided window on a buffer; offset and strides in elements."""

    buffer: Buffer
    offset: Linear
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Walk:
    """How an instruction visits a view: extents of its loops, strides in elements of the buffer."""

    extents: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def reach(self) -> Range:
        """The least and the greatest offset, relative to the first element."""
        steps = [(n - 1) * s for n, s in zip(self.extents, self.strides, strict=True)]
        return sum(min(0, s) for s in steps), sum(max(0, s) for s in steps)


@dataclass(frozen=True, eq=False)
class Access:
    """What one operand of an instruction touches, which is nothing where `length` is 0.

    Bytes `low` to `low + length - 1` of the buffer, in every one of the `partitions`. `box` has a
    (start, extent) per dimension of the buffer, or is None where the access is no box in it.
    """

    buffer: Buffer
    writes: bool
    low: Linear
    length: int
    partitions: Range
    box: tuple[tuple[Linear, int], ...] | None
    variables: Variables

    @cached_property
    def hull(self) -> Range:
        """First byte and end of all that is touched, in any iteration and place."""
        low, high = self.bytes
        addresses = self.buffer.addresses
        return min(addresses) + low, max(addresses) + high

    @cached_property
    def bytes(self) -> Range:
        """First byte and end, relative to the buffer's start, over all iterations."""
        low, high = self.low.range(self.variables.ranges)
        if self.is_known:
            return low, high + self.length
        size = self.buffer.item_bytes
        dims = zip(self.buffer.shape, self.buffer.strides, strict=True)
        if self.buffer.memory != "dram":
            dims = list(dims)[1:]
        return 0, (1 + sum((n - 1) * s for n, s in dims)) * size

    @cached_property
    def is_known(self) -> bool:
        """Whether all variables have bounds."""
        ranges = self.variables.ranges
        return all(ranges[v] != UNBOUNDED for v, _ in self.low.terms)

    @cached_property
    def box_hull(self) -> tuple[Range, ...] | None:
        """The box that all iterations together touch."""
        if self.box is None:
            return None
        ranges = [(start.range(self.variables.ranges), extent) for start, extent in self.box]
        return tuple((low, high + extent) for (low, high), extent in ranges)

    @property
    def is_constant(self) -> bool:
        """Whether every iteration touches the same."""
        return len(self.buffer.addresses) == 1 and not self.low.terms

    def may_meet(self, other: Access) -> bool:
        """Say whether the hulls of two accesses share a byte."""
        if not (self.writes or other.writes) or self.buffer.memory != other.buffer.memory:
            return False
        if self.buffer.memory == "dram" and self.buffer is not other.buffer:
            return False
        if not (_meet(self.hull, other.hull) and _meet(self.partitions, other.partitions)):
            return False
        if self.buffer is not other.buffer:
            return any(
                _meet(_moved(self.bytes, a), _moved(other.bytes, b))
                for a, b in product(self.buffer.addresses, other.buffer.addresses)
            )
        a, b = self.box_hull, other.box_hull
        return a is None or b is None or all(_meet(x, y) for x, y in zip(a, b, strict=True))


def _meet(a: Range, b: Range) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _moved(a: Range, by: int) -> Range:
    return a[0] + by, a[1] + by


def access_of(view: View, walk: Walk, writes: bool, variables: Variables) -> Access:
    """Return what a walk through a view touches."""
    buffer = view.buffer
    offset = view.offset + walk.offset
    low, high = walk.reach
    partitions = (0, 1)
    box = _box(buffer, offset, walk, variables)
    if buffer.memory != "dram" and buffer.shape[0] > 1:
        row = max(1, buffer.strides[0])
        first = offset.range(variables.ranges)[0] // row if not _is_open(offset, variables) else 0
        across = walk.extents[0] if walk.strides[0] else 1
        partitions = (first, first + across)
        offset = offset + (-first * row)
        high -= (across - 1) * row
    size = buffer.item_bytes
    length = (high - low + 1) * size if all(walk.extents) else 0
    return Access(buffer, writes, (offset + low) * size, length, partitions, box, variables)


def _is_open(offset: Linear, variables: Variables) -> bool:
    return bool(offset.terms) and any(variables.ranges[v] == UNBOUNDED for v, _ in offset.terms)


def _box(
    buffer: Buffer, offset: Linear, walk: Walk, variables: Variables
) -> tuple[tuple[Linear, int], ...] | None:
    """Return the box of a walk from an element of a nested layout, or None where it is none."""
    extents = _box_extents(buffer.shape, buffer.strides, walk.extents, walk.strides)
    starts = _box_starts(buffer, offset)
    if extents is None or starts is None:
        return None
    for start, extent, limit in zip(starts, extents, buffer.shape, strict=True):
        low, high = start.range(variables.ranges)
        if low < 0 or high + extent > limit:
            return None
    return tuple(zip(starts, extents, strict=True))


@lru_cache(maxsize=1 << 16)
def _box_extents(
    shape: Extents, strides: Extents, walk_extents: Extents, walk_strides: Extents
) -> tuple[int, ...] | None:
    """Return how far a walk reaches in every dimension of a buffer.

    A run through whole rows reaches through the rows and along them:

    >>> _box_extents((8, 6), (6, 1), (12,), (1,))
    (2, 6)
    """
    extents = [1] * len(shape)
    for extent, stride in zip(walk_extents, walk_strides, strict=True):
        while extent > 1 and stride:
            dim = _widest_dim(shape, strides, stride)
            if dim is None:
                return None
            step = stride // strides[dim]
            rows = shape[dim] // step
            if step * extent > shape[dim] and _has_whole_rows(shape, strides, dim, step, extent):
                extents[dim] += (rows - 1) * step
                extent, stride = extent // rows, strides[dim] * shape[dim]
            else:
                extents[dim] += (extent - 1) * step
                extent = 1
    return tuple(extents)


def _widest_dim(shape: Extents, strides: Extents, stride: int) -> int | None:
    """Return the dimension of the largest stride that divides another."""
    dims = enumerate(zip(strides, shape, strict=True))
    fitting = [(s, d) for d, (s, n) in dims if n > 1 and 0 < s <= stride and stride % s == 0]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _has_whole_rows(shape: Extents, strides: Extents, dim: int, step: int, extent: int) -> bool:
    """Say whether a run along a dimension goes on in the dimension outside of it."""
    size, row = shape[dim], strides[dim] * shape[dim]
    if size % step or extent % (size // step):
        return False
    return any(s == row and n > 1 for s, n in zip(strides, shape, strict=True))


def _box_starts(buffer: Buffer, offset: Linear) -> list[Linear] | None:
    """Split an element offset by the strides of a nested layout, outermost dimension first."""
    nested = _nested_dims(buffer.shape, buffer.strides)
    if nested is None:
        return None
    starts = [ZERO] * len(buffer.shape)
    constant, terms = offset.constant, offset.terms
    for d, stride in nested:
        start, constant = divmod(constant, stride)
        parts = [(v, *divmod(c, stride)) for v, c in terms]
        starts[d] = Linear(start, tuple((v, q) for v, q, _ in parts if q))
        terms = tuple((v, r) for v, _, r in parts if r)
    return None if constant or terms else starts


@lru_cache(maxsize=1 << 12)
def _nested_dims(shape: Extents, strides: Extents) -> tuple[tuple[int, int], ...] | None:
    """Return (dimension, stride) of those of a layout in which each contains the next, or None."""
    dims = [(d, s) for d, (s, n) in enumerate(zip(strides, shape, strict=True)) if n > 1 and s]
    for (_, outer), (d, stride) in pairwise(dims):
        if stride * shape[d] > outer:
            return None
    return tuple(dims)
