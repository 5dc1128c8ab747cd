"""Loops over heads and over what is in each become one; windows see through views."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystage.mlir import func, ir
from polystage.passes.lower.generic_op import GenericOp, Linear
from polystage.passes.lower.resident.collapse_heads import collapse_heads
from polystage.passes.lower.resident.marking import computing_operations
from polystage.passes.lower.resident.windows import matching_dims, window_of

PLAIN = """
#heads = affine_map<(h, t, d) -> (t, h, d)>
#bias = affine_map<(h, t, d) -> (h, d)>
#result = affine_map<(h, t, d) -> (h, t, d)>
#left = affine_map<(h, q, k, d) -> (h, q, d)>
#right = affine_map<(h, q, k, d) -> (h, k, d)>
#scores = affine_map<(h, q, k, d) -> (h, q, k)>
memref.global "private" constant @b : memref<12xf32> = dense<0.5>
func.func @main(%x: memref<5x12xf32>, %s: memref<3x5x5xf32>) {
  %b = memref.get_global @b : memref<12xf32>
  %xs = memref.expand_shape %x [[0], [1, 2]] output_shape [5, 3, 4]
      : memref<5x12xf32> into memref<5x3x4xf32>
  %bs = memref.expand_shape %b [[0, 1]] output_shape [3, 4]
      : memref<12xf32> into memref<3x4xf32>
  %r = memref.alloc() {npu.partition = 1 : i64} : memref<3x5x4xf32>
  linalg.generic {indexing_maps = [#heads, #bias, #result],
      iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%xs, %bs : memref<5x3x4xf32>, memref<3x4xf32>) outs(%r : memref<3x5x4xf32>)
      attrs = {npu.partition_loop = 2 : i64} {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %v = arith.addf %a, %c : f32
    linalg.yield %v : f32
  }
  linalg.generic {indexing_maps = [#left, #right, #scores],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]}
      ins(%r, %r : memref<3x5x4xf32>, memref<3x5x4xf32>) outs(%s : memref<3x5x5xf32>) {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %m = arith.mulf %a, %c : f32
    %v = arith.addf %out, %m : f32
    linalg.yield %v : f32
  }
  return
}
"""


def operations_of(text):
    module = ir.Module.parse(text)
    module.operation.verify()
    (main,) = [op for op in module.body.operations if isinstance(op, func.FuncOp)]
    return module, computing_operations(main)


def test_heads_are_one_loop_and_one_dimension():
    with ir.Context(), ir.Location.unknown():
        module, operations = operations_of(PLAIN)
        assert collapse_heads(operations) == 1
        module.operation.verify()
        (main,) = [op for op in module.body.operations if isinstance(op, func.FuncOp)]
        first, second = computing_operations(main)
        assert [list(ir.MemRefType(v.type).shape) for v in first.operands] == [
            [5, 12],
            [12],
            [5, 12],
        ]
        assert "npu.partition =" not in str(module)
        assert ir.IntegerAttr(first.attributes["npu.partition_loop"]).value == 1
        window = window_of(second.operands[0], GenericOp.from_op(second.opview).inputs[0].index)
        assert window.array == first.operands[2]
        assert [(x.constant, x.coefficients) for x in window.index] == [
            (0, (0, 1, 0, 0)),
            (0, (4, 0, 0, 1)),
        ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # the bias is one value for each head
        ("#bias = affine_map<(h, t, d) -> (h, d)>", "#bias = affine_map<(h, t, d) -> (h, 0)>"),
        # the second operation walks the heads, but multiplies nothing
        ("%m = arith.mulf %a, %c", "%m = arith.subf %a, %c"),
        # the body asks for the number of a loop
        ("%v = arith.addf", "%i = linalg.index 0 : index\n%v = arith.addf"),
        # somebody else sees the array as it is
        ("return\n", "memref.dealloc %r : memref<3x5x4xf32>\nreturn\n"),
    ],
)
def test_heads_stay(old, new):
    text = PLAIN.replace(old, new, 1)
    assert text != PLAIN
    with ir.Context(), ir.Location.unknown():
        module, operations = operations_of(text)
        before = str(module)
        assert collapse_heads(operations) == 0
        assert str(module) == before


VIEWS = """
func.func @main(%a: memref<4x6x10xf32>) {{
  {view}
  "test.use"(%v) : (memref<{type}>) -> ()
  return
}}
"""


@st.composite
def views(draw):
    """Draw a view of a 4 x 6 x 10 array: as MLIR, and as what numpy does."""
    kind = draw(st.sampled_from(["transpose", "expand", "subview"]))
    if kind == "transpose":
        order = draw(st.permutations(range(3)))
        shape, strides = [4, 6, 10], [60, 10, 1]
        extents = "x".join(str(shape[d]) for d in order)
        type_ = f"{extents}xf32, strided<{[strides[d] for d in order]}>"
        dims = ", ".join(f"d{d}" for d in order)
        before = "%a (d0, d1, d2)"
        text = f"%v = memref.transpose {before} -> ({dims}) : memref<4x6x10xf32> to memref<{type_}>"
        return text, type_, lambda array: array.transpose(order)
    if kind == "expand":
        outer = draw(st.sampled_from([1, 2, 5, 10]))
        type_ = f"4x6x{outer}x{10 // outer}xf32"
        text = (
            f"%v = memref.expand_shape %a [[0], [1], [2, 3]] output_shape [4, 6, {outer}, "
            f"{10 // outer}] : memref<4x6x10xf32> into memref<{type_}>"
        )
        return text, type_, lambda array: array.reshape(4, 6, outer, 10 // outer)
    start, step = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    size = (6 - start - 1) // step + 1
    type_ = f"4x{size}x10xf32, strided<[60, {10 * step}, 1], offset: {10 * start}>"
    text = (
        f"%v = memref.subview %a[0, {start}, 0] [4, {size}, 10] [1, {step}, 1] : "
        f"memref<4x6x10xf32> to memref<{type_}>"
    )
    return text, type_, lambda array: array[:, start::step][:, :size]


@given(views())
def test_windows_walk_what_a_view_shows(view):
    text, type_, show = view
    array = np.arange(240).reshape(4, 6, 10)
    shown = show(array)
    with ir.Context() as context, ir.Location.unknown():
        context.allow_unregistered_dialects = True
        module = ir.Module.parse(VIEWS.format(view=text, type=type_))
        use = next(
            op for op in module.body.operations[0].entry_block.operations if op.name == "test.use"
        )
        loops = range(shown.ndim)
        index = tuple(_linear(d, shown.ndim) for d in loops)
        window = window_of(use.operation.operands[0], index)
        assert window is not None
        for point in itertools.islice(itertools.product(*map(range, shown.shape)), 0, None, 7):
            place = tuple(
                x.constant + sum(c * p for c, p in zip(x.coefficients, point, strict=True))
                for x in window.index
            )
            assert array[place] == shown[point]
        wide = [n for n in shown.shape if n > 1]
        matching = matching_dims(window, window)
        assert (matching is not None) == (sorted(wide) == [4, 6, 10])


def _linear(loop, loops):
    return Linear(0, tuple(int(d == loop) for d in range(loops)))
