"""Random programs of copies, computations and overwriting: `poly-eliminate-copies` changes no bit.

`POLYSTAGE_RANDOM_PROGRAMS` says how many, in place of 2400.
"""

import os

import pytest
from check_copy_programs import context, difference, evaluated, outcome, problem, report
from random_copy_programs import random_program

from polystage.mlir import ir
from polystage.reference import jit_run

PROGRAMS = int(os.environ.get("POLYSTAGE_RANDOM_PROGRAMS", "2400"))
AT_ONCE = 100


@pytest.mark.parametrize("first", range(0, PROGRAMS, AT_ONCE))
def test_outcome_stays_the_same_to_the_last_bit(first):
    failed = [s for s in range(first, first + AT_ONCE) if problem(random_program(s))]
    if failed:
        pytest.fail(f"programs {failed}; reduced:\n{report(random_program(failed[0]))}")


def test_programs_mean_what_upstream_and_the_evaluator_make_of_them():
    for seed in range(60):
        program = random_program(seed)
        expected = program.execute()
        with context(), ir.Location.unknown():
            module = ir.Module.parse(program.text)
            assert not difference(evaluated(module, program.inputs()), expected), program.text
            shown = expected[len(program.arguments) :] if program.results else expected
            assert not difference(jit_run(module, program.inputs()), shown), program.text


