"""Why a pair stays."""

from collections.abc import Iterable

from polystage.passes.polyhedral.access_rewriting import CannotRewriteError
from polystage.passes.polyhedral.copy_elimination import legality
from polystage.passes.polyhedral.copy_elimination.working_program import Node


class BlockedError(Exception):
    """Some pairs cannot go; `str()` is the reason, in words of a remark."""

    def __init__(self, pairs: Iterable[Node], reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.pairs = tuple(pairs)
        self.reason = reason
        self.detail = detail
        """Who is involved."""


def not_representable(pairs: Iterable[Node], error: CannotRewriteError, who: str) -> BlockedError:
    """Return why pairs stay whose removal would ask for an access that cannot be written."""
    reason, *detail = (str(part) for part in error.args)
    return BlockedError(pairs, reason, ": ".join([who, *detail]))


def require(holds: bool, rule: str, pair: Node, detail: str = "") -> None:
    """Raise BlockedError with the reason of a rule that does not hold."""
    if not holds:
        raise BlockedError([pair], legality.RULES[rule], detail)
