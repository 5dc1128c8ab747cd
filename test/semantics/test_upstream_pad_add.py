"""Pad followed by an addition: upstream's fusion gives a wrong result, ours must not.

affine-loop-fusion moves the loops that fill the padded array behind the memref.copy that puts the
image into it, for it takes no notice of the copy (github.com/llvm/llvm-project/issues/218696). The
legality of our rewrites rests on dependences of all statements, copies among them.
"""

from importlib.metadata import version

import numpy as np
import pytest

from polystage.evaluator.module_evaluator import evaluate
from polystage.mlir import ir
from polystage.passes.tensors.normalize import BUFFERIZE, FUSE_ELEMENTWISE, PREPARE
from polystage.pipeline import compile_module, default_pipeline, run_pipeline
from polystage.polyhedral import TensorProgram
from polystage.reference import jit_run
from polystage.simulator import simulate

PAD_ADD = """
#identity = affine_map<(i, j) -> (i, j)>
func.func @main(%image: tensor<8x8xf32> {npu.name = "image"}) -> tensor<10x10xf32> {
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1.0 : f32
  %padded = tensor.pad %image low[1, 1] high[1, 1] {
  ^bb0(%i: index, %j: index):
    tensor.yield %zero : f32
  } : tensor<8x8xf32> to tensor<10x10xf32>
  %empty = tensor.empty() : tensor<10x10xf32>
  %sum = linalg.generic {indexing_maps = [#identity, #identity],
      iterator_types = ["parallel", "parallel"]}
      ins(%padded : tensor<10x10xf32>) outs(%empty : tensor<10x10xf32>) {
  ^bb0(%x: f32, %old: f32):
    %y = arith.addf %x, %one : f32
    linalg.yield %y : f32
  } -> tensor<10x10xf32>
  return %sum : tensor<10x10xf32>
}
"""
UPSTREAM = (
    "canonicalize,cse,one-shot-bufferize{bufferize-function-boundaries "
    "function-boundary-type-conversion=identity-layout-map},"
    "func.func(convert-linalg-to-affine-loops,affine-loop-fusion)"
)
SEEN_IN = "20261001"

IMAGE = np.ones((8, 8), np.float32)
EXPECTED = np.pad(IMAGE, 1) + 1


def after(passes: str) -> ir.Module:
    with ir.Context():
        module = ir.Module.parse(PAD_ADD)
    run_pipeline(module, f"builtin.module({passes})")
    return module


@pytest.mark.skipif(version("torch-mlir") != SEEN_IN, reason="a version that may have the fix")
def test_upstream_loses_the_image():
    (result,) = jit_run(after(UPSTREAM), [IMAGE])
    assert result[1, 1] == 1.0 != EXPECTED[1, 1]


def test_we_do_not_run_that_fusion():
    assert "affine-loop-fusion" not in default_pipeline("neuroncore_v2", "f32")


@pytest.mark.parametrize("fusion", ["", f"{FUSE_ELEMENTWISE},"], ids=["unfused", "fused"])
class TestEliminateCopies:
    def eliminated(self, fusion: str) -> ir.Module:
        return after(f"{PREPARE},{fusion}{BUFFERIZE},poly-eliminate-copies")

    def test_leaves_no_copy(self, fusion):
        program = TensorProgram.from_module(self.eliminated(fusion))
        assert not [s for s in program.statements if s.kind == "copy"]

    def test_keeps_border_and_interior(self, fusion):
        module = self.eliminated(fusion)
        for (result,) in (evaluate(module, [IMAGE]).values(), jit_run(module, [IMAGE])):
            np.testing.assert_array_equal(result, EXPECTED)


def test_the_program_computes_border_and_interior():
    with ir.Context():
        program = compile_module(ir.Module.parse(PAD_ADD), dtype="f32")
    (result,) = simulate(program, {"image": IMAGE}).outputs.values()
    np.testing.assert_array_equal(result, EXPECTED)
