"""Backward elimination: the source of a pair becomes a window of its target."""

from collections.abc import Sequence
from dataclasses import dataclass

from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting import CannotRewriteError, Rewrite
from polystage.passes.polyhedral.copy_elimination import legality
from polystage.passes.polyhedral.copy_elimination.blocked import (
    BlockedError,
    not_representable,
    require,
)
from polystage.passes.polyhedral.copy_elimination.forward import Planner
from polystage.passes.polyhedral.copy_elimination.merge import Merge
from polystage.passes.polyhedral.copy_elimination.working_program import (
    Node,
    WorkingProgram,
    shared_depth,
)
from polystage.polyhedral.inversion import Inverse, NotInvertibleError
from polystage.polyhedral.model import Bound
from polystage.polyhedral.readings import Piece, Reading, Region, compose, make_bound


@dataclass(frozen=True)
class Move:
    """A statement that must run before another one now."""

    node: Node
    before: Node


def eliminate_backward(program: WorkingProgram, pair: Node, plan: Planner) -> list[Move]:
    """Let all users of what `pair` reads use what it writes instead, and remove the pair.

    Return the fills and copies that have to run earlier now.

    Raises: BlockedError where that is not legal.
    """
    return _Merging(program, pair, plan).run()


class _Merging:
    def __init__(self, program: WorkingProgram, pair: Node, plan: Planner) -> None:
        piece = pair.source.pieces[0]
        target = pair.target.array
        if len(pair.source.pieces) > 1 or piece.array is None or piece.where:
            raise BlockedError([pair], "it reads several arrays")
        assert target is not None
        self.program = program
        self.pair = pair
        self.plan = plan
        self.piece = piece
        self.source: str = piece.array
        self.target = target
        self.users = [n for n in program.touching(self.source) if n is not pair]
        self.depth = shared_depth([*self.users, pair])

    def run(self) -> list[Move]:
        """Check every rule, then change the program."""
        window = self._window()
        merge = self._merge(window)
        moves = self._check_order(merge)
        rewrites = {node: self._planned(node, *new) for node, new in merge.accesses.items()}
        for node, (reads, writes) in merge.accesses.items():
            self.program.update(node, reads, writes)
            node.rewrite = rewrites[node]
        for move in moves:
            self.program.move(move.node, self.program.place_before(move.before.place))
        self.program.remove(self.pair)
        return moves

    # -- accesses ----------------------------------------------------------------------------

    def _window(self) -> tuple[tuple[ir.AffineExpr, ...], tuple[Bound, ...]]:
        """Return the index into the target of each element of the source, and which are copied.

        Both over the dims of the shared loops and of the source.
        """
        program, pair = self.program, self.pair
        if self.source == self.target:
            raise BlockedError([pair], "it copies within one array")
        if not legality.source_is_local(program, self.source):
            is_output = not program.is_local(self.target)
            why = "an input, a weight or another output is an output as it is"
            raise BlockedError([pair], why if is_output else legality.RULES["source_is_local"])
        if program.is_vague(self.source):
            raise BlockedError([pair], "source is used in a way that is not understood")
        read = self._inverse(self.piece, self.source)
        require(legality.reads_each_element_once(read), "reads_each_element_once", pair)
        written = self._inverse(pair.target, self.target)
        require(legality.writes_each_element_once(written), "writes_each_element_once", pair)
        shape = program.shapes[self.source]
        ranges = [*pair.ranges[: self.depth], *((0, extent - 1) for extent in shape)]
        index = tuple(compose(expr, read.exprs, ranges) for expr in pair.target.index)
        return index, read.where

    def _inverse(self, piece: Piece, array: str) -> Inverse:
        try:
            return self.pair.inverse(piece, self.program.shapes[array], self.depth)
        except NotInvertibleError as error:
            raise BlockedError([self.pair], str(error)) from None

    def _merge(self, window: tuple[tuple[ir.AffineExpr, ...], tuple[Bound, ...]]) -> Merge:
        users, depth, source = self.users, self.depth, self.source
        if not users:
            raise BlockedError([self.pair], "nothing writes the source")
        copied = self.pair.place[depth]
        reads = [n.place[depth] for n in users if any(n.pieces_of(source))]
        writes = [n.place[depth] for n in users if any(n.writes_of(source))]
        return Merge(
            self.pair,
            source,
            self.target,
            depth,
            {node: self._accesses(node, *window) for node in users},
            users[0].place[depth],
            copied,
            max([copied, *reads]),
            min((place for place in writes if place > copied), default=None),
        )

    def _accesses(
        self, node: Node, index: tuple[ir.AffineExpr, ...], where: tuple[Bound, ...]
    ) -> tuple[dict[int, Reading], dict[int, Piece]]:
        """Return what a user of the source reads and writes once it lies in the target."""

        def moved(piece: Piece) -> Piece:
            if piece.array != self.source:
                return piece
            loops = [ir.AffineExpr.get_dim(dim) for dim in range(self.depth)]
            place = [*loops, *piece.index]
            bounds = tuple(
                make_bound(compose(b.expr, place, node.ranges), b.low, b.high) for b in where
            )
            region = Region(node.ranges).restrict(piece.where)
            require(
                legality.everything_is_copied(region, bounds),
                "everything_is_copied",
                self.pair,
                f"'{node.name}' uses more",
            )
            new = tuple(compose(expr, place, node.ranges) for expr in index)
            return Piece(self.target, new, piece.where)

        reads = {
            operand: Reading(tuple(map(moved, reading.pieces)))
            for operand, reading in node.reads.items()
            if any(piece.array == self.source for piece in reading.pieces)
        }
        writes = {operand: moved(piece) for operand, piece in node.writes_of(self.source)}
        return reads, writes

    def _planned(self, node: Node, reads: dict[int, Reading], writes: dict[int, Piece]) -> Rewrite:
        all_reads = {n: node.reads[n] for n in node.changed if n in node.reads} | reads
        all_writes = {n: node.writes[n] for n in node.changed if n in node.writes} | writes
        try:
            return self.plan(node.statement, all_reads, all_writes, self.program.arrays)
        except CannotRewriteError as error:
            who = f"'{node.name}' uses the source"
            raise not_representable([self.pair], error, who) from None

    # -- order -------------------------------------------------------------------------------

    def _check_order(self, merge: Merge) -> list[Move]:
        """Check what the other users of the target do in the meantime; return what must move."""
        pair, depth = self.pair, self.depth
        alone = legality.stands_alone(self.users, pair, depth)
        require(alone, "stands_alone", pair)
        anew = legality.starts_anew(self.program, self.users, self.source, depth)
        require(anew, "starts_anew", pair)
        others = [
            node
            for node in self.program.touching(self.target)
            if node is not pair and node.place[:depth] == pair.place[:depth]
        ]
        late = [node for node in others if not legality.window_is_not_written_before(merge, node)]
        require(
            all(self._may_move(node, merge, others) for node in late),
            "window_is_not_written_before",
            pair,
            f"'{late[0].name}' writes it" if late else "",
        )
        for node in others:
            if node in late:
                continue
            rules = {
                "window_is_not_read_before": legality.window_is_not_read_before(merge, node),
                "window_is_kept": legality.window_is_kept(merge, node),
                "source_is_final": legality.source_is_final(merge, node),
            }
            for rule, holds in rules.items():
                require(holds, rule, pair, f"at '{node.name}'")
        if merge.changed is not None and (depth or not self.program.is_local(self.target)):
            raise BlockedError([pair], legality.RULES["source_is_final"])
        return [Move(node, self.users[0]) for node in late]

    def _may_move(self, node: Node, merge: Merge, others: Sequence[Node]) -> bool:
        """Tell whether a fill, or a copy of what never changes, may run before the source is made.

        Nothing else may touch the elements that it writes from there on.
        """
        depth = self.depth
        is_free = node.constant is not None or (
            node.is_pair and all(self._never_changes(piece.array) for piece in node.source.pieces)
        )
        if not is_free or node in merge.accesses or len(node.place) != depth + 1:
            return False
        for other in others:
            if not merge.first <= other.place[depth] < node.place[depth]:
                continue
            if self.target in other.vague:
                return False
            touched = [piece for _, piece in (*other.pieces_of(self.target),)]
            touched += [piece for _, piece in other.writes_of(self.target)]
            if any(legality.may_overlap(other, p, node, node.target) for p in touched):
                return False
        return True

    def _never_changes(self, array: str | None) -> bool:
        return array is None or not (self.program.writers(array) or self.program.is_vague(array))
