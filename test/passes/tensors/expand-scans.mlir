// RUN: %polystage-opt %s --allow-unregistered-dialect --split-input-file --expand-scans | filecheck %s

/// A cumulative sum is a contraction with an upper triangle of ones.

// CHECK-LABEL: @cumulative_sum
// CHECK-DAG: dense<{{\[\[}}1.000000e+00, 1.000000e+00, 1.000000e+00], [0.000000e+00, 1.000000e+00, 1.000000e+00], [0.000000e+00, 0.000000e+00, 1.000000e+00]]>
// CHECK: iterator_types = ["parallel", "parallel", "reduction"]
// CHECK: arith.mulf
// CHECK-NEXT: arith.addf
// CHECK-NOT: tm_tensor.scan
func.func @cumulative_sum(%x: tensor<2x3xf32>, %init: tensor<2x3xf32>, %last: tensor<2xf32>) -> tensor<2x3xf32> {
  %sum, %end = "tm_tensor.scan"(%x, %init, %last) ({
  ^bb0(%a: f32, %b: f32):
    %s = arith.addf %a, %b : f32
    "tm_tensor.yield"(%s) : (f32) -> ()
  }) {dimension = 1 : i64, inclusive = true, operandSegmentSizes = array<i32: 1, 2>}
    : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> (tensor<2x3xf32>, tensor<2xf32>)
  return %sum : tensor<2x3xf32>
}

// -----

/// An exclusive one leaves the diagonal out.

// CHECK-LABEL: @exclusive
// CHECK-DAG: dense<{{\[\[}}0, 1], [0, 0]]> : tensor<2x2xi64>
// CHECK: arith.muli
func.func @exclusive(%x: tensor<2xi64>, %init: tensor<2xi64>, %last: tensor<i64>) -> tensor<2xi64> {
  %sum, %end = "tm_tensor.scan"(%x, %init, %last) ({
  ^bb0(%a: i64, %b: i64):
    %s = arith.addi %a, %b : i64
    "tm_tensor.yield"(%s) : (i64) -> ()
  }) {dimension = 0 : i64, inclusive = false, operandSegmentSizes = array<i32: 1, 2>}
    : (tensor<2xi64>, tensor<2xi64>, tensor<i64>) -> (tensor<2xi64>, tensor<i64>)
  return %sum : tensor<2xi64>
}
