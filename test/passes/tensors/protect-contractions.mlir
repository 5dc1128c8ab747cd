// RUN: %polystage-opt %s --split-input-file --protect-contractions --linalg-fuse-elementwise-ops --drop-copies --canonicalize | filecheck %s
// RUN: %polystage-opt %s --split-input-file --protect-contractions --remarks 2>&1 >/dev/null | filecheck %s --check-prefix=REMARK

/// The ReLU before a matmul stays out of it, the two after it become one.

// REMARK: remark: protect-contractions: not fused: a contraction
// CHECK-LABEL: @contraction
// CHECK: linalg.generic
// CHECK: arith.maximumf
// CHECK: linalg.generic
// CHECK: ^bb0
// CHECK-NEXT: arith.mulf
// CHECK-NEXT: arith.addf
// CHECK-NEXT: linalg.yield
// CHECK: linalg.generic
// CHECK: arith.maximumf
// CHECK: arith.negf
// CHECK-NOT: linalg.generic
#id = affine_map<(m, n) -> (m, n)>
func.func @contraction(%x: tensor<4x8xf32>, %w: tensor<8x4xf32>, %init: tensor<4x4xf32>) -> tensor<4x4xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4x8xf32>
  %f = tensor.empty() : tensor<4x4xf32>
  %a = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<4x8xf32>) outs(%e : tensor<4x8xf32>) {
  ^bb0(%p: f32, %q: f32):
    %r = arith.maximumf %p, %zero : f32
    linalg.yield %r : f32
  } -> tensor<4x8xf32>
  %b = linalg.generic {
      indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
      iterator_types = ["parallel", "parallel", "reduction"]
    } ins(%a, %w : tensor<4x8xf32>, tensor<8x4xf32>) outs(%init : tensor<4x4xf32>) {
  ^bb0(%p: f32, %q: f32, %s: f32):
    %t = arith.mulf %p, %q : f32
    %r = arith.addf %s, %t : f32
    linalg.yield %r : f32
  } -> tensor<4x4xf32>
  %c = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%b : tensor<4x4xf32>) outs(%f : tensor<4x4xf32>) {
  ^bb0(%p: f32, %q: f32):
    %r = arith.maximumf %p, %zero : f32
    linalg.yield %r : f32
  } -> tensor<4x4xf32>
  %d = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%c : tensor<4x4xf32>) outs(%f : tensor<4x4xf32>) {
  ^bb0(%p: f32, %q: f32):
    %r = arith.negf %p : f32
    linalg.yield %r : f32
  } -> tensor<4x4xf32>
  return %d : tensor<4x4xf32>
}

// -----

/// Nothing is fused into a window, where it would be repeated for every tap.

// REMARK: remark: protect-contractions: not fused: a window
// CHECK-LABEL: @window
// CHECK-COUNT-2: linalg.generic
func.func @window(%x: tensor<9xf32>, %init: tensor<7xf32>) -> tensor<7xf32> {
  %e = tensor.empty() : tensor<9xf32>
  %w = tensor.empty() : tensor<3xf32>
  %a = linalg.generic {
      indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]
    } ins(%x : tensor<9xf32>) outs(%e : tensor<9xf32>) {
  ^bb0(%p: f32, %q: f32):
    %r = arith.negf %p : f32
    linalg.yield %r : f32
  } -> tensor<9xf32>
  %b = linalg.generic {
      indexing_maps = [affine_map<(d0, d1) -> (d0 + d1)>, affine_map<(d0, d1) -> (d1)>, affine_map<(d0, d1) -> (d0)>],
      iterator_types = ["parallel", "reduction"]
    } ins(%a, %w : tensor<9xf32>, tensor<3xf32>) outs(%init : tensor<7xf32>) {
  ^bb0(%p: f32, %q: f32, %s: f32):
    %r = arith.maximumf %s, %p : f32
    linalg.yield %r : f32
  } -> tensor<7xf32>
  return %b : tensor<7xf32>
}

// -----

/// A plain reduction takes its producer in.

// REMARK-NOT: protect-contractions
// CHECK-LABEL: @no_reduction
// CHECK-COUNT-1: linalg.generic
// CHECK: arith.mulf
// CHECK-NEXT: arith.addf
// CHECK-NOT: linalg.generic
func.func @no_reduction(%x: tensor<4x8xf32>, %init: tensor<4xf32>) -> tensor<4xf32> {
  %e = tensor.empty() : tensor<4x8xf32>
  %a = linalg.generic {
      indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]
    } ins(%x : tensor<4x8xf32>) outs(%e : tensor<4x8xf32>) {
  ^bb0(%p: f32, %q: f32):
    %r = arith.mulf %p, %p : f32
    linalg.yield %r : f32
  } -> tensor<4x8xf32>
  %b = linalg.generic {
      indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m)>], iterator_types = ["parallel", "reduction"]
    } ins(%a : tensor<4x8xf32>) outs(%init : tensor<4xf32>) {
  ^bb0(%p: f32, %s: f32):
    %r = arith.addf %p, %s : f32
    linalg.yield %r : f32
  } -> tensor<4xf32>
  return %b : tensor<4xf32>
}
