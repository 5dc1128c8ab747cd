"""What the order of a program leaves open, in words: deadlocks and races."""

from __future__ import annotations

from collections.abc import Sequence

from polystage.errors import SimulationError, location_text
from polystage.simulator.assemble import CoreProgram
from polystage.simulator.decode import Program
from polystage.simulator.numerics import describe
from polystage.simulator.races import find_races
from polystage.simulator.schedule import Race
from polystage.simulator.timeline import NO_QUEUE, Blocked, Timeline, deadlock_cycle
from polystage.simulator.trace import NO_SEMAPHORE

MAX_RACES = 1000
"""More races than these are not listed."""


def check_deadlock(programs: Sequence[tuple[Program, CoreProgram]], timeline: Timeline) -> None:
    """Refuse a program in which some queue never goes on.

    Raises: SimulationError that names the cycle of waits, or the wait that has no signal.
    """
    if not timeline.blocked:
        return
    chain = deadlock_cycle(timeline.blocked)
    texts = [_blocked_text(*programs[b.core], b) for b in chain]
    first = programs[chain[0].core][0].instructions[_op(programs, chain[0])]
    raise SimulationError(
        f"deadlock: {'; '.join(texts)}",
        help="every wait needs a signal of its semaphore that does not wait for it in turn; "
        "npu-insert-sync makes such programs",
        op=first.place,
    )


def _op(programs: Sequence[tuple[Program, CoreProgram]], blocked: Blocked) -> int:
    return int(programs[blocked.core][1].trace.op[blocked.instruction])


def _blocked_text(program: Program, core: CoreProgram, blocked: Blocked) -> str:
    names = core.trace.queues
    place = program.instructions[core.trace.op[blocked.instruction]].place
    stands = f"queue '{names[blocked.queue]}' stands at {place.of_layer(_layer(core, blocked))}"
    if blocked.semaphore == NO_SEMAPHORE:
        return f"{stands}, which depends on queue '{names[blocked.awaited]}'"
    if blocked.awaited == NO_QUEUE:
        return f"{stands} for semaphore {blocked.semaphore}, of which no signal is to come"
    awaited = names[blocked.awaited]
    return f"{stands} for semaphore {blocked.semaphore}, which queue '{awaited}' should signal"


def _layer(core: CoreProgram, blocked: Blocked) -> str:
    return core.layer_of(blocked.instruction)


def races_of(program: Program, core: CoreProgram, limit: int = MAX_RACES) -> tuple[Race, ...]:
    """Return the races of a program whose order is that of its semaphores."""
    found = find_races(core.trace, limit)
    columns = (found.first, found.second, found.first_region, found.second_region)
    rows = zip(*(c.tolist() for c in columns), strict=True)
    return tuple(_race(program, core, *row) for row in rows)


def _race(
    program: Program, core: CoreProgram, first: int, second: int, region: int, other: int
) -> Race:
    return Race(
        _party(program, core, first, region),
        _party(program, core, second, other),
        describe(program, core, other),
        core.layer_of(first),
        core.layer_of(second),
        location_text(program.instructions[core.trace.op[second]].place.location),
    )


def _party(program: Program, core: CoreProgram, instruction: int, region: int) -> str:
    """Return an instruction as messages about races say it: .. of queue .., which writes .."""
    trace = core.trace
    accesses = slice(trace.access_start[instruction], trace.access_start[instruction + 1])
    written = (trace.region[accesses] == region) & trace.writes[accesses]
    verb = "writes" if written.any() else "reads"
    place = program.instructions[trace.op[instruction]].place
    layer = core.layer_of(instruction)
    return (
        f"{place.of_layer(layer)} of queue '{trace.queues[trace.queue[instruction]]}', "
        f"which {verb} {describe(program, core, region)}"
    )


def check_races(races: Sequence[Race]) -> None:
    """Refuse a program with races.

    Raises: SimulationError that names both parties of the first.
    """
    if races:
        race = races[0]
        raise SimulationError(
            f"race: nothing makes {race.second} wait for {race.first}",
            help="order the queues with npu.signal and npu.wait, and give buffers that live at the "
            "same time different addresses; npu-insert-sync and npu-allocate-scratchpad do",
            location=race.location,
        )
