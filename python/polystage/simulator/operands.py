"""What the npu instructions share: operands, bytes counted, engine and cost of a lane."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, cast

import numpy as np

from polystage.dialects.npu import attribute_name
from polystage.errors import SimulationError
from polystage.machine import access as shapes
from polystage.machine import cost
from polystage.mlir import ir
from polystage.simulator.access import (
    Alloc,
    ChipWindow,
    DramWindow,
    OperandWindow,
    View,
    Walk,
    plain_walk,
)
from polystage.simulator.decode import Decoder
from polystage.simulator.index import Linear
from polystage.simulator.instructions import Instruction, Numerics, Times
from polystage.simulator.trace import COMPUTE
from polystage.simulator.views import where

LaneName = Literal["vector", "scalar", "gpsimd"]


def chip(decoder: Decoder, op: ir.Operation, view: View, walk: Walk | None = None) -> ChipWindow:
    """Return the access to an on-chip operand, whose bounds are checked.

    A program of a flat scratchpad has thousands of instructions that share few windows; each is
    made once.

    Raises: SimulationError where the operand lies in DRAM or leaves its partitions.
    """
    known = decoder.windows.get((view, walk))
    if known is None:
        known = decoder.windows[view, walk] = _chip_window(decoder, op, view, walk)
    assert isinstance(known, ChipWindow)
    return known


def _chip_window(decoder: Decoder, op: ir.Operation, view: View, walk: Walk | None) -> ChipWindow:
    if not isinstance(view.root, Alloc):
        raise SimulationError(f"'{op.name}' needs an operand on chip, not {where(view)}", op=op)
    access = ChipWindow(view, walk or plain_walk(view), decoder.space)
    row = view.root.row

    def message(low: int, high: int) -> str:
        return (
            f"{op.name} in @{decoder.name} walks elements [{low}, {high}] of a partition of "
            f"{where(view)}, which has {row}"
        )

    start = view.offset + ((walk.offset if walk else 0) - access.partition * row)
    decoder.check(start + access.layout.low, access.reach - access.layout.low, row, message, op)
    return access


def transferred(decoder: Decoder, op: ir.Operation, view: View) -> OperandWindow:
    """Return the access to all of a view, wherever it lies, as plain bits, which numpy copies
    fastest."""
    known = decoder.windows.get((view, "bits"))
    if known is None:
        bits = _raw(view)
        known = (
            chip(decoder, op, bits)
            if isinstance(view.root, Alloc)
            else DramWindow(bits, plain_walk(bits))
        )
        decoder.windows[view, "bits"] = known
    return known


def _raw(view: View) -> View:
    if view.dtype.kind in "iufb":
        return view
    dtype = np.dtype(f"u{view.dtype.itemsize}")
    return View(view.root, view.offset, view.shape, view.strides, dtype)


def free_run(view: View) -> int:
    """Return the elements that follow each other in one partition, or in DRAM."""
    first = 1 if isinstance(view.root, Alloc) else 0
    return shapes.contiguous_run(view.shape[first:], view.strides[first:])


def innermost_bytes(accesses: Sequence[ChipWindow], first: int = 1) -> int:
    """Return the largest innermost stride of any operand, of dimensions from `first` on."""
    return max(
        (
            shapes.innermost_stride(a.walk.extents[first:], a.walk.strides[first:])
            * a.dtype.itemsize
            for a in accesses
        ),
        default=0,
    )


def count_bytes(decoder: Decoder, *accesses: ChipWindow, times: int | None = None) -> None:
    """Count the bytes that an instruction moves over the interfaces of the on-chip memories.

    `times` says how often, without it once in every execution.
    """
    for access in accesses:
        moved = prod(access.shape) * access.dtype.itemsize
        decoder.count(access.root.memory.name, by=moved, times=times)


def engine_of(op: ir.Operation) -> LaneName:
    """Return the lane engine that an instruction names."""
    return cast(LaneName, attribute_name(op.attributes["engine"]))


def lane_instruction(
    decoder: Decoder,
    op: ir.Operation,
    engine: LaneName,
    reads: Sequence[ChipWindow],
    writes: Sequence[ChipWindow],
    extents: Sequence[int],
    passes: Sequence[int],
    numerics: Numerics,
    operands: Sequence[ChipWindow] | None = None,
    value: Linear | None = None,
    accumulates: bool = False,
    operations: int | None = None,
) -> None:
    """Add an instruction of the vector, scalar or gpsimd engine.

    `operands` are the inputs whose strides count, without it those that are read; `accumulates`
    says that the scalar engine also sums up its results. `operations` is how many there are for
    every element, without it one in every pass.
    """
    accesses = [*(operands if operands is not None else reads), *writes]
    time = cost.lanes(
        decoder.program.target,
        engine,
        prod(extents[1:]),
        partitions=extents[0],
        passes=passes,
        stride_bytes=innermost_bytes(accesses),
        uses_psum=any(a.root.memory.name == "psum" for a in accesses),
    )
    if accumulates:
        time = cost.with_total(decoder.program.target, time)
    decoder.count("instructions", op.name)
    decoder.count("operations", engine, by=prod(extents) * (operations or len(passes)))
    count_bytes(decoder, *reads, *writes)
    add_compute(decoder, op, engine, Times(time, time), reads, writes, numerics, value)


def add_compute(
    decoder: Decoder,
    op: ir.Operation,
    engine: str,
    times: Times,
    reads: Sequence[ChipWindow],
    writes: Sequence[ChipWindow],
    numerics: Numerics,
    value: Linear | None = None,
) -> None:
    """Add an instruction of a compute engine."""
    queues = decoder.program.queues
    memories = {a.root.memory.name for a in (*reads, *writes)}
    decoder.add(
        Instruction(
            decoder.place(op),
            COMPUTE,
            queues.number(engine),
            times,
            tuple(reads),
            tuple(writes),
            numerics if decoder.program.numerics else None,
            queues.ports(engine, memories),
            value or Linear(),
        )
    )
