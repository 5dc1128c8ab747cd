// RUN: %polystage-opt %s --split-input-file --separate-fills | filecheck %s

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

// -----

/// A uniform constant to accumulate onto is a fill; one that is only read stays.

// CHECK-LABEL: @uniform_constant
// CHECK-DAG: %[[HALF:.*]] = arith.constant 5.000000e-01 : f32
// CHECK-DAG: %[[READ:.*]] = arith.constant dense<2.000000e+00> : tensor<4x8xf32>
// CHECK: %[[FILL:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<4xf32>)
// CHECK: linalg.yield %[[HALF]]
// CHECK: linalg.generic {{.*}} ins(%[[READ]] : {{.*}}) outs(%[[FILL]]
func.func @uniform_constant() -> tensor<4xf32> {
  %x = arith.constant dense<2.0> : tensor<4x8xf32>
  %init = arith.constant dense<0.5> : tensor<4xf32>
  %r = linalg.generic {
      indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0)>],
      iterator_types = ["parallel", "reduction"]
    } ins(%x : tensor<4x8xf32>) outs(%init : tensor<4xf32>) {
  ^bb0(%a: f32, %b: f32):
    %s = arith.addf %a, %b : f32
    linalg.yield %s : f32
  } -> tensor<4xf32>
  return %r : tensor<4xf32>
}
