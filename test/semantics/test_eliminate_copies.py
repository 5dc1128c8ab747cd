"""Random programs of copies, computations and overwriting: `poly-eliminate-copies` changes no bit.

`POLYSTAGE_RANDOM_PROGRAMS` says how many, in place of 2400.
"""

import os

import numpy as np
import pytest
from check_copy_programs import difference, evaluated, problem, report
from copy_programs import Program
from random_copy_programs import random_program

from polystage.mlir import ir
from polystage.reference import jit_run

PROGRAMS = int(os.environ.get("POLYSTAGE_RANDOM_PROGRAMS", "2400"))
AT_ONCE = 100


def jit_outcome(module: ir.Module, program: Program) -> list[np.ndarray]:
    return jit_run(module, [program.initial(a) for a in program.arguments])


@pytest.mark.parametrize("first", range(0, PROGRAMS, AT_ONCE))
def test_outcome_stays_the_same_to_the_last_bit(first):
    failed = [s for s in range(first, first + AT_ONCE) if problem(random_program(s))]
    if failed:
        pytest.fail(f"programs {failed}; reduced:\n{report(random_program(failed[0]))}")


def test_programs_mean_what_upstream_and_the_evaluator_make_of_them():
    for seed in range(60):
        program = random_program(seed)
        expected = program.execute()
        with ir.Context(), ir.Location.unknown():
            module = ir.Module.parse(program.text)
            assert not difference(evaluated(module, program), expected), program.text
            shown = expected[len(program.arguments) :] if program.results else expected
            assert not difference(jit_outcome(module, program), shown), program.text
