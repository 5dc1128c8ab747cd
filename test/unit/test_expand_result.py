"""A result that is written in the shape in which its reader sees it."""

import pytest

from polystage.mlir import ir
from polystage.passes.polyhedral.expand_result import expand_result

TEXT = """
func.func @main(%x: memref<15x16xf32>) -> memref<1x16xf32> {{
  %t = memref.alloc() : memref<16xf32>
  linalg.generic {{indexing_maps = [affine_map<(k, n) -> (k, n)>, affine_map<(k, n) -> (n)>],
                  iterator_types = ["reduction", "parallel"]}}
      ins(%x : memref<15x16xf32>) outs(%t : memref<16xf32>)
      attrs = {{npu.partition_loop = 1 : i64}} {{
    ^bb0(%a: f32, %o: f32):
      {index}
      %s = arith.addf %o, %a : f32
      linalg.yield %s : f32
  }}
  %view = memref.expand_shape %t [[0, 1]] output_shape [1, 16]
      : memref<16xf32> into memref<1x16xf32>
  return %view : memref<1x16xf32>
}}
"""


def reduction(index: str) -> tuple[ir.Module, ir.Operation]:
    module = ir.Module.parse(TEXT.format(index=index))
    block = module.body.operations[0].regions[0].blocks[0]
    return module, next(o.operation for o in block if o.operation.name == "linalg.generic")


@pytest.fixture(autouse=True)
def context():
    with ir.Context(), ir.Location.unknown():
        yield


def test_the_loop_across_the_partitions_stays_the_same_loop():
    module, op = reduction("")
    assert expand_result(op, [])
    assert [str(k) for k in op.attributes["iterator_types"]][1:] == [
        "#linalg.iterator_type<parallel>"
    ] * 2
    assert ir.IntegerAttr(op.attributes["npu.partition_loop"]).value == 2
    assert module.operation.verify()


def test_a_body_that_asks_for_its_loops_keeps_them():
    _, op = reduction("%i = linalg.index 1 : index")
    before = str(op)
    assert not expand_result(op, [])
    assert str(op) == before
