"""What follows from a group: who computes what in which step, what moves, what must be on chip.

Planner and lowering both go by it, so that what was planned is what happens.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from polystage.planner.fusion.decisions import Group, Nest, Place, Plan
from polystage.planner.fusion.operators import Operator
from polystage.planner.fusion.program import Program


class Purpose(StrEnum):
    """What a buffer is for."""

    ARRAY = "array"
    """Holds an array, or the window of it that the group needs: element x lies at `x mod shape`."""
    ACCUMULATOR = "accumulator"
    """Running sums of one operator, indexed by its parallel dims."""
    CHUNK = "chunk"
    """The part of a streamed array that one chunk of an operator touches."""


@dataclass(frozen=True)
class Buffer:
    """Bytes on chip during a group."""

    purpose: Purpose
    array: str | None
    """None for an accumulator."""
    operators: tuple[int, int]
    """The first and the last operator (index in the group) during whose execution it is live; of a
    group of several steps, a buffer that outlives one execution has all of them."""
    shape: tuple[int, ...]
    """Extents: per axis of the array, or per parallel dim of the operator that accumulates."""
    element_bytes: int
    access: int | None = None
    """Of a chunk: which of the operator's reads, or None for its write."""

    @property
    def bytes(self) -> int:
        """The size, a multiple of the alignment of buffers."""
        raise NotImplementedError


@dataclass(frozen=True)
class GroupSchedule:
    """The steps of one group."""

    steps: int
    computes: tuple[np.ndarray, ...]
    """Per operator, int64 [steps, dims, 2]: start and stop of every dim of what it computes in each
    step; start == stop where nothing."""
    loads: Mapping[str, np.ndarray]
    """Array to [steps, rank, 2]: what is loaded before the computes of each step, of arrays that are
    WINDOW, WHOLE, or RESIDENT from here on and come from DRAM."""
    stores: Mapping[str, np.ndarray]
    """Array to [steps, rank, 2]: what is stored after the computes of each step."""
    buffers: tuple[Buffer, ...]
    bytes: int
    """On chip at the worst moment, with all resident arrays."""
    read_bytes: Mapping[str, int]
    """From DRAM, by array, streamed ones included."""
    write_bytes: Mapping[str, int]
    """To DRAM, by array."""


def schedule(program: Program, group: Group, resident: Iterable[str] = ()) -> GroupSchedule:
    """Return the schedule of a group.

    `resident` are the arrays that are on chip when the group starts, because an earlier group made
    or loaded them and this one or a later one reads them. An array that is RESIDENT in `group` but
    not among them becomes so here: it is made here, or loaded before the first step.

    Raises: PlanError for a decision that cannot be carried out, with the way out.
    """
    raise NotImplementedError


def resident_before(program: Program, plan: Plan) -> tuple[frozenset[str], ...]:
    """Return, for every group of a plan, the resident arrays that are on chip when it starts."""
    raise NotImplementedError


@dataclass(frozen=True)
class NestPieces:
    """How an operator executes boxes of its iterations under a nest."""

    chunk: np.ndarray
    """[boxes, dims]: extents of a full chunk."""
    trips: np.ndarray
    """[boxes, loops]: how often each chunk loop runs, the last time perhaps for less."""
    accumulator: np.ndarray
    """[boxes, parallel dims]: over what sums run at once: of a dim that is looped inside of a
    reduction loop all of the box, of others the chunk."""


def nest_pieces(operator: Operator, nest: Nest, boxes: np.ndarray) -> NestPieces:
    """Return how `boxes` (int64 [boxes, dims, 2]) are executed chunk by chunk."""
    raise NotImplementedError


def nest_buffers(
    program: Program,
    operator: Operator,
    nest: Nest,
    boxes: np.ndarray,
    places: Mapping[str, Place],
) -> tuple[Buffer, ...]:
    """Return chunk buffers and accumulator of one operator, large enough for all `boxes`."""
    raise NotImplementedError


def nest_traffic(
    program: Program,
    operator: Operator,
    nest: Nest,
    boxes: np.ndarray,
    places: Mapping[str, Place],
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes that streamed arrays bring and take, exactly, over all `boxes`.

    A streamed operand is loaded in the innermost chunk loop that it depends on, again in each
    iteration of it; borders are clipped, remainders are as small as they are. Operands of the
    epilogue and the output move once per chunk of the parallel dims, in the last iteration of the
    reduction loops.
    """
    raise NotImplementedError
