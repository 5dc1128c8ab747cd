// RUN: %polystage-opt %s --fold-constants=max-elements=16 | filecheck %s --check-prefix=KEPT
// RUN: %polystage-opt %s --fold-constants=max-elements=64 --canonicalize | filecheck %s --check-prefix=FOLDED

/// A constant may not be blown up beyond `max-elements`.

// KEPT: linalg.generic
// FOLDED: dense_resource
// FOLDED-NOT: linalg.generic
func.func @outer_sum() -> tensor<8x8xf32> {
  %w = arith.constant dense<[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> : tensor<8xf32>
  %empty = tensor.empty() : tensor<8x8xf32>
  %sum = linalg.generic {
      indexing_maps = [affine_map<(d0, d1) -> (d0)>, affine_map<(d0, d1) -> (d1)>, affine_map<(d0, d1) -> (d0, d1)>],
      iterator_types = ["parallel", "parallel"]
    } ins(%w, %w : tensor<8xf32>, tensor<8xf32>) outs(%empty : tensor<8x8xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %s = arith.addf %a, %b : f32
    linalg.yield %s : f32
  } -> tensor<8x8xf32>
  return %sum : tensor<8x8xf32>
}
