"""What an operand reads once copies are composed away: pieces of several arrays, and constants."""

from dataclasses import dataclass

from polystage.mlir import ir
from polystage.polyhedral.model import Bound

__all__ = ["Bound", "Piece", "Reading"]


@dataclass(frozen=True)
class Piece:
    """The elements `array[index]`, or the constant `fill`, wherever all bounds hold."""

    array: str | None
    index: tuple[ir.AffineExpr, ...] = ()
    where: tuple[Bound, ...] = ()
    fill: ir.Attribute | None = None


@dataclass(frozen=True)
class Reading:
    """What an operand reads: the first piece whose bounds hold; every instance has one."""

    pieces: tuple[Piece, ...]
