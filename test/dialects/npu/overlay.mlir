// RUN: %polystage-opt --check-semantics --canonicalize --cse %s | filecheck %s

/// Overlays are views to upstream's passes: those that nothing reads vanish, equal ones are merged,
/// and what the module computes stays the same, as its execution after each pass tells.

#id = affine_map<(d0, d1) -> (d0, d1)>

// CHECK-LABEL: func.func @main
// CHECK-NEXT: %[[P:.*]] = "npu.overlay"(%arg0) {fill = 1.000000e+00 : f32
// CHECK-NEXT: linalg.generic {{.*}} ins(%[[P]], %[[P]] :
func.func @main(%a: memref<2x3xf32>, %o: memref<4x6xf32>) {
  %p = "npu.overlay"(%a) {fill = 1.0 : f32, offsets = array<i64: 1, 0>} : (memref<2x3xf32>) -> memref<4x6xf32>
  %q = "npu.overlay"(%a) {fill = 1.0 : f32, offsets = array<i64: 1, 0>} : (memref<2x3xf32>) -> memref<4x6xf32>
  %dead = "npu.overlay"(%a, %q) {offsets = array<i64: 0, 2>} : (memref<2x3xf32>, memref<4x6xf32>) -> memref<4x6xf32>
  linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]} ins(%p, %q : memref<4x6xf32>, memref<4x6xf32>) outs(%o : memref<4x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %s = arith.addf %x, %y : f32
    linalg.yield %s : f32
  }
  return
}