FOUND = {
    "another statement of the loop reads the window before the next iteration": """
      func.func @main(%x: memref<2xi32>, %y: memref<2xi32>, %z: memref<2xi32>) {
        %c0 = arith.constant 0 : index
        %c1 = arith.constant 1 : index
        %c2 = arith.constant 2 : index
        %t = memref.alloc() : memref<2xi32>
        scf.for %i = %c0 to %c2 step %c1 {
          memref.copy %y, %z : memref<2xi32> to memref<2xi32>
          linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
                          iterator_types = ["parallel"]}
              ins(%x : memref<2xi32>) outs(%t : memref<2xi32>) {
          ^bb0(%in: i32, %out: i32):
            %double = arith.addi %in, %in : i32
            linalg.yield %double : i32
          }
        }
        memref.copy %t, %y : memref<2xi32> to memref<2xi32>
        return
      }""",
    "a loop of extent 1 loses the operand that had it as a dimension": """
      func.func @main(%x: memref<1x4xi32>, %y: memref<4xi32>) {
        %c0 = arith.constant 0 : index
        %c1 = arith.constant 1 : index
        %c4 = arith.constant 4 : index
        %t = memref.alloc() : memref<1x12xi32>
        linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1 floordiv 3)>,
                                         affine_map<(d0, d1) -> (d0, d1)>],
                        iterator_types = ["parallel", "parallel"]}
            ins(%x : memref<1x4xi32>) outs(%t : memref<1x12xi32>) {
        ^bb0(%in: i32, %out: i32):
          linalg.yield %in : i32
        }
        scf.for %i = %c0 to %c4 step %c1 {
          %first = affine.apply affine_map<(d0) -> (d0 * 3)>(%i)
          %part = memref.subview %t[0, %first] [1, 3] [1, 1]
              : memref<1x12xi32> to memref<1x3xi32, strided<[12, 1], offset: ?>>
          %sum = memref.subview %y[%i] [1] [1]
              : memref<4xi32> to memref<i32, strided<[], offset: ?>>
          linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>,
                                           affine_map<(d0, d1) -> ()>],
                          iterator_types = ["reduction", "reduction"]}
              ins(%part : memref<1x3xi32, strided<[12, 1], offset: ?>>)
              outs(%sum : memref<i32, strided<[], offset: ?>>) {
          ^bb0(%in: i32, %out: i32):
            %added = arith.addi %in, %out : i32
            linalg.yield %added : i32
          }
        }
        return
      }""",
    "two reduced loops lose the operand that had them as dimensions": """
      func.func @main(%x: memref<2xi32>, %y: memref<2xi32>) {
        %t = memref.alloc() : memref<3x2x4xi32>
        linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d1)>,
                                         affine_map<(d0, d1, d2) -> (d0, d1, d2)>],
                        iterator_types = ["parallel", "parallel", "parallel"]}
            ins(%x : memref<2xi32>) outs(%t : memref<3x2x4xi32>) {
        ^bb0(%in: i32, %out: i32):
          linalg.yield %in : i32
        }
        linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>,
                                         affine_map<(d0, d1, d2) -> (d1)>],
                        iterator_types = ["reduction", "parallel", "reduction"]}
            ins(%t : memref<3x2x4xi32>) outs(%y : memref<2xi32>) {
        ^bb0(%in: i32, %out: i32):
          %added = arith.addi %in, %out : i32
          linalg.yield %added : i32
        }
        return
      }""",
    "a window over an input is left with one loop when a loop of extent 1 is dropped": """
      func.func @main(%x: memref<2x4xi32>, %w: memref<3xi32>, %y: memref<2xi32>) {
        %zero = arith.constant 0 : i32
        %t = memref.alloc() : memref<2x1xi32>
        linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>],
                        iterator_types = ["parallel", "parallel"]}
            outs(%t : memref<2x1xi32>) {
        ^bb0(%out: i32):
          linalg.yield %zero : i32
        }
        linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1 * 2 + d2)>,
                                         affine_map<(d0, d1, d2) -> (d2)>,
                                         affine_map<(d0, d1, d2) -> (d0, d1)>],
                        iterator_types = ["parallel", "parallel", "reduction"]}
            ins(%x, %w : memref<2x4xi32>, memref<3xi32>) outs(%t : memref<2x1xi32>) {
        ^bb0(%in: i32, %weight: i32, %out: i32):
          %term = arith.muli %in, %weight : i32
          %added = arith.addi %term, %out : i32
          linalg.yield %added : i32
        }
        %flat = memref.collapse_shape %t [[0, 1]] : memref<2x1xi32> into memref<2xi32>
        memref.copy %flat, %y : memref<2xi32> to memref<2xi32>
        return
      }""",
    "a later iteration overwrites what another statement of the loop wrote": """
      func.func @main(%x: memref<2xi32>, %y: memref<3x2xi32>, %z: memref<3x2xi32>) {
        %c0 = arith.constant 0 : index
        %c1 = arith.constant 1 : index
        %c2 = arith.constant 2 : index
        %t = memref.alloc() : memref<3x2xi32>
        scf.for %i = %c0 to %c2 step %c1 {
          memref.copy %y, %t : memref<3x2xi32> to memref<3x2xi32>
          %one = memref.subview %x[%i] [1] [1]
              : memref<2xi32> to memref<1xi32, strided<[1], offset: ?>>
          %column = memref.subview %t[0, %i] [3, 1] [1, 1]
              : memref<3x2xi32> to memref<3x1xi32, strided<[2, 1], offset: ?>>
          linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d1)>,
                                           affine_map<(d0, d1) -> (d0, d1)>],
                          iterator_types = ["parallel", "parallel"]}
              ins(%one : memref<1xi32, strided<[1], offset: ?>>)
              outs(%column : memref<3x1xi32, strided<[2, 1], offset: ?>>) {
          ^bb0(%in: i32, %out: i32):
            linalg.yield %in : i32
          }
        }
        linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>,
                                         affine_map<(d0, d1) -> (d0, d1)>],
                        iterator_types = ["parallel", "parallel"]}
            ins(%t : memref<3x2xi32>) outs(%z : memref<3x2xi32>) {
        ^bb0(%in: i32, %out: i32):
          %double = arith.addi %in, %in : i32
          linalg.yield %double : i32
        }
        return
      }""",
}
"""Programs that went wrong once, reduced."""


@pytest.mark.parametrize("reason", FOUND)
def test_program_that_went_wrong_once(reason):
    assert outcome(FOUND[reason], with_pass=True) == outcome(FOUND[reason], with_pass=False)
