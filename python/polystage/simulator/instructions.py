"""Instructions as the decoder leaves them: one for every operation, for all its executions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from polystage.machine.cost import Cost
from polystage.simulator.access import OperandWindow
from polystage.simulator.index import Linear
from polystage.simulator.memory import Array
from polystage.simulator.trace import NO_SEMAPHORE, Int64


@dataclass(frozen=True)
class Place:
    """Where an instruction stands, for messages: its name, kernel and location."""

    name: str
    kernel: str
    location: object

    def of_layer(self, layer: str) -> str:
        """Return the place as messages say it."""
        return f"{self.name} in @{self.kernel}" + (f" of layer '{layer}'" if layer else "")

    def __str__(self) -> str:
        return self.of_layer("")


class Loop:
    """A loop of a function: its trips, and where its instructions stand in the trace.

    `start` is the position in the body around it, `length` the instructions of one iteration.
    """

    __slots__ = ("length", "start", "trips")

    def __init__(self, trips: int, start: int) -> None:
        self.trips = trips
        self.start = start
        self.length = 0


class LookupFailure(Exception):
    """An index outside its table, to be reported with the place of the instruction."""


class Numerics:
    """What an instruction computes, from windows to windows.

    Where instructions run strictly one after the other, `run` does it all. Else `begin` computes
    from what there is at the start of the instruction, and `finish` writes it at its end.
    """

    def run(self, reads: list[Array], writes: list[Array], value: int) -> None:
        """Read, compute, write."""
        raise NotImplementedError

    def begin(self, reads: list[Array], writes: list[Array], value: int) -> list[Array]:
        """Return what will be written, computed from present values."""
        results = [w.copy() for w in writes]
        self.run(reads, results, value)
        return results

    def finish(self, results: list[Array], writes: list[Array], value: int) -> None:
        """Write results."""
        for write, result in zip(writes, results, strict=True):
            write[...] = result


class Move(Numerics):
    """The numbers of a transfer."""

    def run(self, reads: list[Array], writes: list[Array], value: int) -> None:
        """Copy."""
        writes[0][...] = reads[0]


@dataclass(frozen=True)
class Times:
    """How long an instruction takes; the fields of `CoreTrace` of the same name.

    `held` is the time of a matmul that finds in the array what it needs there.
    """

    changed: Cost
    held: Cost
    form_ns: float = 0.0
    dram_bytes: float = 0.0


NO_TIME = Times(Cost(0.0, 0.0), Cost(0.0, 0.0))


@dataclass(eq=False)
class Instruction:
    """An operation, decoded: what all its executions share, and how they differ.

    `value` is the accumulate flag of a matmul, or where an iota starts. `layer` is the one that it
    names, "" for that of the call. `loops` are around it, outermost first, and it stands at `start`
    of the innermost body. `index` numbers it in the program.
    """

    place: Place
    kind: int
    queue: int
    times: Times
    reads: tuple[OperandWindow, ...] = ()
    writes: tuple[OperandWindow, ...] = ()
    numerics: Numerics | None = None
    ports: int = 0
    value: Linear = field(default_factory=Linear)
    semaphore: int = NO_SEMAPHORE
    layer: str = ""
    loops: tuple[Loop, ...] = ()
    start: int = 0
    index: int = -1

    @property
    def windows(self) -> Sequence[OperandWindow]:
        """Reads, then writes."""
        return (*self.reads, *self.writes)

    @property
    def is_matmul(self) -> bool:
        """Whether it is a matmul, which may add to what it writes."""
        return self.place.name == "npu.matmul"

    def positions(self) -> Int64:
        """Return where its executions stand in the trace of a call, an axis per loop.

        position = start + sum over loops of start + iteration * length
        """
        total: Int64 = np.full((1,) * len(self.loops), self.start, np.int64)
        for d, loop in enumerate(self.loops):
            steps = loop.start + loop.length * np.arange(loop.trips, dtype=np.int64)
            total = total + steps.reshape((-1,) + (1,) * (len(self.loops) - 1 - d))
        return total
