// RUN: %polystage-opt %s --split-input-file --fold-batch-norm --canonicalize | filecheck %s
// RUN: %polystage-opt %s --split-input-file --fold-batch-norm --remarks 2>&1 >/dev/null | filecheck %s --check-prefix=REMARK

/// (x * w) * s + b: the scale goes into the columns of the weights, the shift stays.

// REMARK: remark: fold-batch-norm: folded 2 scales and shifts into the weights
// CHECK-LABEL: @into_weights
// CHECK-DAG: %[[W:.*]] = arith.constant dense<{{\[\[}}1.000000e+01, 4.000000e+01], [3.000000e+01, 8.000000e+01]]>
// CHECK-DAG: %[[B:.*]] = arith.constant dense<[5.000000e+00, 6.000000e+00]>
// CHECK: %[[ZERO:.*]] = linalg.fill
// CHECK: %[[PRODUCT:.*]] = linalg.generic {{.*}} ins(%arg0, %[[W]] : {{.*}}) outs(%[[ZERO]]
// CHECK: linalg.generic {{.*}} ins(%[[PRODUCT]], %[[B]]
// CHECK-NOT: arith.mulf
// CHECK: arith.addf
#id = affine_map<(m, n) -> (m, n)>
#row = affine_map<(m, n) -> (n)>
#mk = affine_map<(m, n, k) -> (m, k)>
#kn = affine_map<(m, n, k) -> (k, n)>
#mn = affine_map<(m, n, k) -> (m, n)>
func.func @into_weights(%x: tensor<3x2xf32>) -> tensor<3x2xf32> {
  %w = arith.constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
  %s = arith.constant dense<[10.0, 20.0]> : tensor<2xf32>
  %b = arith.constant dense<[5.0, 6.0]> : tensor<2xf32>
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<3x2xf32>
  %init = linalg.fill ins(%zero : f32) outs(%e : tensor<3x2xf32>) -> tensor<3x2xf32>
  %p = linalg.generic {indexing_maps = [#mk, #kn, #mn], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<3x2xf32>, tensor<2x2xf32>) outs(%init : tensor<3x2xf32>) {
  ^bb0(%l: f32, %r: f32, %o: f32):
    %t = arith.mulf %l, %r : f32
    %u = arith.addf %o, %t : f32
    linalg.yield %u : f32
  } -> tensor<3x2xf32>
  %q = linalg.generic {indexing_maps = [#id, #row, #id], iterator_types = ["parallel", "parallel"]}
      ins(%p, %s : tensor<3x2xf32>, tensor<2xf32>) outs(%e : tensor<3x2xf32>) {
  ^bb0(%l: f32, %r: f32, %o: f32):
    %t = arith.mulf %l, %r : f32
    linalg.yield %t : f32
  } -> tensor<3x2xf32>
  %y = linalg.generic {indexing_maps = [#id, #row, #id], iterator_types = ["parallel", "parallel"]}
      ins(%q, %b : tensor<3x2xf32>, tensor<2xf32>) outs(%e : tensor<3x2xf32>) {
  ^bb0(%l: f32, %r: f32, %o: f32):
    %t = arith.addf %l, %r : f32
    linalg.yield %t : f32
  } -> tensor<3x2xf32>
  return %y : tensor<3x2xf32>
}

// -----

/// Without a contraction before it, (x - m) / d is one x * s + b.

// REMARK: remark: fold-batch-norm: folded 2 scales and shifts into one operation
// CHECK-LABEL: @into_one
// CHECK-DAG: %[[S:.*]] = arith.constant dense<[5.000000e-01, 2.500000e-01]>
// CHECK-DAG: %[[B:.*]] = arith.constant dense<[-2.000000e+00, -5.000000e-01]>
// CHECK-COUNT-1: linalg.generic {{.*}} ins(%arg0, %[[S]], %[[B]]
// CHECK: arith.mulf
// CHECK-NEXT: arith.addf
// CHECK-NOT: linalg.generic
#id = affine_map<(m, n) -> (m, n)>
#row = affine_map<(m, n) -> (n)>
func.func @into_one(%x: tensor<3x2xf32>) -> tensor<3x2xf32> {
  %m = arith.constant dense<[4.0, 2.0]> : tensor<2xf32>
  %d = arith.constant dense<[2.0, 4.0]> : tensor<2xf32>
  %e = tensor.empty() : tensor<3x2xf32>
  %q = linalg.generic {indexing_maps = [#id, #row, #id], iterator_types = ["parallel", "parallel"]}
      ins(%x, %m : tensor<3x2xf32>, tensor<2xf32>) outs(%e : tensor<3x2xf32>) {
  ^bb0(%l: f32, %r: f32, %o: f32):
    %t = arith.subf %l, %r : f32
    linalg.yield %t : f32
  } -> tensor<3x2xf32>
  %y = linalg.generic {indexing_maps = [#id, #row, #id], iterator_types = ["parallel", "parallel"]}
      ins(%q, %d : tensor<3x2xf32>, tensor<2xf32>) outs(%e : tensor<3x2xf32>) {
  ^bb0(%l: f32, %r: f32, %o: f32):
    %t = arith.divf %l, %r : f32
    linalg.yield %t : f32
  } -> tensor<3x2xf32>
  return %y : tensor<3x2xf32>
}

// -----

/// Two chains read what a third makes, which is another operation once that is rewritten.

// REMARK: remark: fold-batch-norm: folded 2 scales and shifts into one operation
// REMARK: remark: fold-batch-norm: folded 2 scales and shifts into one operation
// REMARK: remark: fold-batch-norm: folded 2 scales and shifts into one operation
// CHECK-LABEL: @read_by_two_chains
// CHECK: %[[FIRST:.*]] = linalg.generic {{.*}} ins(%arg0
// CHECK: %[[A:.*]] = linalg.generic {{.*}} ins(%[[FIRST]]
// CHECK: %[[B:.*]] = linalg.generic {{.*}} ins(%[[FIRST]]
// CHECK: return %[[A]], %[[B]]
#id = affine_map<(d) -> (d)>
func.func @read_by_two_chains(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %one = arith.constant 1.0 : f32
  %two = arith.constant 2.0 : f32
  %e = tensor.empty() : tensor<4xf32>
  %p = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%x : tensor<4xf32>) outs(%e : tensor<4xf32>) {
  ^bb0(%l: f32, %o: f32):
    %t = arith.mulf %l, %two : f32
    linalg.yield %t : f32
  } -> tensor<4xf32>
  %q = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%p : tensor<4xf32>) outs(%e : tensor<4xf32>) {
  ^bb0(%l: f32, %o: f32):
    %t = arith.addf %l, %one : f32
    linalg.yield %t : f32
  } -> tensor<4xf32>
  %r = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%q : tensor<4xf32>) outs(%e : tensor<4xf32>) {
  ^bb0(%l: f32, %o: f32):
    %t = arith.mulf %l, %two : f32
    linalg.yield %t : f32
  } -> tensor<4xf32>
  %s = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%r : tensor<4xf32>) outs(%e : tensor<4xf32>) {
  ^bb0(%l: f32, %o: f32):
    %t = arith.addf %l, %two : f32
    linalg.yield %t : f32
  } -> tensor<4xf32>
  %v = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%q : tensor<4xf32>) outs(%e : tensor<4xf32>) {
  ^bb0(%l: f32, %o: f32):
    %t = arith.addf %l, %one : f32
    linalg.yield %t : f32
  } -> tensor<4xf32>
  %u = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%v : tensor<4xf32>) outs(%e : tensor<4xf32>) {
  ^bb0(%l: f32, %o: f32):
    %t = arith.mulf %l, %two : f32
    linalg.yield %t : f32
  } -> tensor<4xf32>
  return %s, %u : tensor<4xf32>, tensor<4xf32>
}

// -----

/// A scale along the contracted dimension's partner, the rows, is none of the weights.

// REMARK-NOT: fold-batch-norm
// CHECK-LABEL: @no_scale_of_rows
// CHECK: arith.constant dense<{{\[\[}}1.000000e+00, 2.000000e+00], [3.000000e+00, 4.000000e+00]]>
// CHECK-COUNT-2: arith.mulf
#id = affine_map<(m, n) -> (m, n)>
#column = affine_map<(m, n) -> (m)>
#mk = affine_map<(m, n, k) -> (m, k)>
#kn = affine_map<(m, n, k) -> (k, n)>
#mn = affine_map<(m, n, k) -> (m, n)>
func.func @no_scale_of_rows(%x: tensor<3x2xf32>) -> tensor<3x2xf32> {
  %w = arith.constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
  %s = arith.constant dense<[10.0, 20.0, 30.0]> : tensor<3xf32>
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<3x2xf32>
  %init = linalg.fill ins(%zero : f32) outs(%e : tensor<3x2xf32>) -> tensor<3x2xf32>
  %p = linalg.generic {indexing_maps = [#mk, #kn, #mn], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<3x2xf32>, tensor<2x2xf32>) outs(%init : tensor<3x2xf32>) {
  ^bb0(%l: f32, %r: f32, %o: f32):
    %t = arith.mulf %l, %r : f32
    %u = arith.addf %o, %t : f32
    linalg.yield %u : f32
  } -> tensor<3x2xf32>
  %y = linalg.generic {indexing_maps = [#id, #column, #id], iterator_types = ["parallel", "parallel"]}
      ins(%p, %s : tensor<3x2xf32>, tensor<3xf32>) outs(%e : tensor<3x2xf32>) {
  ^bb0(%l: f32, %r: f32, %o: f32):
    %t = arith.mulf %l, %r : f32
    linalg.yield %t : f32
  } -> tensor<3x2xf32>
  return %y : tensor<3x2xf32>
}

// -----

/// A product that has another user keeps its weights.

// REMARK-NOT: fold-batch-norm
// CHECK-LABEL: @no_second_user
// CHECK-COUNT-2: arith.mulf
#id = affine_map<(m, n) -> (m, n)>
#mk = affine_map<(m, n, k) -> (m, k)>
#kn = affine_map<(m, n, k) -> (k, n)>
#mn = affine_map<(m, n, k) -> (m, n)>
func.func @no_second_user(%x: tensor<3x2xf32>) -> (tensor<3x2xf32>, tensor<3x2xf32>) {
  %w = arith.constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
  %two = arith.constant 2.0 : f32
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<3x2xf32>
  %init = linalg.fill ins(%zero : f32) outs(%e : tensor<3x2xf32>) -> tensor<3x2xf32>
  %p = linalg.generic {indexing_maps = [#mk, #kn, #mn], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : tensor<3x2xf32>, tensor<2x2xf32>) outs(%init : tensor<3x2xf32>) {
  ^bb0(%l: f32, %r: f32, %o: f32):
    %t = arith.mulf %l, %r : f32
    %u = arith.addf %o, %t : f32
    linalg.yield %u : f32
  } -> tensor<3x2xf32>
  %y = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%p : tensor<3x2xf32>) outs(%e : tensor<3x2xf32>) {
  ^bb0(%l: f32, %o: f32):
    %t = arith.mulf %l, %two : f32
    linalg.yield %t : f32
  } -> tensor<3x2xf32>
  return %p, %y : tensor<3x2xf32>, tensor<3x2xf32>
}
