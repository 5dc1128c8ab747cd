"""Accumulations in psum: which matmuls add up to one result, and how many are unfinished."""

from __future__ import annotations

import numpy as np

from polystage.errors import SimulationError
from polystage.simulator.assemble import CoreProgram
from polystage.simulator.conflicts import Meetings
from polystage.simulator.decode import Program
from polystage.simulator.trace import PSUM, CoreTrace, Int64

PSUM_ACCESS = 2
"""A matmul's accesses: stationary, moving, psum."""


def check_open_groups(program: Program, core: CoreProgram) -> None:
    """Refuse more unfinished accumulations in psum than the machine has, where it has psum.

    A group is open from its first matmul to the last that adds to the same window before anything
    else touches it, or a matmul starts there anew.

    Raises: SimulationError.
    """
    if program.target.is_flat:
        return
    most, trace = program.target.psum.open_groups, core.trace
    matmul = np.array([i.is_matmul for i in program.instructions], np.bool_)
    matmuls = np.flatnonzero(matmul[trace.op]) if len(matmul) else np.zeros(0, np.int64)
    regions = trace.region[trace.access_start[matmuls] + PSUM_ACCESS].astype(np.int64)
    if _opened(trace, matmuls, regions, {}).max() <= most:
        return  # even if nothing else ends an accumulation
    opened = _opened(trace, matmuls, regions, _others(trace, matmuls))
    if opened.max() <= most:
        return
    worst = int(np.flatnonzero(opened > most)[0])
    place = program.instructions[trace.op[worst]].place
    raise SimulationError(
        f"{place.of_layer(core.layer_of(worst))} makes {int(opened[worst])} unfinished "
        f"accumulations in psum, but '{program.target.name}' keeps {most}",
        help="finish an accumulation before the next begins, or add up in sbuf",
        op=place,
    )


def _opened(trace: CoreTrace, matmuls: Int64, regions: Int64, others: dict[int, Int64]) -> Int64:
    """Return how many groups are open at every instruction; those of one matmul never are.

    `others` are what else touches psum.
    """
    steps = np.zeros(trace.count + 1, np.int64)
    meet = Meetings(trace.regions)
    for region in np.unique(regions).tolist():
        at = matmuls[regions == region]
        meeting = [positions for other, positions in others.items() if meet(region, other)]
        touched = np.sort(np.concatenate([np.zeros(0, np.int64), *meeting]))
        anew = trace.value[at] == 0
        anew[1:] |= np.diff(np.searchsorted(touched, at)) > 0
        anew[0] = True
        first = np.flatnonzero(anew)
        last = np.append(first[1:], len(at)) - 1
        np.add.at(steps, at[first[first < last]], 1)
        np.add.at(steps, at[last[first < last]], -1)
    return np.cumsum(steps)


def _others(trace: CoreTrace, matmuls: Int64) -> dict[int, Int64]:
    """Return the instructions other than matmuls that touch psum, by region, in order."""
    instruction = np.repeat(np.arange(trace.count), np.diff(trace.access_start))
    is_matmul = np.zeros(trace.count, np.bool_)
    is_matmul[matmuls] = True
    in_psum = trace.regions.memory[trace.region] == PSUM
    chosen = np.flatnonzero(in_psum & ~is_matmul[instruction])
    order = chosen[np.argsort(trace.region[chosen], kind="stable")]
    found, first = np.unique(trace.region[order], return_index=True)
    return dict(zip(found.tolist(), np.split(instruction[order], first[1:]), strict=True))
