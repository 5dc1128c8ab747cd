"""What an array holds where it is read: the last writers of its elements, as pieces."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from polystage.mlir import ir
from polystage.passes.polyhedral.copy_elimination import legality
from polystage.passes.polyhedral.copy_elimination.working_program import (
    Node,
    WorkingProgram,
    shared_depth,
)
from polystage.polyhedral.inversion import Inverse, NotInvertibleError
from polystage.polyhedral.model import Bound
from polystage.polyhedral.readings import Piece, Region, compose, make_bound


@dataclass(frozen=True)
class Source:
    """A piece of what is read, and the statement that makes it what it is."""

    piece: Piece
    writer: Node | None
    """None where the array held it already, or several statements may have written it."""
    is_own: bool
    """Whether the piece is the array itself, and no way around it."""


@dataclass(frozen=True)
class Content:
    """Where the elements that an access reads come from."""

    sources: tuple[Source, ...]
    """The first of which the bounds hold applies."""
    needed: frozenset[Node]
    """Writers whose values are read."""


@dataclass(frozen=True)
class Viewpoint:
    """Who reads what: `reader` is None for what the caller of the function sees afterwards."""

    reader: Node | None
    piece: Piece
    ranges: Sequence[tuple[int, int]]


def content(
    program: WorkingProgram, view: Viewpoint, removable: Collection[Node], with_fills: bool
) -> Content:
    """Return the last writers of the elements that are seen, latest first.

    What a statement of `removable` wrote appears as the source that it copied, what a fill wrote
    as a constant if `with_fills`, and all else as the array itself.
    """
    return _Search(program, view, removable, with_fills).run()


class _Search:
    def __init__(
        self,
        program: WorkingProgram,
        view: Viewpoint,
        removable: Collection[Node],
        with_fills: bool,
    ) -> None:
        assert view.piece.array is not None
        self.program = program
        self.view = view
        self.array = view.piece.array
        self.removable = removable
        self.with_fills = with_fills
        users = program.touching(self.array)
        self.depth = shared_depth(users) if view.reader is not None else 0
        self.region = Region(view.ranges).restrict(view.piece.where)
        loops = [ir.AffineExpr.get_dim(dim) for dim in range(self.depth)]
        self.arguments = [*loops, *view.piece.index]
        self.sources: list[Source] = []
        self.needed: set[Node] = set()

    def run(self) -> Content:
        """Go through the writers, latest first, until nothing remains to be explained."""
        writers = self.program.writers(self.array)
        reader = self.view.reader
        place = reader.place[self.depth] if reader is not None else None
        if self._is_mixed(writers):
            return self._everything(writers)
        for writer in reversed(writers):
            if writer is reader or (place is not None and writer.place[self.depth] >= place):
                continue
            if not self._explain(writer):
                return self._everything(writers)
            if self.region.is_empty:
                break
        if not self.region.is_empty and (self.depth or self._holds_values_before()):
            self._add(self.view.piece, None, True)
            if self.depth:
                self.needed.update(writers)
        return Content(tuple(self.sources), frozenset(self.needed))

    def _is_mixed(self, writers: list[Node]) -> bool:
        """Tell whether the order of writes cannot be told from the places of the statements.

        So it is where the reader takes part in a loop, or an accumulation, of writes, and where two
        statements of one loop write the same elements.
        """
        reader = self.view.reader
        for _, together in itertools.groupby(writers, lambda node: node.place[self.depth]):
            pairs = itertools.combinations(together, 2)
            if any(self._overlap(one, other) for one, other in pairs):
                return True
        if reader is None:
            return False
        for writer in writers:
            if writer is reader:
                if not legality.reads_before_it_writes(reader, self.view.piece, self.depth):
                    return True
            elif writer.place[self.depth] == reader.place[self.depth]:
                return True
        return False

    def _overlap(self, one: Node, other: Node) -> bool:
        return any(
            legality.may_overlap(one, first, other, second)
            for _, first in one.writes_of(self.array)
            for _, second in other.writes_of(self.array)
        )

    def _everything(self, writers: list[Node]) -> Content:
        self._add(self.view.piece, None, True)
        return Content(tuple(self.sources), frozenset({*self.needed, *writers}))

    def _holds_values_before(self) -> bool:
        return self.program.arrays[self.array].is_initialized

    def _explain(self, writer: Node) -> bool:
        """Add the pieces of one writer; return whether it is known what it writes."""
        for _, target in writer.writes_of(self.array):
            try:
                shape = self.program.shapes[self.array]
                inverse = writer.inverse(target, shape, self.depth)
            except NotInvertibleError:
                return False
            where = self._bounds(inverse.where)
            if not self.region.meets(where):
                continue
            self.needed.add(writer)
            self._add_pieces(writer, inverse, where)
            self.region.remove(where)
        return True

    def _add_pieces(self, writer: Node, inverse: Inverse, where: tuple[Bound, ...]) -> None:
        full = (*self.view.piece.where, *where)
        if writer in self.removable:
            dims = [self._composed(expr) for expr in inverse.exprs]
            for piece in writer.source.pieces:
                self._add(_at(piece, dims, full, self.view.ranges), writer, False)
        elif self.with_fills and writer.constant is not None:
            self._add(Piece(None, (), full, writer.constant), writer, False)
        else:
            own = Piece(self.array, self.view.piece.index, full)
            self._add(own, writer, True)

    def _add(self, piece: Piece, writer: Node | None, is_own: bool) -> None:
        self.sources.append(Source(piece, writer, is_own))

    def _bounds(self, bounds: Sequence[Bound]) -> tuple[Bound, ...]:
        return tuple(make_bound(self._composed(b.expr), b.low, b.high) for b in bounds)

    def _composed(self, expr: ir.AffineExpr) -> ir.AffineExpr:
        return compose(expr, self.arguments, self.view.ranges)


def _at(
    piece: Piece,
    dims: Sequence[ir.AffineExpr],
    where: tuple[Bound, ...],
    ranges: Sequence[tuple[int, int]],
) -> Piece:
    """Return a piece of a pair's reading at the instance `dims`, within further bounds."""
    index = tuple(compose(expr, dims, ranges) for expr in piece.index)
    own = (make_bound(compose(b.expr, dims, ranges), b.low, b.high) for b in piece.where)
    return Piece(piece.array, index, (*where, *own), piece.fill)


def end_of_program(program: WorkingProgram, array: str) -> Viewpoint:
    """Return the view of all of `array` after the last statement."""
    shape = program.shapes[array]
    index = tuple(ir.AffineExpr.get_dim(dim) for dim in range(len(shape)))
    return Viewpoint(None, Piece(array, index), [(0, extent - 1) for extent in shape])
