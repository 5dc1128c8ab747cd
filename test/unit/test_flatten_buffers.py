"""Buffers that are read with dimensions merged."""

import numpy as np

import polystage as ps
from polystage.mlir import ir
from polystage.passes.polyhedral.flatten_buffers import flatten_buffers


def phases(shape: str, reassociation: str, collapsed: str) -> ir.Module:
    """Return `out[i] = -collapse(exp(x))[i]`, of which the last elements are cut off."""
    return ir.Module.parse(
        f"""
        #id3 = affine_map<(a, b, c) -> (a, b, c)>
        #id2 = affine_map<(i, c) -> (i, c)>
        func.func @main(%x: memref<{shape}xf32>) -> memref<10x4xf32> {{
          %y = memref.alloc() : memref<{shape}xf32>
          %out = memref.alloc() : memref<10x4xf32>
          linalg.generic {{indexing_maps = [#id3, #id3],
                           iterator_types = ["parallel", "parallel", "parallel"]}}
            ins(%x : memref<{shape}xf32>) outs(%y : memref<{shape}xf32>) {{
          ^bb0(%v: f32, %o: f32):
            %e = math.exp %v : f32
            linalg.yield %e : f32
          }}
          %flat = memref.collapse_shape %y {reassociation}
            : memref<{shape}xf32> into memref<{collapsed}xf32>
          %cut = memref.subview %flat[0, 0] [10, 4] [1, 1]
            : memref<{collapsed}xf32> to memref<10x4xf32, strided<[4, 1]>>
          linalg.generic {{indexing_maps = [#id2, #id2], iterator_types = ["parallel", "parallel"]}}
            ins(%cut : memref<10x4xf32, strided<[4, 1]>>) outs(%out : memref<10x4xf32>) {{
          ^bb0(%v: f32, %o: f32):
            %n = arith.negf %v : f32
            linalg.yield %n : f32
          }}
          return %out : memref<10x4xf32>
        }}""",
        ir.Context(),
    )


def test_merged_dimensions_are_merged_from_the_start() -> None:
    module = phases("3x4x4", "[[0, 1], [2]]", "12x4")
    with module.context, ir.Location.unknown():
        assert flatten_buffers(module) == 1
        assert module.operation.verify()
    text = str(module)
    assert "memref.alloc() : memref<12x4xf32>" in text
    assert "collapse_shape" not in text


def test_dimensions_of_one_element_stay() -> None:
    module = phases("1x12x4", "[[0, 1], [2]]", "12x4")
    before = str(module)
    with module.context, ir.Location.unknown():
        assert flatten_buffers(module) == 0
    assert str(module) == before


def test_flattened_buffers_hold_the_same() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 4)).astype(np.float32)
    module = phases("3x4x4", "[[0, 1], [2]]", "12x4")
    program = ps.compile(module, target="flat", settings=("scratchpad_bytes=4096",), dtype="f32")
    (found,) = ps.simulate(program, {"arg0": x}).outputs.values()
    np.testing.assert_allclose(found, -np.exp(x.reshape(12, 4)[:10]), rtol=1e-6)
