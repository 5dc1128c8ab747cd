"""The order in which pairs are tried, to a fix point."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from polystage.passes.polyhedral.copy_elimination.backward import Move, eliminate_backward
from polystage.passes.polyhedral.copy_elimination.blocked import BlockedError
from polystage.passes.polyhedral.copy_elimination.forward import Planner, eliminate_forward
from polystage.passes.polyhedral.copy_elimination.liveness import remove_dead
from polystage.passes.polyhedral.copy_elimination.working_program import Node, WorkingProgram


@dataclass(frozen=True)
class Removal:
    """A pair that is gone, and how."""

    node: Node
    way: str
    """`forward`, `backward`, or `dead` where nobody read what it wrote."""
    detail: str
    """What happens instead."""


@dataclass
class Outcome:
    """What became of the statements of a program."""

    removals: list[Removal] = field(default_factory=list[Removal])
    dead: list[Node] = field(default_factory=list[Node])
    """Statements that are no pairs, of which nobody read what they wrote."""
    moves: list[Move] = field(default_factory=list[Move])
    """In the order in which they have to be made."""
    survivors: dict[Node, BlockedError] = field(default_factory=dict[Node, BlockedError])


class _Elimination:
    """One run over one program."""

    def __init__(self, program: WorkingProgram, plan: Planner) -> None:
        self.program = program
        self.plan = plan
        self.outcome = Outcome()
        self._reasons: dict[Node, dict[str, BlockedError]] = {}
        self._tried: dict[tuple[str, str], tuple[int, ...]] = {}

    def run(self) -> Outcome:
        """Eliminate what can be eliminated, and say why the rest cannot."""
        self._clean(list(self.program.arrays))
        while self._round():
            pass
        for pair in self._pairs():
            self.outcome.survivors[pair] = self._reason(pair)
        return self.outcome

    def _round(self) -> bool:
        """Try every pair once, each in the way that suits its target first.

        Arrays that are put together from several, and outputs, are what their sources should be
        windows of; the last first, so that what lies in several of them moves once. All others are
        better read where they come from.
        """
        before = len(self.outcome.removals)
        for pair in reversed(self._pairs()):
            if self._is_assembled(pair.target.array or ""):
                self._backward(pair)
        for array in dict.fromkeys(pair.target.array or "" for pair in self._pairs()):
            self._forward(array)
        for pair in reversed(self._pairs()):
            self._backward(pair)
        return len(self.outcome.removals) > before

    def _pairs(self) -> list[Node]:
        nodes = [node for node in self.program.nodes.values() if node.is_pair]
        return sorted(nodes, key=lambda node: (node.place, self.program.order[node.name]))

    def _is_assembled(self, array: str) -> bool:
        writers = self.program.writers(array)
        has_fill = any(node.constant is not None for node in writers)
        return not self.program.is_local(array) or (len(writers) > 1 and not has_fill)

    def _forward(self, array: str) -> None:
        pairs = [node for node in self.program.writers(array) if node.is_pair]
        sources = {a for pair in pairs for a in pair.arrays}
        if not pairs or not self._is_new("forward", array, sources):
            return
        readers = [node for node in self.program.readers(array) if node not in pairs]
        removed, blocked = eliminate_forward(self.program, array, self.plan)
        for pair, error in blocked.items():
            self._reasons.setdefault(pair, {})["forward"] = error
        for pair in removed:
            self._note(pair, "forward", _forward_detail(pair, readers))
        if removed:
            self._clean([array])

    def _backward(self, pair: Node) -> None:
        if pair.name not in self.program.nodes:
            return
        if not self._is_new("backward", pair.name, pair.arrays):
            return
        try:
            self.outcome.moves += eliminate_backward(self.program, pair, self.plan)
        except BlockedError as error:
            self._reasons.setdefault(pair, {})["backward"] = error
            return
        source = pair.source.pieces[0].array
        self._note(pair, "backward", f"{source} is now a part of {pair.target.array}")

    def _is_new(self, way: str, what: str, arrays: Iterable[str]) -> bool:
        """Tell whether anything about `arrays` has changed since this was tried last."""
        state = tuple(self.program.versions[array] for array in sorted(arrays))
        if self._tried.get((way, what)) == state:
            return False
        self._tried[way, what] = state
        return True

    def _clean(self, arrays: Iterable[str]) -> None:
        for node in remove_dead(self.program, arrays):
            if node.is_pair:
                self._note(node, "dead", f"nothing reads what it writes to {node.target.array}")
            else:
                self.outcome.dead.append(node)

    def _note(self, pair: Node, way: str, detail: str) -> None:
        self.outcome.removals.append(Removal(pair, way, detail))

    def _reason(self, pair: Node) -> BlockedError:
        """Return the reason that says most: that of the way which suits the target."""
        reasons = self._reasons[pair]
        first = "backward" if not self.program.is_local(pair.target.array or "") else "forward"
        return reasons.get(first) or next(iter(reasons.values()))


def _forward_detail(pair: Node, readers: list[Node]) -> str:
    sources = [piece.array or str(piece.fill) for piece in pair.source.pieces]
    names = [f"'{node.name}'" for node in readers[:2]]
    more = f" and {len(readers) - 2} more" if len(readers) > 2 else ""
    verb = "reads" if len(readers) == 1 else "read"
    return f"{', '.join(names)}{more} {verb} {', '.join(sources)} instead of {pair.target.array}"


def eliminate(program: WorkingProgram, plan: Planner) -> Outcome:
    """Remove the pairs of `program` that may go; return them, and why each of the others stays.

    `program` is changed, the IR is not: `plan` only tells whether an access can be written.
    """
    return _Elimination(program, plan).run()
