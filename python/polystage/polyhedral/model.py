"""What a tensor program consists of: arrays, statements, and accesses of statements to arrays."""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import islpy as isl

from polystage.mlir import ir


class Role(StrEnum):
    """What an array is to the program."""

    INPUT = "input"
    WEIGHT = "weight"
    INTERMEDIATE = "intermediate"
    OUTPUT = "output"


class Kind(StrEnum):
    """What a statement does with the values it reads."""

    COPY = "copy"
    """One read, one write, no arithmetic: a load/store pair."""
    ELEMENTWISE = "elementwise"
    """Arithmetic, and every instance writes another element."""
    REDUCTION = "reduction"
    """Several instances fold their values into one element."""
    CONTRACTION = "contraction"
    """A reduction by addition of products of two operands."""
    GATHER = "gather"
    """At least one read goes where the data says."""
    FILL = "fill"
    """Writes a value that does not depend on any array."""
    OPAQUE = "opaque"
    """Not understood; assumed to touch all of every array that it names. See `Statement.reason`."""


@dataclass(frozen=True)
class Array:
    """A buffer of the program; all views on it are folded into the accesses."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    element_bytes: int
    is_initialized: bool
    """Holds defined values before the first statement: an argument or a constant."""
    value: ir.Value | None = field(default=None, repr=False, compare=False)
    """The argument, allocation or first `memref.get_global` that stands for the array."""

    @property
    def elements(self) -> int:
        """The number of elements."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @cached_property
    def size_bytes(self) -> int:
        """The size in bytes."""
        return self.elements * self.element_bytes


@dataclass(frozen=True)
class Bound:
    """`low <= expr <= high`, over the dims of a statement."""

    expr: ir.AffineExpr
    low: int
    high: int


@dataclass(frozen=True)
class Access:
    """The elements of one array that each instance of a statement reads, or writes.

    An operand that is an overlay makes several accesses, one for each array it shows, the one on
    top first; so does a load at constant indices that are a few runs. Each happens in the instances
    where its bounds hold and none before it does.
    """

    array: str
    map: isl.Map = field(repr=False)
    """Statement instance to array element, restricted to the instances that make the access."""
    exprs: tuple[ir.AffineExpr, ...] | None = field(default=None, repr=False)
    """The same as one quasi-affine expression per array dimension, over the statement's dims."""
    op: ir.Operation | None = field(default=None, repr=False, compare=False)
    """The load, store, copy or linalg op that makes the access."""
    operand: int | None = None
    """The operand of `op` through which it goes; None for a load in a scalar body."""
    where: tuple[Bound, ...] = field(default=(), repr=False)
    """What must hold for one of several accesses; nothing for any other."""
    fill: ir.Attribute | None = field(default=None, repr=False, compare=False)
    """The value elsewhere, of the last access of an operand that shows one."""

    @property
    def is_exact(self) -> bool:
        """Whether the map is exact; otherwise it is the whole array, of which a part is touched."""
        return self.exprs is not None


@dataclass(frozen=True)
class Statement:
    """All instances of one operation, with what they read and write."""

    name: str
    kind: Kind
    domain: isl.Set = field(repr=False)
    dims: tuple[str, ...]
    """Names of the domain's dimensions: those of the enclosing loops, then the operation's own."""
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    position: tuple[int, ...]
    """Where the statement stands: one index per enclosing block, outermost first."""
    iterators: tuple[str, ...]
    """`sequential` (an enclosing loop), `parallel` or `reduction`, for each of the dimensions."""
    op: ir.Operation = field(repr=False, compare=False)
    """The operation that the statement stands for: linalg.generic, memref.copy, a store, ..."""
    reason: str = ""
    """Why the statement is opaque or a gather."""
    location: str = ""
    """The name of the model's layer that it comes from, where known."""
    loop_indices: tuple[ir.AffineExpr, ...] = field(default=(), repr=False)
    """The index of each enclosing loop: its dim, or `lower + step * dim` of a loop with a step."""

    @property
    def depth(self) -> int:
        """The number of enclosing loops."""
        return len(self.position) - 1

    @property
    def accesses(self) -> tuple[Access, ...]:
        """Reads, then writes."""
        return self.reads + self.writes

    def schedule(self, length: int | None = None) -> isl.Map:
        """Map each instance to its time: `[position0, loop0, position1, loop1, .., own dims]`.

        Two instances of the program run in the lexicographic order of their times. With `length`,
        times are padded with zeros to that many dimensions, so that those of different statements
        compare.
        """
        space = self.domain.get_space()
        local = isl.LocalSpace.from_space(space)
        zero = isl.Aff.zero_on_domain(local)
        times: list[isl.Aff] = []
        for level, place in enumerate(self.position):
            times.append(zero.set_constant_val(isl.Val(place)))
            if level < self.depth:
                times.append(isl.Aff.var_on_domain(local, isl.dim_type.set, level))
        own = range(self.depth, len(self.dims))
        times += [isl.Aff.var_on_domain(local, isl.dim_type.set, dim) for dim in own]
        times += [zero] * ((length or 0) - len(times))
        return map_from_affs(space, times).intersect_domain(self.domain)


def map_from_affs(domain: isl.Space, affs: list[isl.Aff], name: str | None = None) -> isl.Map:
    """Return the map of the instances of `domain` to the tuple `name[affs]`."""
    target = isl.Space.set_alloc(isl.DEFAULT_CONTEXT, 0, len(affs))
    if name is not None:
        target = target.set_tuple_name(isl.dim_type.set, name)
    multi = isl.MultiAff.zero(isl.Space.map_from_domain_and_range(domain, target))
    for index, aff in enumerate(affs):
        multi = multi.set_aff(index, aff)
    return isl.Map.from_multi_aff(multi)
