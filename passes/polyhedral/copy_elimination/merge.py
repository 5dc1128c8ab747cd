"""What backward elimination would do: an array becomes a window of another one."""

from dataclasses import dataclass
from fractions import Fraction

from polystage.passes.polyhedral.copy_elimination.working_program import Node
from polystage.polyhedral.readings import Piece, Reading


@dataclass(frozen=True)
class Merge:
    """The storage of a pair's source as a window of its target, and when which of them counts.

    Places are those in the block at `depth`, in which all users of the source stand.
    """

    pair: Node
    source: str
    target: str
    depth: int
    accesses: dict[Node, tuple[dict[int, Reading], dict[int, Piece]]]
    """For every other user of the source: what it reads and writes with the source in the target.
    """
    first: Fraction
    """The place of the first user of the source."""
    copied: Fraction
    """The place of the pair."""
    last_read: Fraction
    """The place of the last reader of the source, or of the pair where that is the last."""
    changed: Fraction | None
    """The place of the first writer of the source after the pair."""

    def is_alone(self, node: Node) -> bool:
        """Tell whether `node` uses the source, and no other user stands in the same loop."""
        place = node.place[self.depth]
        return [user for user in self.accesses if user.place[self.depth] == place] == [node]

    def reads_of(self, node: Node) -> list[Piece]:
        """Return the pieces by which `node` reads the source, as they are in the target."""
        return [
            new
            for operand, reading in self.accesses.get(node, ({}, {}))[0].items()
            for new, old in zip(reading.pieces, node.reads[operand].pieces, strict=True)
            if old.array == self.source
        ]

    def writes_of(self, node: Node) -> list[Piece]:
        """Return the pieces by which `node` writes the source, as they are in the target."""
        return list(self.accesses.get(node, ({}, {}))[1].values())
