"""Elementwise bodies as steps of the vector and the scalar engine."""

import pytest

from polystage.errors import PassError
from polystage.mlir import ir
from polystage.passes.lower.generic_op import GenericOp
from polystage.passes.lower.lane_engines.scalar_code import read_body
from polystage.passes.lower.resident.lanes.steps import (
    Extent,
    Pass,
    plan_steps,
    without_roundings,
)

OPERANDS = ("x", "y", "row", "gamma", "beta", "part")
"""Two arrays, a statistic, two constants per partition, an array without the free dimension."""

KINDS = (Extent.ARRAY, Extent.ARRAY, Extent.ROW, Extent.COLUMN, Extent.COLUMN, Extent.PART)

MODULE = """
func.func @f({args}, %out: memref<8x8xf32>) {{
  linalg.generic {{indexing_maps = [{maps}], iterator_types = ["parallel", "parallel"]}}
    ins({names} : {types}) outs(%out : memref<8x8xf32>) {{
  ^bb0({block}, %o: f32):
    {body}
  }}
  return
}}"""


def graph_of(body, context):
    """Return the graph of a body and its result."""
    count = len(OPERANDS)
    text = MODULE.format(
        args=", ".join(f"%m{i}: memref<8x8xf32>" for i in range(count)),
        maps=", ".join(["affine_map<(d0, d1) -> (d0, d1)>"] * (count + 1)),
        names=", ".join(f"%m{i}" for i in range(count)),
        types=", ".join(["memref<8x8xf32>"] * count),
        block=", ".join(f"%{name}: f32" for name in OPERANDS),
        body=body,
    )
    module = ir.Module.parse(text)
    (function,) = module.body.operations
    generic = GenericOp.from_op(next(iter(function.regions[0].blocks[0].operations)))
    found = read_body(generic, context)
    return found.graph, without_roundings(found.graph, found.results[0])


def described(steps):
    """Return a line for every step: engine or function, extent, sources by name."""
    made = {step.target: f"t{i}" for i, step in enumerate(steps.steps)}

    def name(value):
        return made[value] if value in made else OPERANDS[value.number]

    def line(step):
        reads = " ".join(name(value) for value in step.reads)
        extent = step.target.extent.name.lower()
        if not isinstance(step, Pass):
            return f"{extent} vector {reads}"
        numbers = "".join(f" {n:g}" for n in (step.scale, step.bias))
        return f"{extent} {step.function}{numbers} {reads}"

    return [line(step) for step in steps.steps]


def planned(body, wanted=Extent.ARRAY, fresh=True):
    with ir.Context() as context, ir.Location.unknown():
        graph, root = graph_of(body, context)
        return described(plan_steps(graph, root, dict(enumerate(KINDS)), wanted, fresh))


def test_what_depends_on_statistics_alone_is_computed_for_rows():
    steps = planned("""
      %n = arith.constant 4.0 : f32
      %m = arith.divf %row, %n : f32
      %d = arith.subf %x, %m : f32
      linalg.yield %d : f32""")
    assert steps == ["row identity 0.25 0 row", "array vector x t0"]


def test_a_norm_ends_in_one_pass_of_the_scalar_engine():
    steps = planned("""
      %r = math.rsqrt %row : f32
      %a = arith.mulf %x, %r : f32
      %b = arith.mulf %a, %gamma : f32
      %c = arith.addf %b, %beta : f32
      linalg.yield %c : f32""")
    assert steps == ["row rsqrt 1 0 row", "array vector x t0", "array identity 1 0 t1 gamma beta"]


def test_an_affine_function_goes_into_the_pass_of_a_function():
    steps = planned("""
      %two = arith.constant 2.0 : f32
      %a = arith.mulf %x, %two : f32
      %b = arith.addf %a, %beta : f32
      %c = math.tanh %b : f32
      linalg.yield %c : f32""")
    assert steps == ["array tanh 2 0 x beta"]


def test_constants_multiply_what_each_partition_has():
    """(x + 3) * gamma * 2 is 2 gamma x + 6 gamma."""
    steps = planned("""
      %two = arith.constant 2.0 : f32
      %three = arith.constant 3.0 : f32
      %a = arith.addf %x, %three : f32
      %b = arith.mulf %a, %gamma : f32
      %c = arith.mulf %b, %two : f32
      linalg.yield %c : f32""")
    assert steps == [
        "column identity 2 0 gamma",
        "column identity 6 0 gamma",
        "array identity 1 0 x t0 t1",
    ]


def test_a_difference_of_constants_is_a_shift():
    steps = planned("""
      %a = arith.subf %x, %beta : f32
      %b = arith.mulf %a, %gamma : f32
      linalg.yield %b : f32""")
    assert steps == ["column vector gamma beta", "array identity 1 0 x gamma t0"]


@pytest.mark.parametrize(
    ("operation", "function"),
    [
        ("%a = arith.mulf %x, %x : f32", "square"),
        ("%z = arith.constant 0.0 : f32\n %a = arith.maximumf %x, %z : f32", "relu"),
        ("%z = arith.constant 1.0 : f32\n %a = arith.divf %z, %x : f32", "reciprocal"),
        ("%a = math.exp %x : f32", "exp"),
    ],
)
def test_one_function_is_one_pass(operation, function):
    assert planned(f"{operation}\n linalg.yield %a : f32") == [f"array {function} 1 0 x"]


def test_the_scalar_engine_takes_from_an_expression_what_is_one_pass_there():
    steps = planned("""
      %a = arith.mulf %y, %gamma : f32
      %b = arith.addf %x, %a : f32
      linalg.yield %b : f32""")
    assert steps == ["array identity 1 0 y gamma", "array vector x t0"]


def test_the_scalar_engine_reads_no_array_that_repeats():
    steps = planned("%a = math.exp %part : f32\n linalg.yield %a : f32")
    assert steps == ["array vector part", "array exp 1 0 t0"]


def test_a_statistic_fills_an_array():
    assert planned("linalg.yield %row : f32") == ["array vector row"]


def test_an_operand_alone_is_copied_only_where_a_buffer_of_its_own_is_wanted():
    assert planned("linalg.yield %x : f32") == ["array vector x"]
    assert planned("linalg.yield %x : f32", fresh=False) == []


def test_no_instruction_leaves_a_truth_value():
    with pytest.raises(PassError, match="computes a constant"):
        planned("%c = arith.constant 1.0 : f32\n linalg.yield %c : f32")
    steps = planned("""
      %c = arith.cmpf ogt, %x, %y : f32
      %a = arith.select %c, %x, %row : f32
      linalg.yield %a : f32""")
    assert steps == ["array vector x y row"]
