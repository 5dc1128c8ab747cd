"""Forward elimination: who reads what a pair wrote reads where the pair read."""

from collections.abc import Callable, Mapping

from polystage.passes.polyhedral.access_rewriting import CannotRewriteError, Rewrite
from polystage.passes.polyhedral.copy_elimination import legality
from polystage.passes.polyhedral.copy_elimination.blocked import (
    BlockedError,
    not_representable,
    require,
)
from polystage.passes.polyhedral.copy_elimination.content import (
    Source,
    Viewpoint,
    content,
)
from polystage.passes.polyhedral.copy_elimination.working_program import (
    Node,
    WorkingProgram,
    shared_depth,
)
from polystage.polyhedral import Array, Statement
from polystage.polyhedral.inversion import NotInvertibleError
from polystage.polyhedral.readings import Piece, Reading, Region, simplify

Planner = Callable[
    [Statement, Mapping[int, Reading], Mapping[int, Piece], Mapping[str, Array]], Rewrite
]


def eliminate_forward(
    program: WorkingProgram, array: str, plan: Planner
) -> tuple[list[Node], dict[Node, BlockedError]]:
    """Let the readers of `array` read the sources of the pairs that write it, where that is legal.

    Return the pairs that are gone, and why each of the others stays.
    """
    depth = shared_depth(program.touching(array))
    pairs = [node for node in program.writers(array) if node.is_pair]
    blocked: dict[Node, BlockedError] = {}
    for pair in pairs:
        try:
            _check_pair(program, pair, array, depth)
        except BlockedError as error:
            blocked[pair] = error
    while True:
        removable = [pair for pair in pairs if pair not in blocked]
        if not removable:
            return [], blocked
        try:
            changes = _Readers(program, array, removable, depth, plan).changes()
            break
        except BlockedError as error:
            blocked.update(dict.fromkeys(error.pairs, error))
    for node, (reads, rewrite) in changes.items():
        program.update(node, reads, {})
        node.rewrite = rewrite
    for pair in removable:
        program.remove(pair)
    return removable, blocked


def _check_pair(program: WorkingProgram, pair: Node, array: str, depth: int) -> None:
    require(legality.is_not_seen_outside(program, array), "is_not_seen_outside", pair)
    if program.is_vague(array):
        raise BlockedError([pair], "target is used in a way that is not understood")
    try:
        inverse = pair.inverse(pair.target, program.shapes[array], depth)
    except NotInvertibleError as error:
        raise BlockedError([pair], str(error)) from None
    require(legality.writes_each_element_once(inverse), "writes_each_element_once", pair)


class _Readers:
    """The readers of one array without the pairs that are to go."""

    def __init__(
        self, program: WorkingProgram, array: str, removable: list[Node], depth: int, plan: Planner
    ) -> None:
        self.program = program
        self.array = array
        self.removable = removable
        self.depth = depth
        self.plan = plan

    def changes(self) -> dict[Node, tuple[dict[int, Reading], Rewrite]]:
        """Return the new reads of every reader that changes, and how its op changes.

        Raises: BlockedError with the pairs that have to stay.
        """
        found: dict[Node, tuple[dict[int, Reading], Rewrite]] = {}
        for node in self.program.readers(self.array):
            used: dict[Node, None] = {}
            reads = {
                operand: self._new_reading(node, reading, used)
                for operand, reading in node.reads.items()
                if any(piece.array == self.array for piece in reading.pieces)
            }
            reads = {n: reading for n, reading in reads.items() if reading != node.reads[n]}
            if reads and node in self.removable:
                raise BlockedError([node], "it copies what another pair has put there")
            if reads:
                found[node] = (reads, self._planned(node, reads, used))
        return found

    def _planned(self, node: Node, reads: dict[int, Reading], used: dict[Node, None]) -> Rewrite:
        all_reads = {n: node.reads[n] for n in node.changed if n in node.reads} | reads
        writes = {n: node.writes[n] for n in node.changed if n in node.writes}
        detail = f"'{node.name}' reads it"
        try:
            rewrite = self.plan(node.statement, all_reads, writes, self.program.arrays)
        except CannotRewriteError as error:
            raise not_representable(used, error, detail) from None
        if not legality.repeats_no_operand(node, rewrite):
            raise BlockedError(used, legality.RULES["repeats_no_operand"], detail)
        return rewrite

    def _new_reading(self, node: Node, reading: Reading, used: dict[Node, None]) -> Reading:
        pieces: list[Piece] = []
        for piece in reading.pieces:
            pieces += self._replaced(node, piece, used) if piece.array == self.array else [piece]
        return Reading(simplify(pieces, node.ranges, self.program.shapes))

    def _replaced(self, node: Node, piece: Piece, used: dict[Node, None]) -> list[Piece]:
        """Return what stands for a piece of the array when the pairs are gone."""
        view = Viewpoint(node, piece, node.ranges)
        found = content(self.program, view, self.removable, with_fills=True)
        if any(source.is_own for source in found.sources):
            found = content(self.program, view, self.removable, with_fills=False)
        pairs = [
            s.writer for s in found.sources if s.writer is not None and s.writer in self.removable
        ]
        hidden = [node for node in self.removable if node in found.needed and node not in pairs]
        if hidden:
            raise BlockedError(
                hidden, legality.RULES["reads_before_it_writes"], f"'{node.name}' reads it"
            )
        if not pairs:
            return [piece]
        for source in found.sources:
            if source.writer in pairs and source.piece.array is not None:
                self._check_source(source, node)
        used.update(dict.fromkeys(pairs))
        return _in_order(node, piece, found.sources)

    def _check_source(self, source: Source, reader: Node) -> None:
        pair, piece = source.writer, source.piece
        assert pair is not None and piece.array is not None
        detail = f"'{reader.name}' reads it"
        rules = {
            "source_is_visible": legality.source_is_visible(self.program, piece.array, reader),
            "source_is_unchanged": legality.source_is_unchanged(
                self.program, pair, reader, piece, self.depth
            ),
            "source_is_not_replaced": legality.source_is_not_replaced(reader, piece, self.depth),
        }
        for rule, holds in rules.items():
            require(holds, rule, pair, detail)


def _in_order(node: Node, piece: Piece, sources: tuple[Source, ...]) -> list[Piece]:
    """Return the pieces with those of the array itself as one, last, wherever order is free."""
    own = [source for source in sources if source.is_own]
    others = [source for source in sources if not source.is_own]
    region = Region(node.ranges)
    is_free = all(
        not region.restrict(source.piece.where).meets(later.piece.where)
        for place, source in enumerate(sources)
        if source.is_own
        for later in sources[place + 1 :]
        if not later.is_own
    )
    if not own or not is_free:
        return [source.piece for source in sources]
    return [*(source.piece for source in others), piece]
