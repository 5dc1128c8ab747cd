"""Mistakes of synchronisation and placement in random programs do not go unnoticed.

Two hundred programs and all their semaphores: benchmarks/mutation.py.
"""

from random import Random

import mutants
import pytest
from mutation import Program, Tally, Verdict, judge, measure, other_times

from polystage.errors import SimulationError

SEEDS = (0, 4, 6, 10, 11, 12, 14, 18, 19, 20, 26, 33)
LOOPS, DEPENDENT, REMOVED = 10, 1007, mutants.REMOVED


@pytest.mark.parametrize("seed", SEEDS)
def test_every_mutant_that_changes_a_result_is_reported(seed):
    """The program itself has no race, no deadlock, and the results of sequential order."""
    tally = Tally()
    assert measure(seed, tally, most=1, most_removed=5)
    assert tally.missed == []
    assert len(tally.silent) <= 1
    assert tally.verdicts[REMOVED].total() == 5
    deadlocks = tally.verdicts["signal removed"]
    assert deadlocks[Verdict("deadlock", None)] == deadlocks.total() == 1


def test_programs_have_loops_and_rotating_buffers():
    tally = Tally()
    tally.add_program(Program(LOOPS))
    assert (tally.with_loops, tally.rotating) == (1, 1)
    assert tally.semaphores >= 10


@pytest.mark.parametrize("seed", [7, 12, 25])
def test_other_times_change_no_result(seed):
    """Dependences within a queue that the usual times make sure are waited for as well."""
    program = Program(DEPENDENT)
    usual = program.simulated(program.module, races="ignore")
    with other_times(seed):
        other = program.simulated(program.module, races="ignore")
    assert other.outputs[program.output].tobytes() == program.reference
    assert other.totals.latency_ns != usual.totals.latency_ns


def test_all_kinds_of_mutants_are_made():
    program = Program(LOOPS)
    made = list(mutants.mutants(program.placed, program.module, Random(0), 1, 1))
    assert [mutant.kind for mutant in made] == list(mutants.KINDS)
    texts = {str(mutant.module) for mutant in made}
    assert len(texts) == len(made)
    assert str(program.module) not in texts


def test_a_removed_semaphore_changes_the_result_somewhere():
    """Otherwise the test above would say nothing about values."""
    program = Program(LOOPS)
    made = mutants.mutants(program.placed, program.module, Random(0), 1, 0)
    removed = (mutant.module for mutant in made if mutant.kind == REMOVED)
    assert any(judge(program, module) == Verdict("race", True) for module in removed)


def test_what_goes_unnoticed_is_counted():
    program, tally = Program(LOOPS), Tally()
    for kind in ("wait removed", "address shifted"):
        mutant = mutants.Mutant(kind, "somewhere", program.module)
        tally.add(program, mutant, Verdict("silent", True))
    assert tally.missed == [
        f"program {LOOPS}: wait removed: somewhere: another result, but no report"
    ]


def test_invalid_program_with_a_race():
    program = Program(LOOPS)
    for mutant in mutants.mutants(program.placed, program.module, Random(0), 1, 1):
        if mutant.kind == REMOVED:
            program.module = mutant.module
    with pytest.raises(SimulationError, match="race: nothing makes"):
        program.check()
