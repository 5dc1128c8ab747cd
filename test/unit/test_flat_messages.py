"""What the flat lowering refuses, and how it says so."""

import numpy as np
import pytest
from fusion_programs import Graph

import polystage as ps
from polystage.dialects.npu.target import target_attribute
from polystage.errors import PassError, PlanError
from polystage.machine import Target
from polystage.mlir import ir
from polystage.pipeline import run_pipeline
from polystage.planner.fusion.decisions import Group, Nest, Place, Plan
from polystage.planner.fusion.plan_attributes import write_plan
from polystage.planner.fusion.program import Program

LOWER = "builtin.module(convert-linalg-to-npu)"

LOOKUP = """
func.func @main(%table: memref<7x4xf32>, %rows: memref<5xi64>) -> memref<5x4xf32> {
  %out = memref.alloc() : memref<5x4xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
    ins(%rows : memref<5xi64>) outs(%out : memref<5x4xf32>) {
  ^bb0(%row: i64, %o: f32):
    %r = arith.index_cast %row : i64 to index
    %c = linalg.index 1 : index
    %x = memref.load %table[%r, %c] : memref<7x4xf32>
    linalg.yield %x : f32
  }
  return %out : memref<5x4xf32>
}
"""


def lowered(program: Program, place: Place | None) -> ir.Module:
    """Lower a program for `flat`, in groups of one operator with everything in `place`."""
    module = program.module
    with module.context, ir.Location.unknown():
        module.operation.attributes["npu.target"] = target_attribute(Target.load("flat"))
        if place is not None:
            places = [dict.fromkeys(o.arrays, place) for o in program.operators]
            groups = (Group((i,), (), (Nest(),), p) for i, p in enumerate(places))
            write_plan(program, Plan(tuple(groups)))
    run_pipeline(module, LOWER)
    return module


def test_without_a_plan_there_is_nothing_to_carry_out():
    graph = Graph()
    program = graph.program(graph.elementwise(graph.input(2, 3, 4)))
    with pytest.raises(PlanError, match="the function has no plan\nhelp: run npu-fuse-operators"):
        lowered(program, None)


def test_rows_are_looked_up_in_dram(npu_context):
    program = Program.from_module(ir.Module.parse(LOOKUP))
    text = str(lowered(program, Place.STREAMED))
    assert text.count('"npu.gather"') == 1
    assert "memref<7x4xf32>, memref<1x5x4xf32" in text.replace(", strided<[4, 1]>", "")
    assert text.count('"npu.elementwise"') == 1, "indices are computed, rows go where they belong"


def test_rows_come_in_chunks_where_they_do_not_fit_at_once(npu_context):
    larger = LOOKUP.replace("7x4x", "900x64x").replace("5x4x", "500x64x").replace("<5x", "<500x")
    program = ps.compile(
        ir.Module.parse(larger), target="flat", settings=("scratchpad_bytes=16384",), dtype="f32"
    )
    table = np.random.default_rng(0).standard_normal((900, 64)).astype(np.float32)
    rows = np.random.default_rng(1).integers(0, 900, 500)
    inputs = {"arg0": table, "arg1": rows}
    (found,) = ps.simulate(program, inputs).outputs.values()
    np.testing.assert_array_equal(found, table[rows])


def test_a_table_on_chip_is_refused(npu_context):
    program = Program.from_module(ir.Module.parse(LOOKUP))
    message = "looks rows of 'arg0' up, which is on chip, but gathers read dram\nhelp: make its"
    with pytest.raises(PassError, match=message):
        lowered(program, Place.WHOLE)
