"""Which arithmetic operations of the vector engine are one instruction, and what each streams."""

import pytest
from npu_programs import Kernel, dram, program

from polystage.machine import Target
from polystage.machine.lane_passes import LaneOperand, LaneOperation, lane_passes
from polystage.simulator import simulate

VECTOR = Target.load("neuroncore_v2").vector
PLAIN, PSUM = LaneOperand(is_plain=True), LaneOperand(in_psum=True)
WIDE, COLUMN = LaneOperand(), LaneOperand(per_partition=True)


def op(name: str, operands: str, result: str) -> LaneOperation:
    return LaneOperation(f"arith.{name}", tuple(operands), result)


def passes(*operations: LaneOperation, result: LaneOperand = WIDE, **operands: LaneOperand):
    (last,) = {operations[-1].result}
    return lane_passes(VECTOR, operations, operands, {last: result})


@pytest.mark.parametrize(
    ("operations", "operands", "result", "expected"),
    [
        ([op("addf", "x", "r")], {"x": WIDE}, WIDE, (1,)),
        ([op("addf", "xx", "r")], {"x": WIDE}, WIDE, (1,)),
        ([op("addf", "xy", "r")], {"x": WIDE, "y": WIDE}, WIDE, (2,)),
        # two tensors at the rate of one
        ([op("addf", "xy", "r")], {"x": WIDE, "y": PSUM}, WIDE, (1,)),
        ([op("addf", "xy", "r")], {"x": PSUM, "y": PSUM}, WIDE, (2,)),
        ([op("mulf", "xy", "r")], {"x": PLAIN, "y": PLAIN}, PLAIN, (1,)),
        ([op("mulf", "xy", "r")], {"x": PLAIN, "y": PLAIN}, WIDE, (2,)),
        ([op("divf", "xy", "r")], {"x": PLAIN, "y": PLAIN}, PLAIN, (2,)),
        # one element per partition
        ([op("mulf", "xc", "r")], {"x": WIDE, "c": COLUMN}, WIDE, (1,)),
        # tensor_scalar: (x - c) * d
        ([op("subf", "xc", "a"), op("mulf", "ad", "r")], {"c": COLUMN, "d": COLUMN}, WIDE, (1,)),
        # scalar_tensor_tensor: (x - c) * y
        ([op("subf", "xc", "a"), op("mulf", "ay", "r")], {"c": COLUMN, "y": WIDE}, WIDE, (2,)),
        (
            [op("subf", "xc", "a"), op("mulf", "ay", "r")],
            {"c": COLUMN, "x": PLAIN, "y": PLAIN},
            PLAIN,
            (1,),
        ),
        # not more than two, and none whose result is used twice or that reads two tensors
        ([op("addf", "x", "a"), op("mulf", "a", "b"), op("addf", "b", "r")], {}, WIDE, (1, 1)),
        ([op("addf", "x", "a"), op("mulf", "aa", "r")], {}, WIDE, (1, 1)),
        ([op("addf", "xy", "a"), op("mulf", "a", "r")], {}, WIDE, (2, 1)),
        ([op("addf", "x", "a"), op("cmpf", "ay", "r")], {}, WIDE, (1, 2)),
    ],
)
def test_passes(operations, operands, result, expected) -> None:
    assert passes(*operations, result=result, **operands) == expected


def test_another_engine_takes_one_operation_after_the_other() -> None:
    operations = [op("subf", "xc", "a"), op("mulf", "ad", "r")]
    operands = {"x": PLAIN, "c": COLUMN, "d": COLUMN}
    gpsimd = Target.load("neuroncore_v2").gpsimd
    assert lane_passes(gpsimd, operations, operands, {"r": PLAIN}) == (2, 2)


CENTRED = """
func.func private @centred(%x: bf16, %m: f32, %s: f32, %o: bf16) -> bf16 {
  %w = arith.extf %x : bf16 to f32
  %c = arith.subf %w, %m : f32
  %n = arith.mulf %c, %s : f32
  %r = arith.truncf %n : f32 to bf16
  return %r : bf16 }
"""


@pytest.mark.parametrize(("column", "streams"), [("d0, 0", 1), ("d0, d1", 4)])
def test_the_simulator_takes_what_comes_per_partition_along(column: str, streams: int) -> None:
    k = Kernel(y=dram(128, 512, dtype="bf16"))
    x = k.alloc([128, 512], "bf16", address=0)
    m, s = k.alloc([128, 512], address=4096), k.alloc([128, 512], address=8192)
    for buffer in (x, m, s):
        k.memset(buffer, 1)
    maps = ["d0, d1", column, column, "d0, d1"]
    k.box("elementwise", "centred", [x, m, s, x], [128, 512], maps)
    k.dma(x, k.y, "output")
    totals = simulate(program(k, extra=CENTRED), {}).totals
    memsets = 3 * 512
    elements = totals.busy_ns["vector"] * VECTOR.clock_ghz - memsets
    assert elements == pytest.approx(512 * streams + (100 if streams > 1 else 0), rel=0.01)
    assert totals.operations["vector"] == 128 * 512 * (2 + 3)
