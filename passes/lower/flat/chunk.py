"""A chunk of an operator's iterations, and where its operands are while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from polystage.linear import Linear
from polystage.passes.lower.flat.forms import Indices, OperatorForm
from polystage.passes.lower.flat.indices import Index
from polystage.passes.lower.flat.pieces import Axis, Piece, Range, address, refine
from polystage.passes.lower.flat.writer import Storage, Window
from polystage.passes.memref_types import row_major_strides


@dataclass(frozen=True)
class Location:
    """Where elements of an array are: a storage, and how they lie in it."""

    storage: Storage
    axes: tuple[Axis, ...]

    @classmethod
    def circular(cls, storage: Storage, shape: Sequence[int], array: Sequence[int]) -> Location:
        """Return a window of `shape` on an array of shape `array`: element x is at x mod shape."""
        steps = row_major_strides(shape)
        return cls(
            storage,
            tuple(
                Axis(stride, None if extent >= whole else extent)
                for stride, extent, whole in zip(steps, shape, array, strict=True)
            ),
        )

    @classmethod
    def box(cls, storage: Storage, starts: Sequence[Linear], sizes: Sequence[int]) -> Location:
        """Return a box of an array: element x is at x - starts."""
        steps = row_major_strides(sizes)
        axes = (Axis(stride, None, start) for stride, start in zip(steps, starts, strict=True))
        return cls(storage, tuple(axes))


@dataclass(frozen=True)
class Chunk:
    """A box of iterations, and the places of what it touches.

    `starts` are over the variables of the open loops, whose ranges are `loops`. `places` are those
    of the operator's accesses that are on chip, by number; `sums` is that of the running result,
    over the parallel dims, None where the output serves.
    """

    form: OperatorForm
    starts: tuple[Linear, ...]
    sizes: tuple[int, ...]
    loops: tuple[Range, ...]
    is_first: bool
    """Whether accumulation starts here: nothing of the result has been computed before."""
    places: Mapping[int, Location]
    sums: Location | None = None
    scratch: tuple[Location, ...] = field(default=())

    @property
    def piece(self) -> Piece:
        """All of it as one piece."""
        return Piece.of_box(self.starts, self.sizes, self.loops)

    @property
    def result(self) -> tuple[Indices, Location]:
        """Where the operator accumulates, and at which indices."""
        if self.sums is not None:
            return parallel_indices(self.form), self.sums
        output = self.form.output()
        return self.form.writes[0], self.places[output]

    def with_sizes(self, sizes: Mapping[int, int]) -> Chunk:
        """Return the chunk with other extents of some dims."""
        changed = tuple(sizes.get(d, size) for d, size in enumerate(self.sizes))
        return Chunk(
            self.form,
            self.starts,
            changed,
            self.loops,
            self.is_first,
            self.places,
            self.sums,
            self.scratch,
        )


def parallel_indices(form: OperatorForm) -> Indices:
    """Return the indices of a running result beside the output: the parallel dims."""
    return tuple(Index(Linear.variable(d)) for d in form.operator.parallels)


def window(location: Location, at: Linear, piece: Piece, variables: Sequence[int]) -> Window:
    """Return the window along `variables` of a piece whose elements lie at address `at`."""
    steps = dict(at.terms)
    base = Linear(at.constant, tuple((v, c) for v, c in at.terms if v < piece.loops))
    return Window(
        location.storage,
        base,
        tuple(piece.size(v) for v in variables),
        tuple(steps.get(v, 0) for v in variables),
    )


def windows(indices: Indices, location: Location, piece: Piece) -> list[Window]:
    """Return the windows that make up what a piece touches, along all its variables that move."""
    found: list[Window] = []
    for part, at in refine(piece, lambda p: address(indices, location.axes, p)):
        steps = dict(at.terms)
        moving = [v for v in part.variables if steps.get(v, 0)]
        found.append(window(location, at, part, moving))
    return found
