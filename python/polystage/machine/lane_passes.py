"""Which arithmetic operations of a lane engine are one instruction, and what each streams.

Source: the costs of tensor_tensor, tensor_scalar and scalar_tensor_tensor in nki.isa
(aws-neuron-sdk). Operations on two tensors take 2 N cycles, but N where one tensor lies in psum and
the other in sbuf, or where all are contiguous bf16 and the operation is an addition, a subtraction
or a multiplication. `(x op0 c) op1 y` is one instruction if c is a constant or has one element per
partition; two of them that combine no second tensor take N in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from polystage.machine.components import LaneEngine

_ALU = frozenset(
    f"arith.{name}"
    for name in (
        *("addf", "subf", "mulf", "divf", "negf"),
        *("maximumf", "minimumf", "maxnumf", "minnumf"),
    )
)
_FULL_RATE = ("arith.addf", "arith.subf", "arith.mulf")
_SUBTRACT_MULTIPLY = ("arith.subf", "arith.mulf")


@dataclass(frozen=True, slots=True)
class LaneOperation:
    """An arithmetic operation: the values that it reads, constants left out, and makes."""

    name: str
    operands: tuple[Hashable, ...]
    result: Hashable


@dataclass(frozen=True, slots=True)
class LaneOperand:
    """What an instruction reads or writes: `is_plain` says that it is contiguous bf16."""

    per_partition: bool = False
    in_psum: bool = False
    is_plain: bool = False


def lane_passes(
    unit: LaneEngine,
    operations: Sequence[LaneOperation],
    operands: Mapping[Hashable, LaneOperand],
    results: Mapping[Hashable, LaneOperand],
) -> tuple[int, ...]:
    """Return the streams of every instruction of a body, as `cost.lanes` takes them.

    `operands` describes what the body reads, `results` what it writes; the values in between are in
    neither.
    """
    body = _Body(unit, operations, operands, results)
    first_of = body.joined()
    firsts = {op.result for op in first_of.values()}
    seconds = [op for op in operations if op.result not in firsts]
    return tuple(body.rate(op, first_of.get(op.result)) for op in seconds)


class _Body:
    def __init__(
        self,
        unit: LaneEngine,
        operations: Sequence[LaneOperation],
        operands: Mapping[Hashable, LaneOperand],
        results: Mapping[Hashable, LaneOperand],
    ) -> None:
        self.unit = unit
        self.operations = operations
        self.operands = operands
        self.results = results
        self.uses = Counter(value for op in operations for value in op.operands)

    def streams(self, operation: LaneOperation) -> set[Hashable]:
        """Return the tensors that an operation reads by itself."""
        return {value for value in operation.operands if not self.is_column(value)}

    def is_column(self, value: Hashable) -> bool:
        """Whether a value has one element per partition, which the instruction takes beside the
        tensors."""
        known = self.operands.get(value)
        return self.unit.fused_operations > 1 and known is not None and known.per_partition

    def joined(self) -> dict[Hashable, LaneOperation]:
        """Return the first operation of every instruction that has two, by the result of the
        second."""
        found: dict[Hashable, LaneOperation] = {}
        if self.unit.fused_operations == 1:
            return found
        makers = {op.result: op for op in self.operations}
        for op in self.operations:
            for value in op.operands if op.name in _ALU else ():
                maker = makers.get(value)
                if maker is not None and value not in found and self.is_first(maker):
                    found[op.result] = maker
                    break
        return found

    def is_first(self, operation: LaneOperation) -> bool:
        """Whether an operation can be the first of an instruction: it has one tensor, and one other
        operation has its result."""
        is_used_once = self.uses[operation.result] == 1 and operation.result not in self.results
        return operation.name in _ALU and is_used_once and len(self.streams(operation)) <= 1

    def rate(self, operation: LaneOperation, first: LaneOperation | None) -> int:
        """Return how many tensors an instruction streams, two of them as one where that is so
        fast."""
        streams = self.streams(operation)
        if first is not None:
            streams = streams - {first.result} | self.streams(first)
        return (
            1
            if len(streams) == 2 and self.is_full_rate(operation, first, streams)
            else len(streams)
        )

    def is_full_rate(
        self, operation: LaneOperation, first: LaneOperation | None, streams: Collection[Hashable]
    ) -> bool:
        """Whether two tensors stream as fast as one."""
        known = [self.operands[value] for value in streams if value in self.operands]
        if not self.unit.full_rate_pairs or len(known) != 2:
            return False
        if first is None and known[0].in_psum != known[1].in_psum:
            return True
        if first is None:
            is_fast = operation.name in _FULL_RATE
        else:
            is_fast = (first.name, operation.name) == _SUBTRACT_MULTIPLY
        written = self.results.get(operation.result)
        return is_fast and written is not None and all(x.is_plain for x in (*known, written))
