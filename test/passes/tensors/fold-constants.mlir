// RUN: %polystage-opt %s --split-input-file --fold-constants --canonicalize | filecheck %s
// RUN: %polystage-opt %s --split-input-file --fold-constants --mlir-pass-statistics 2>&1 >/dev/null | filecheck %s --check-prefix=STATISTICS

// STATISTICS: operations folded

/// A transposed weight becomes a weight.

// CHECK-LABEL: @transposed_weight
// CHECK: %[[W:.*]] = arith.constant dense<{{\[\[}}1.000000e+00, 3.000000e+00], [2.000000e+00, 4.000000e+00]]>
// CHECK: return %[[W]]
func.func @transposed_weight() -> tensor<2x2xf32> {
  %w = arith.constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
  %empty = tensor.empty() : tensor<2x2xf32>
  %t = linalg.transpose ins(%w : tensor<2x2xf32>) outs(%empty : tensor<2x2xf32>) permutation = [1, 0]
  return %t : tensor<2x2xf32>
}

// -----

/// Masks from positions, through several operations; only the last becomes a constant.

// CHECK-LABEL: @causal_mask
// CHECK: %[[MASK:.*]] = arith.constant dense<{{\[\[}}true, false], [true, true]]> : tensor<2x2xi1>
// CHECK-NOT: linalg
// CHECK: return %[[MASK]]
func.func @causal_mask() -> tensor<2x2xi1> {
  %rows = tensor.empty() : tensor<2xindex>
  %count = linalg.generic {
      indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]
    } outs(%rows : tensor<2xindex>) {
  ^bb0(%o: index):
    %i = linalg.index 0 : index
    linalg.yield %i : index
  } -> tensor<2xindex>
  %empty = tensor.empty() : tensor<2x2xi1>
  %mask = linalg.generic {
      indexing_maps = [affine_map<(d0, d1) -> (d0)>, affine_map<(d0, d1) -> (d1)>, affine_map<(d0, d1) -> (d0, d1)>],
      iterator_types = ["parallel", "parallel"]
    } ins(%count, %count : tensor<2xindex>, tensor<2xindex>) outs(%empty : tensor<2x2xi1>) {
  ^bb0(%i: index, %j: index, %o: i1):
    %seen = arith.cmpi sge, %i, %j : index
    linalg.yield %seen : i1
  } -> tensor<2x2xi1>
  return %mask : tensor<2x2xi1>
}

// -----

/// Scalars that are read from constants are known, too.

// CHECK-LABEL: @scalar
// CHECK: %[[C:.*]] = arith.constant 7 : i64
// CHECK: return %[[C]]
func.func @scalar() -> i64 {
  %table = arith.constant dense<[5, 7]> : tensor<2xi64>
  %one = arith.constant 1 : index
  %x = tensor.extract %table[%one] : tensor<2xi64>
  return %x : i64
}

// -----

/// A fill or broadcast is cheaper to compute than to store.

// CHECK-LABEL: @no_fill
// CHECK: linalg.fill
// CHECK: linalg.broadcast
func.func @no_fill() -> (tensor<64x64xf32>, tensor<64x64xf32>) {
  %zero = arith.constant 0.0 : f32
  %bias = arith.constant dense<[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> : tensor<64xf32>
  %empty = tensor.empty() : tensor<64x64xf32>
  %f = linalg.fill ins(%zero : f32) outs(%empty : tensor<64x64xf32>) -> tensor<64x64xf32>
  %b = linalg.broadcast ins(%bias : tensor<64xf32>) outs(%empty : tensor<64x64xf32>) dimensions = [0]
  return %f, %b : tensor<64x64xf32>, tensor<64x64xf32>
}

// -----

/// What depends on an argument is not constant.

// CHECK-LABEL: @no_argument
// CHECK: linalg.transpose
func.func @no_argument(%w: tensor<2x2xf32>) -> tensor<2x2xf32> {
  %empty = tensor.empty() : tensor<2x2xf32>
  %t = linalg.transpose ins(%w : tensor<2x2xf32>) outs(%empty : tensor<2x2xf32>) permutation = [1, 0]
  return %t : tensor<2x2xf32>
}

// -----

/// But indices are known, unless something accumulates into them.

// CHECK-LABEL: @indices
// CHECK-DAG: arith.constant dense<{{\[\[}}2, 2], [0, 0], [1, 1]]> : tensor<3x2xi64>
// CHECK-DAG: %[[FILL:.*]] = linalg.fill
// CHECK: linalg.generic {{.*}} outs(%[[FILL]] : tensor<3x2xi64>)
func.func @indices(%x: tensor<3x2xf32>, %y: tensor<3x2xi64>) -> (tensor<3x2xf32>, tensor<3x2xi64>) {
  %zero = arith.constant 0 : i64
  %rows = arith.constant dense<[2, 0, 1]> : tensor<3xi64>
  %empty = tensor.empty() : tensor<3x2xi64>
  %b = linalg.broadcast ins(%rows : tensor<3xi64>) outs(%empty : tensor<3x2xi64>) dimensions = [1]
  %out = tensor.empty() : tensor<3x2xf32>
  %g = linalg.generic {
      indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0, d1)>],
      iterator_types = ["parallel", "parallel"]
    } ins(%b : tensor<3x2xi64>) outs(%out : tensor<3x2xf32>) {
  ^bb0(%i: i64, %o: f32):
    %row = arith.index_cast %i : i64 to index
    %column = linalg.index 1 : index
    %e = tensor.extract %x[%row, %column] : tensor<3x2xf32>
    linalg.yield %e : f32
  } -> tensor<3x2xf32>
  %f = linalg.fill ins(%zero : i64) outs(%empty : tensor<3x2xi64>) -> tensor<3x2xi64>
  %s = linalg.generic {
      indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0, d1)>],
      iterator_types = ["parallel", "parallel"]
    } ins(%y : tensor<3x2xi64>) outs(%f : tensor<3x2xi64>) {
  ^bb0(%i: i64, %o: i64):
    %a = arith.addi %i, %o : i64
    linalg.yield %a : i64
  } -> tensor<3x2xi64>
  return %g, %s : tensor<3x2xf32>, tensor<3x2xi64>
}
