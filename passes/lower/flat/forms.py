"""An operator as the lowering sees it: operands with what they show where, and the output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polystage.mlir import ir
from polystage.passes.lower.flat.bodies import Source
from polystage.passes.lower.flat.indices import Index, index_of
from polystage.passes.lower.flat.pieces import Alternative, Condition
from polystage.planner.fusion.operators import Operator
from polystage.polyhedral import Access

Indices = tuple[Index, ...]


@dataclass(frozen=True)
class Operand:
    """What a body reads through one operand, or one load: alternatives, and a constant below."""

    source: Source
    alternatives: tuple[Alternative, ...]
    fill: ir.Attribute | None


@dataclass(frozen=True)
class OperatorForm:
    """An operator, with its accesses as indices over its dims.

    Accesses have numbers: those of `operator.reads`, behind them those of `operator.writes`.
    """

    operator: Operator
    operands: tuple[Operand, ...]
    writes: tuple[Indices, ...]

    @classmethod
    def of(cls, operator: Operator) -> OperatorForm:
        """Read the accesses of an operator."""
        found: dict[Source, list[int]] = {}
        for number, read in enumerate(operator.reads):
            assert read.op is not None
            found.setdefault(Source(read.op, read.operand), []).append(number)
        operands = tuple(
            Operand(source, *_alternatives(operator.reads, numbers))
            for source, numbers in found.items()
        )
        return cls(operator, operands, tuple(_indices(write) for write in operator.writes))

    def operand(self, source: Source) -> Operand:
        """Return what a body reads through `source`."""
        return next(operand for operand in self.operands if operand.source == source)

    def array(self, access: int) -> str:
        """Return the array of an access."""
        reads = self.operator.reads
        if access < len(reads):
            return reads[access].array
        return self.operator.writes[access - len(reads)].array

    def output(self, number: int = 0) -> int:
        """Return the access that is a write."""
        return len(self.operator.reads) + number

    def is_late(self, operand: Operand) -> bool:
        """Whether only the epilogue reads an operand."""
        return any(operand.source.op == s.op for s in self.operator.epilogue)

    def dims(self, access: int) -> frozenset[int]:
        """Return the dims on which the elements depend that an access touches."""
        return frozenset(d for index in self.all_indices(access) for d in index.variables)

    def all_indices(self, access: int) -> Iterator[Index]:
        """Yield the indices of an access, and those of the conditions under which it happens."""
        first = len(self.operator.reads)
        if access >= first:
            yield from self.writes[access - first]
            return
        for operand in self.operands:
            numbers = [a.access for a in operand.alternatives]
            if access in numbers:
                for alternative in operand.alternatives[: numbers.index(access) + 1]:
                    yield from (c.index for c in alternative.conditions)
                yield from operand.alternatives[numbers.index(access)].indices


def _alternatives(
    reads: Sequence[Access], numbers: Sequence[int]
) -> tuple[tuple[Alternative, ...], ir.Attribute | None]:
    alternatives = tuple(
        Alternative(
            number,
            _indices(reads[number]),
            tuple(Condition(index_of(b.expr), b.low, b.high) for b in reads[number].where),
        )
        for number in numbers
    )
    return alternatives, reads[numbers[-1]].fill


def _indices(access: Access) -> Indices:
    return tuple(index_of(e) for e in access.exprs or ())
