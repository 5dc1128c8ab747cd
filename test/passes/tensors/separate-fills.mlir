// RUN: %polystage-opt %s --separate-fills | filecheck %s

/// Two users of one fill get two fills into two empty tensors.

// CHECK-LABEL: @shared
// CHECK-COUNT-2: linalg.fill ins(%cst : f32) outs(%{{[0-9]+}} : tensor<4xf32>)
// CHECK: return %{{[0-9]+}}, %{{[0-9]+}}
func.func @shared() -> (tensor<4xf32>, tensor<4xf32>) {
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<4xf32>
  %f = linalg.fill ins(%zero : f32) outs(%empty : tensor<4xf32>) -> tensor<4xf32>
  return %f, %f : tensor<4xf32>, tensor<4xf32>
}

/// Anything else with several users is computed once.

// CHECK-LABEL: @no_transpose
// CHECK-COUNT-1: linalg.transpose
// CHECK-NOT: linalg.transpose
func.func @no_transpose(%x: tensor<4x4xf32>) -> (tensor<4x4xf32>, tensor<4x4xf32>) {
  %empty = tensor.empty() : tensor<4x4xf32>
  %t = linalg.transpose ins(%x : tensor<4x4xf32>) outs(%empty : tensor<4x4xf32>) permutation = [1, 0]
  return %t, %t : tensor<4x4xf32>, tensor<4x4xf32>
}
