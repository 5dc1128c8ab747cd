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

/// So is a bias that repeats along a dimension of extent 1.

// CHECK-LABEL: @one_row
// CHECK: linalg.yield %cst
// CHECK: %[[PRODUCT:.*]] = linalg.generic
// CHECK: linalg.generic {{.*}} ins(%[[PRODUCT]], %arg2
// CHECK: arith.addf
func.func @one_row(%a: tensor<1x8xf32>, %b: tensor<8x6xf32>, %bias: tensor<6xf32>) -> tensor<1x6xf32> {
  %empty = tensor.empty() : tensor<1x6xf32>
  %row = linalg.generic {
      indexing_maps = [affine_map<(d0, d1) -> (d1)>, affine_map<(d0, d1) -> (d0, d1)>],
      iterator_types = ["parallel", "parallel"]
    } ins(%bias : tensor<6xf32>) outs(%empty : tensor<1x6xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  } -> tensor<1x6xf32>
  %c = linalg.generic {
      indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
      iterator_types = ["parallel", "parallel", "reduction"]
    } ins(%a, %b : tensor<1x8xf32>, tensor<8x6xf32>) outs(%row : tensor<1x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  } -> tensor<1x6xf32>
  return %c : tensor<1x6xf32>
}

// -----

/// The bias of a convolution in groups is expanded like its broadcast.

// CHECK-LABEL: @bias_in_groups
// CHECK: %[[BIAS:.*]] = tensor.expand_shape %arg2 {{\[\[}}0, 1]] output_shape [2, 3] : tensor<6xf32> into tensor<2x3xf32>
// CHECK: linalg.yield %cst
// CHECK: %[[PRODUCT:.*]] = linalg.generic
// CHECK: linalg.generic {{.*}} ins(%[[PRODUCT]], %[[BIAS]]
// CHECK: arith.addf
func.func @bias_in_groups(%a: tensor<4x2x8xf32>, %b: tensor<2x8x3xf32>, %bias: tensor<6xf32>) -> tensor<4x2x3xf32> {
  %empty = tensor.empty() : tensor<4x6xf32>
  %wide = linalg.generic {
      indexing_maps = [affine_map<(d0, d1) -> (d1)>, affine_map<(d0, d1) -> (d0, d1)>],
      iterator_types = ["parallel", "parallel"]
    } ins(%bias : tensor<6xf32>) outs(%empty : tensor<4x6xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  } -> tensor<4x6xf32>
  %init = tensor.expand_shape %wide [[0], [1, 2]] output_shape [4, 2, 3] : tensor<4x6xf32> into tensor<4x2x3xf32>
  %c = linalg.generic {
      indexing_maps = [affine_map<(m, g, n, k) -> (m, g, k)>, affine_map<(m, g, n, k) -> (g, k, n)>, affine_map<(m, g, n, k) -> (m, g, n)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]
    } ins(%a, %b : tensor<4x2x8xf32>, tensor<2x8x3xf32>) outs(%init : tensor<4x2x3xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  } -> tensor<4x2x3xf32>
  return %c : tensor<4x2x3xf32>
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
