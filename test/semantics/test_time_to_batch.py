"""Dilated causal convolutions by time-to-batch: copies become overlays that end within a row."""

import numpy as np
import pytest

from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting import whole_rows
from polystage.pipeline import run_pipeline
from polystage.simulator import simulate

pytestmark = pytest.mark.usefixtures("npu_context")

CHANNELS = 8
TAPS = 3

ELIMINATE = "poly-eliminate-copies,canonicalize,cse"
LOWER = "convert-linalg-to-npu,canonicalize,cse,npu-allocate-scratchpad"


def program(samples: int, dilation: int) -> str:
    """Return a convolution of `samples` steps, written as exports write it."""
    border = (TAPS - 1) * dilation
    rows = -(-(border + samples) // dilation)
    kept = rows - TAPS + 1
    c = CHANNELS
    return f"""
func.func @main(%x: memref<{samples}x{c}xf32> {{npu.name = "x"}},
    %w: memref<{TAPS}x{c}x{c}xf32> {{npu.name = "w"}})
    -> (memref<{samples}x{c}xf32> {{npu.name = "y"}}) {{
  %zero = arith.constant 0.0 : f32
  %padded = memref.alloc() : memref<{rows * dilation}x{c}xf32>
  linalg.fill ins(%zero : f32) outs(%padded : memref<{rows * dilation}x{c}xf32>)
  %inside = memref.subview %padded[{border}, 0] [{samples}, {c}] [1, 1]
      : memref<{rows * dilation}x{c}xf32>
      to memref<{samples}x{c}xf32, strided<[{c}, 1], offset: {border * c}>>
  memref.copy %x, %inside : memref<{samples}x{c}xf32>
      to memref<{samples}x{c}xf32, strided<[{c}, 1], offset: {border * c}>>
  %batch = memref.expand_shape %padded [[0, 1], [2]] output_shape [{rows}, {dilation}, {c}]
      : memref<{rows * dilation}x{c}xf32> into memref<{rows}x{dilation}x{c}xf32>
  %out = memref.alloc() : memref<{kept}x{dilation}x{c}xf32>
  linalg.fill ins(%zero : f32) outs(%out : memref<{kept}x{dilation}x{c}xf32>)
  linalg.generic {{indexing_maps = [
      affine_map<(t, b, o, k, c) -> (t + k, b, c)>, affine_map<(t, b, o, k, c) -> (k, c, o)>,
      affine_map<(t, b, o, k, c) -> (t, b, o)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction"]}}
      ins(%batch, %w : memref<{rows}x{dilation}x{c}xf32>, memref<{TAPS}x{c}x{c}xf32>)
      outs(%out : memref<{kept}x{dilation}x{c}xf32>) {{
  ^bb0(%a: f32, %b: f32, %old: f32):
    %product = arith.mulf %a, %b : f32
    %sum = arith.addf %old, %product : f32
    linalg.yield %sum : f32
  }}
  %time = memref.collapse_shape %out [[0, 1], [2]]
      : memref<{kept}x{dilation}x{c}xf32> into memref<{kept * dilation}x{c}xf32>
  %result = memref.alloc() : memref<{samples}x{c}xf32>
  %first = memref.subview %time[0, 0] [{samples}, {c}] [1, 1]
      : memref<{kept * dilation}x{c}xf32> to memref<{samples}x{c}xf32, strided<[{c}, 1]>>
  memref.copy %first, %result : memref<{samples}x{c}xf32, strided<[{c}, 1]>>
      to memref<{samples}x{c}xf32>
  return %result : memref<{samples}x{c}xf32>
}}"""


def convolution(x: np.ndarray, w: np.ndarray, dilation: int) -> np.ndarray:
    padded = np.pad(x, (((TAPS - 1) * dilation, 0), (0, 0)))
    taps = [padded[k * dilation :][: len(x)] @ w[k] for k in range(TAPS)]
    return np.sum(taps, axis=0)


def compiled(samples: int, dilation: int, target: str) -> tuple[ir.Module, str]:
    """Return the lowered module, and the text of what the elimination of copies left."""
    module = ir.Module.parse(program(samples, dilation))
    run_pipeline(module, "builtin.module(func.func(linalg-generalize-named-ops))")
    run_pipeline(module, f"builtin.module({ELIMINATE})")
    eliminated = str(module)
    tail = f"npu-set-float-type{{type=f32}},npu-attach-target{{target={target}}},{LOWER}"
    run_pipeline(module, f"builtin.module({tail})")
    return module, eliminated


@pytest.mark.parametrize("target", ["tiny", "neuroncore_v2"])
@pytest.mark.parametrize(("samples", "dilation"), [(32, 8), (27, 8), (29, 16), (11, 16), (60, 32)])
def test_dilated_convolution(samples, dilation, target):
    module, eliminated = compiled(samples, dilation, target)
    generator = np.random.default_rng(0)
    x = generator.integers(-9, 9, (samples, CHANNELS)).astype(np.float32)
    w = generator.integers(-9, 9, (TAPS, CHANNELS, CHANNELS)).astype(np.float32)
    result = simulate(module, {"x": x, "w": w}).outputs["y"]
    np.testing.assert_array_equal(result, convolution(x, w, dilation))
    whole, partial = samples // dilation > 0, samples % dilation > 0
    assert eliminated.count('"npu.overlay"') == whole + partial
    assert "memref.copy %arg0" not in eliminated


def test_dilated_convolution_runs_on_the_tensor_engine(monkeypatch):
    assert '"npu.matmul"' in str(compiled(480, 64, "neuroncore_v2")[0])
    monkeypatch.setattr(whole_rows, "_as_row_and_column", lambda *_: None)
    assert '"npu.matmul"' not in str(compiled(480, 64, "neuroncore_v2")[0])
