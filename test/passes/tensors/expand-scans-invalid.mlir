// RUN: %polystage-opt %s --allow-unregistered-dialect --expand-scans --verify-diagnostics

/// Only sums are contractions.

func.func @invalid_product(%x: tensor<2xf32>, %init: tensor<2xf32>, %last: tensor<f32>) -> tensor<2xf32> {
  // expected-error@+1 {{expand-scans: only sums can be accumulated, found 'arith.mulf'}}
  %sum, %end = "tm_tensor.scan"(%x, %init, %last) ({
  ^bb0(%a: f32, %b: f32):
    %s = arith.mulf %a, %b : f32
    "tm_tensor.yield"(%s) : (f32) -> ()
  }) {dimension = 0 : i64, inclusive = true, operandSegmentSizes = array<i32: 1, 2>}
    : (tensor<2xf32>, tensor<2xf32>, tensor<f32>) -> (tensor<2xf32>, tensor<f32>)
  return %sum : tensor<2xf32>
}
