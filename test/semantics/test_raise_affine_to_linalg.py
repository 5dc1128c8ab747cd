"""Loop nests of every kind compute the same before and after `raise-affine-to-linalg`."""

import numpy as np
import pytest

from polystage.mlir import ir
from polystage.passes.polyhedral.raise_affine_to_linalg import RaiseAffineToLinalgPass
from polystage.reference import jit_run

NESTS = {
    "loads_and_stores_outside_of_loops": """
      func.func @main(%A: memref<8xf32>, %B: memref<8xf32>) {
      %0 = affine.load %A[0] : memref<8xf32>
      %1 = arith.addf %0, %0 : f32
      affine.for %i = 0 to 8 { %2 = affine.load %B[%i] : memref<8xf32>
      %3 = arith.mulf %2, %1 : f32
      affine.store %3, %A[%i] : memref<8xf32> }
      affine.store %1, %B[3] : memref<8xf32>
      return }
    """,
    "values_kept_over_a_write": """
      func.func @main(%A: memref<8xf32>, %B: memref<8xf32>) {
      affine.for %i = 0 to 8 { %a = affine.load %A[%i] : memref<8xf32>
      %b = affine.load %B[7 - %i] : memref<8xf32>
      affine.store %b, %A[%i] : memref<8xf32>
      affine.store %a, %B[%i] : memref<8xf32> }
      return }
    """,
    "a_write_that_runs_backwards": """
      func.func @main(%A: memref<8xf32>, %B: memref<16xf32>) {
      affine.for %i = 0 to 8 { %a = affine.load %A[%i] : memref<8xf32>
      affine.store %a, %B[15 - 2 * %i] : memref<16xf32> }
      return }
    """,
    "loop_indices_as_data": """
      func.func @main(%A: memref<4x8xf32>) {
      affine.for %i = 0 to 4 { affine.for %j = 2 to 8 step 3 {
      %s = affine.apply affine_map<(d0, d1) -> (d0 * 2 + d1)>(%i, %j)
      %c = arith.index_cast %s : index to i32
      %f = arith.sitofp %c : i32 to f32
      affine.store %f, %A[%i, %j] : memref<4x8xf32> } }
      return }
    """,
    "a_buffer_made_in_the_loop": """
      func.func @main(%A: memref<4x8xf32>, %y: memref<4xf32>) {
      %zero = arith.constant 0.0 : f32
      affine.for %i = 0 to 4 { %t = memref.alloca() : memref<1xf32>
      affine.store %zero, %t[0] : memref<1xf32>
      affine.for %j = 0 to 8 { %a = affine.load %A[%i, %j] : memref<4x8xf32>
      %b = affine.load %t[0] : memref<1xf32>
      %c = arith.addf %a, %b : f32
      affine.store %c, %t[0] : memref<1xf32> }
      %r = affine.load %t[0] : memref<1xf32>
      affine.store %r, %y[%i] : memref<4xf32> }
      return }
    """,
    "an_array_of_rank_0": """
      func.func @main(%A: memref<8xf32>, %y: memref<f32>) {
      affine.for %j = 0 to 8 { %a = affine.load %A[%j] : memref<8xf32>
      %b = affine.load %y[] : memref<f32>
      %c = arith.addf %a, %b : f32
      affine.store %c, %y[] : memref<f32> }
      return }
    """,
    "places_loaded_from_memory": """
      func.func @main(%A: memref<8xf32>, %I: memref<4xi32>, %y: memref<4xf32>) {
      affine.for %j = 0 to 4 { %a = affine.load %I[%j] : memref<4xi32>
      %b = arith.index_cast %a : i32 to index
      %c = memref.load %A[%b] : memref<8xf32>
      affine.store %c, %y[%j] : memref<4xf32> }
      return }
    """,
    "a_view_of_an_array": """
      func.func @main(%A: memref<8x4xf32>, %y: memref<32xf32>) {
      %f = memref.collapse_shape %A [[0, 1]] : memref<8x4xf32> into memref<32xf32>
      affine.for %j = 0 to 16 { %a = affine.load %f[%j * 2 + 1] : memref<32xf32>
      affine.store %a, %y[%j] : memref<32xf32> }
      affine.for %j = 0 to 32 { %a = affine.load %y[%j] : memref<32xf32>
      affine.store %a, %f[%j] : memref<32xf32> }
      return }
    """,
    "a_strided_convolution": """
      func.func @main(%x: memref<3x9x9xf32>, %w: memref<5x3x3x3xf32>, %y: memref<5x4x4xf32>) {
      affine.for %m = 0 to 5 { affine.for %h = 0 to 4 { affine.for %v = 0 to 4 {
      affine.for %c = 0 to 3 { affine.for %r = 0 to 3 { affine.for %s = 0 to 3 {
      %a = affine.load %x[%c, %h * 2 + %r, %v * 2 + %s] : memref<3x9x9xf32>
      %b = affine.load %w[%m, %c, %r, %s] : memref<5x3x3x3xf32>
      %d = arith.mulf %a, %b : f32
      %e = affine.load %y[%m, %h, %v] : memref<5x4x4xf32>
      %g = arith.addf %e, %d : f32
      affine.store %g, %y[%m, %h, %v] : memref<5x4x4xf32> } } } } } }
      return }
    """,
    "blocked_and_divided_indices": """
      func.func @main(%A: memref<24xf32>, %y: memref<24xf32>) {
      affine.for %i = 0 to 6 { affine.for %j = 0 to 4 {
      %a = affine.load %A[%i * 4 + %j] : memref<24xf32>
      %b = affine.load %A[(%i * 4 + %j) floordiv 3] : memref<24xf32>
      %c = arith.subf %a, %b : f32
      affine.store %c, %y[%i * 4 + %j] : memref<24xf32> } }
      return }
    """,
    "a_window_without_weights": """
      func.func @main(%A: memref<9xf32>, %y: memref<4xf32>) {
      affine.for %i = 0 to 4 { affine.for %j = 0 to 3 {
      %a = affine.load %A[%i * 2 + %j] : memref<9xf32>
      %b = affine.load %y[%i] : memref<4xf32>
      %c = arith.maximumf %a, %b : f32
      affine.store %c, %y[%i] : memref<4xf32> } }
      return }
    """,
    "a_condition_on_the_loop": """
      func.func @main(%A: memref<9xf32>, %y: memref<9xf32>) {
      affine.for %i = 0 to 9 { affine.if affine_set<(d0): (d0 - 3 >= 0)>(%i) {
      %a = affine.load %A[%i - 3] : memref<9xf32>
      affine.store %a, %y[%i] : memref<9xf32> } else {
      %a = affine.load %A[%i] : memref<9xf32>
      affine.store %a, %y[%i] : memref<9xf32> } }
      return }
    """,
    "a_condition_outside_of_loops": """
      func.func @main(%A: memref<9xf32>) {
      %c = arith.constant 4 : index
      %one = arith.constant 1.0 : f32
      affine.if affine_set<(d0) : (d0 - 3 >= 0)>(%c) {
      affine.store %one, %A[0] : memref<9xf32>
      affine.store %one, %A[2] : memref<9xf32> } else {
      affine.store %one, %A[1] : memref<9xf32> }
      return }
    """,
    "a_triangular_solver": """
      func.func @main(%L: memref<6x6xf32>, %b: memref<6xf32>, %x: memref<6xf32>) {
      affine.for %i = 0 to 6 {
      %0 = affine.load %b[%i] : memref<6xf32>
      affine.store %0, %x[%i] : memref<6xf32>
      affine.for %j = 0 to affine_map<(d0)->(d0)>(%i) {
      %1 = affine.load %L[%i, %j] : memref<6x6xf32>
      %2 = affine.load %x[%j] : memref<6xf32>
      %3 = arith.mulf %1, %2 : f32
      %4 = affine.load %x[%i] : memref<6xf32>
      %5 = arith.subf %4, %3 : f32
      affine.store %5, %x[%i] : memref<6xf32> }
      %6 = affine.load %x[%i] : memref<6xf32>
      %7 = affine.load %L[%i, %i] : memref<6x6xf32>
      %8 = arith.divf %6, %7 : f32
      affine.store %8, %x[%i] : memref<6xf32> }
      return }
    """,
}


