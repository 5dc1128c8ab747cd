"""Each rule of legality, planted to hold always: what it forbids gives wrong results, and is seen.

Rules that random programs break soon are tried on those; for the others there is a program each.
"""

import contextlib

import pytest
from check_copy_programs import outcome, problem
from random_copy_programs import random_program
from strict_evaluator import OverlapError

from polystage.passes.polyhedral.copy_elimination import legality

PROGRAMS = 600
"""How many random programs are tried with a planted rule."""


def elementwise(source: str, target: str, function: str, rank: int = 1) -> str:
    """Return `target = source FUNCTION 2`, for operands given as `%name : type`."""
    dims = ", ".join(f"d{d}" for d in range(rank))
    identity = f"affine_map<({dims}) -> ({dims})>"
    kinds = ", ".join(['"parallel"'] * rank)
    return f"""
      linalg.generic {{indexing_maps = [{identity}, {identity}], iterator_types = [{kinds}]}}
          ins({source}) outs({target}) {{
      ^bb0(%in: i32, %out: i32):
        %two = arith.constant 2 : i32
        %result = arith.{function} %in, %two : i32
        linalg.yield %result : i32
      }}"""


ROW = "memref<4xi32>"
SQUARE = "memref<4x4xi32>"
ONE = "memref<1xi32, strided<[1], offset: ?>>"
LOOP = """
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  scf.for %i = %c0 to %c4 step %c1 {"""

DIRECTED = {
    "source_is_not_replaced": f"""
        func.func @main(%x: {SQUARE}) {{
          %t = memref.alloc() : {SQUARE}
          %v = memref.transpose %x (i, j) -> (j, i) : {SQUARE} to memref<4x4xi32, strided<[1, 4]>>
          memref.copy %v, %t : memref<4x4xi32, strided<[1, 4]>> to {SQUARE}
          {elementwise(f"%t : {SQUARE}", f"%x : {SQUARE}", "muli", 2)}
          return
        }}""",
    "stands_alone": f"""
        func.func @main(%x: {ROW}) -> ({ROW}, {ROW}) {{
          %t0 = memref.alloc() : {ROW}
          %t1 = memref.alloc() : {ROW}
          %y = memref.alloc() : {ROW}
          {elementwise(f"%x : {ROW}", f"%t0 : {ROW}", "addi")}
          {LOOP}
            %s0 = memref.subview %t0[%i] [1] [1] : {ROW} to {ONE}
            %s1 = memref.subview %t1[%i] [1] [1] : {ROW} to {ONE}
            memref.copy %s0, %s1 : {ONE} to {ONE}
            {elementwise(f"%s0 : {ONE}", f"%s0 : {ONE}", "muli")}
          }}
          {elementwise(f"%t0 : {ROW}", f"%y : {ROW}", "addi")}
          return %t1, %y : {ROW}, {ROW}
        }}""",
    "window_is_not_read_before": f"""
        func.func @main(%x: {ROW}, %t1: {ROW}, %y: {ROW}) {{
          %t0 = memref.alloc() : {ROW}
          {elementwise(f"%x : {ROW}", f"%t0 : {ROW}", "addi")}
          {elementwise(f"%t1 : {ROW}", f"%y : {ROW}", "addi")}
          memref.copy %t0, %t1 : {ROW} to {ROW}
          return
        }}""",
    "starts_anew": f"""
        func.func @main(%x: {ROW}) -> {ROW} {{
          %t0 = memref.alloc() : {ROW}
          %t1 = memref.alloc() : {ROW}
          {LOOP}
            %s0 = memref.subview %t0[%i] [1] [1] : {ROW} to {ONE}
            %sx = memref.subview %x[%i] [1] [1] : {ROW} to {ONE}
            {elementwise(f"%sx : {ONE}", f"%s0 : {ONE}", "addi")}
            memref.copy %t0, %t1 : {ROW} to {ROW}
            {elementwise(f"%t1 : {ROW}", f"%t1 : {ROW}", "muli")}
          }}
          return %t1 : {ROW}
        }}""",
}
MADE_IN_A_LOOP = f"""
    func.func @main(%x: {ROW}, %y: memref<4x2xi32>) {{
      %t1 = memref.alloc() : memref<4x2xi32>
      {LOOP}
        %t0 = memref.alloc() : memref<1xi32>
        %sx = memref.subview %x[%i] [1] [1] : {ROW} to {ONE}
        {elementwise(f"%sx : {ONE}", "%t0 : memref<1xi32>", "addi")}
        %s1 = memref.subview %t1[%i, 0] [1, 2] [1, 1]
            : memref<4x2xi32> to memref<2xi32, strided<[1], offset: ?>>
        linalg.generic {{indexing_maps = [affine_map<(j) -> (0)>, affine_map<(j) -> (j)>],
                         iterator_types = ["parallel"]}}
            ins(%t0 : memref<1xi32>) outs(%s1 : memref<2xi32, strided<[1], offset: ?>>) {{
        ^bb0(%in: i32, %out: i32):
          linalg.yield %in : i32
        }}
      }}
      {elementwise("%t1 : memref<4x2xi32>", "%y : memref<4x2xi32>", "addi", 2)}
      return
    }}"""
"""What is made in a loop changes there as well, so that `source_is_unchanged` is broken too."""
OF_TIME = "repeats_no_operand"
"""A rule for the tensor engine's sake: what it forbids would be right, but slow."""
BY_RANDOM_PROGRAMS = [
    rule for rule in legality.RULES if rule not in (*DIRECTED, "source_is_visible", OF_TIME)
]


def plant(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    assert callable(getattr(legality, rule))
    monkeypatch.setattr(legality, rule, lambda *_args, **_options: True)


@pytest.mark.parametrize("rule", DIRECTED)
def test_directed_program_shows_what_a_rule_is_for(rule, monkeypatch):
    expected = outcome(DIRECTED[rule], with_pass=False)
    assert outcome(DIRECTED[rule], with_pass=True) == expected
    plant(monkeypatch, rule)
    with contextlib.suppress(OverlapError):
        assert outcome(DIRECTED[rule], with_pass=True) != expected


def test_memory_of_a_loop_is_not_read_outside_of_it(monkeypatch):
    expected = outcome(MADE_IN_A_LOOP, with_pass=False)
    assert outcome(MADE_IN_A_LOOP, with_pass=True) == expected
    plant(monkeypatch, "source_is_unchanged")
    assert outcome(MADE_IN_A_LOOP, with_pass=True) == expected
    plant(monkeypatch, "source_is_visible")
    assert outcome(MADE_IN_A_LOOP, with_pass=True) != expected


@pytest.mark.parametrize("rule", BY_RANDOM_PROGRAMS)
def test_random_programs_show_what_a_rule_is_for(rule, monkeypatch):
    plant(monkeypatch, rule)
    programs = (random_program(seed) for seed in range(PROGRAMS))
    broken = next(program for program in programs if problem(program))
    monkeypatch.undo()
    assert not problem(broken)
