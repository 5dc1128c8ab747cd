// RUN: %polystage-opt %s --split-input-file --separate-biases --canonicalize | filecheck %s

/// The bias that a contraction accumulates onto is added afterwards.

// CHECK-LABEL: @bias
// CHECK: %[[ZERO:.*]] = linalg.generic
// CHECK: linalg.yield %cst
// CHECK: %[[PRODUCT:.*]] = linalg.generic {{.*}} ins(%arg0, %arg1 : {{.*}}) outs(%[[ZERO]]
// CHECK: linalg.generic {{.*}} ins(%[[PRODUCT]], %arg2
// CHECK: arith.addf
func.func @bias(%a: tensor<4x8xf32>, %b: tensor<8x6xf32>, %bias: tensor<6xf32>) -> tensor<4x6xf32> {
  %empty = tensor.empty() : tensor<4x6xf32>
  %init = linalg.broadcast ins(%bias : tensor<6xf32>) outs(%empty : tensor<4x6xf32>) dimensions = [0]
  %wide = linalg.generic {
      indexing_maps = [affine_map<(d0, d1) -> (d1)>, affine_map<(d0, d1) -> (d0, d1)>],
      iterator_types = ["parallel", "parallel"]
    } ins(%bias : tensor<6xf32>) outs(%empty : tensor<4x6xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  } -> tensor<4x6xf32>
  %c = linalg.generic {
      indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
      iterator_types = ["parallel", "parallel", "reduction"]
    } ins(%a, %b : tensor<4x8xf32>, tensor<8x6xf32>) outs(%wide : tensor<4x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  } -> tensor<4x6xf32>
  return %c : tensor<4x6xf32>
}

// -----

/// Onto anything else it keeps accumulating.

// CHECK-LABEL: @no_other_init
// CHECK-COUNT-1: linalg.generic
// CHECK-NOT: linalg.generic
func.func @no_other_init(%a: tensor<4x8xf32>, %b: tensor<8x6xf32>, %c: tensor<4x6xf32>) -> tensor<4x6xf32> {
  %r = linalg.generic {
      indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
      iterator_types = ["parallel", "parallel", "reduction"]
    } ins(%a, %b : tensor<4x8xf32>, tensor<8x6xf32>) outs(%c : tensor<4x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  } -> tensor<4x6xf32>
  return %r : tensor<4x6xf32>
}
