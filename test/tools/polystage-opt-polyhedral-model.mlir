/// The polyhedral model of the result, readable, instead of the IR.

// RUN: %polystage-opt %s --print-polyhedral-model | filecheck %s

// CHECK: program @main
// CHECK: arg0 f32[8, 4] input
// CHECK: arg1 f32[4, 8] output
// CHECK: domain d0 < 4, d1 < 8
// CHECK-NEXT: read arg0[d1, d0]
// CHECK-NEXT: write arg1[d0, d1]
func.func @main(%a: memref<8x4xf32>, %out: memref<4x8xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (j, i)>, affine_map<(i, j) -> (i, j)>],
    iterator_types = ["parallel", "parallel"]
  } ins(%a : memref<8x4xf32>) outs(%out : memref<4x8xf32>) {
  ^bb0(%x: f32, %y: f32):
    linalg.yield %x : f32
  }
  return
}
