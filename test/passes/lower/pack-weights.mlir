// RUN: %polystage-opt --npu-attach-target=target=neuroncore_v2 --npu-pack-weights --mlir-pass-statistics %s 2>%t.statistics | filecheck %s
// RUN: filecheck --check-prefix=STATISTICS %s < %t.statistics

// STATISTICS: weights packed

/// A filter [co, ci, kh, kw] becomes [ci, kh, kw, co]: all that one partition holds is contiguous. (Here kh
/// is 1 and leads, which changes nothing.)

// CHECK: #[[FILTER:.*]] = affine_map<(d0, d1, d2, d3, d4, d5, d6) -> (d5, d4, d6, d1)>
// CHECK: memref.global "private" constant @filter_packed : memref<1x2x2x3xf32>
// CHECK-SAME: dense<{{\[\[\[\[}}1.000000e+00, 5.000000e+00, 9.000000e+00], [2.000000e+00, 6.000000e+00, 1.000000e+01]
memref.global "private" constant @filter : memref<3x2x1x2xf32> = dense<[[[[1., 2.]], [[3., 4.]]], [[[5., 6.]], [[7., 8.]]], [[[9., 10.]], [[11., 12.]]]]>

// CHECK-LABEL: func.func @conv
func.func @conv(%x: memref<1x2x5x6xf32>, %y: memref<1x3x5x5xf32>) {
  %w = memref.get_global @filter : memref<3x2x1x2xf32>
  // CHECK: memref.get_global @filter_packed
  linalg.generic {
    indexing_maps = [affine_map<(n, f, h, w, c, kh, kw) -> (n, c, h + kh, w + kw)>,
                     affine_map<(n, f, h, w, c, kh, kw) -> (f, c, kh, kw)>,
                     affine_map<(n, f, h, w, c, kh, kw) -> (n, f, h, w)>],
    iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]
  } ins(%x, %w : memref<1x2x5x6xf32>, memref<3x2x1x2xf32>) outs(%y : memref<1x3x5x5xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %m = arith.mulf %a, %b : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

/// An operand that is no constant stays as it is.

// CHECK-LABEL: func.func @no_argument
func.func @no_argument(%x: memref<4x8xf32>, %w: memref<6x8xf32>, %y: memref<4x6xf32>) {
  // CHECK: ins(%{{.*}}, %{{.*}} : memref<4x8xf32>, memref<6x8xf32>)
  linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]
  } ins(%x, %w : memref<4x8xf32>, memref<6x8xf32>) outs(%y : memref<4x6xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %m = arith.mulf %a, %b : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}
