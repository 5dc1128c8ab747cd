// RUN: %polystage-opt --poly-eliminate-copies --split-input-file %s | filecheck %s

/// A transpose in front of a computation: the computation reads the transposed place itself.
// CHECK-LABEL: @transpose
func.func @transpose(%x: memref<4x6xf32>, %y: memref<6x4xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: linalg.generic
  // CHECK-SAME: outs(%{{.*}} : memref<6x4xf32>)
  // CHECK: math.exp
  // CHECK-NOT: linalg.generic
  %t = memref.alloc() : memref<6x4xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (j, i)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%x : memref<4x6xf32>) outs(%t : memref<6x4xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  }
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%t : memref<6x4xf32>) outs(%y : memref<6x4xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  return
}