def random_inputs(function: ir.OpView) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [
        random.standard_normal(type_.shape).astype(np.float32)
        if isinstance(type_.element_type, ir.F32Type)
        else random.integers(0, 8, type_.shape).astype(np.int32)
        for type_ in function.type.inputs
    ]


@pytest.mark.parametrize("text", NESTS.values(), ids=NESTS.keys())
def test_raised_nest_computes_the_same(text: str) -> None:
    with ir.Context(), ir.Location.unknown():
        before, after = ir.Module.parse(text), ir.Module.parse(text)
        RaiseAffineToLinalgPass().run(after)
        assert "affine." not in str(after)
        inputs = random_inputs(before.body.operations[0])
        expected, found = jit_run(before, inputs), jit_run(after, inputs)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_says_what_it_did_and_which_loops_stay() -> None:
    text = """func.func @main(%A: memref<8xf32>) {
      affine.for %i = 1 to 8 {
        %0 = affine.load %A[%i - 1] : memref<8xf32>
        affine.store %0, %A[%i] : memref<8xf32>
      }
      return
    }"""
    with ir.Context(), ir.Location.unknown():
        raising = RaiseAffineToLinalgPass()
        raising.run(ir.Module.parse(text))
    assert raising.statistics == {"loops kept": 1, "nests raised": 1, "statements raised": 1}
    assert [remark.text for remark in raising.remarks] == [
        "loop i stays: it carries a flow dependence of 'copy' on 'copy' through arg0"
    ]
