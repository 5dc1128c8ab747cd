// RUN: %polystage-opt --split-input-file --npu-attach-target="target=flat set=scratchpad_bytes=65536" --convert-linalg-to-npu %s | filecheck %s

/// A plan of one group: rows of the relu's input slide through a window of three rows, the padded taps of the first row are left out, and nothing between the two operators reaches DRAM.

// CHECK-LABEL: func.func @main
// CHECK: call @program(
// CHECK-LABEL: func.func private @program
// CHECK-SAME: npu.kernel
// CHECK: "npu.dma"({{.*}}) {cause = "input"
// CHECK: "npu.elementwise"({{.*}}function = @maximum
// CHECK: "npu.matmul"({{.*}}, %false) : (memref<1x16x32xf32, strided<[1, 3, 48], offset: 1>
// CHECK: "npu.matmul"({{.*}}, %true) : (memref<1x16x32xf32, strided<[1, 3, 48], offset: 2>
// CHECK: "npu.dma"({{.*}}) {cause = "output"
// CHECK: "npu.dma"({{.*}}) {cause = "input"} : (memref<1x16x8xf32
// CHECK: "npu.matmul"({{.*}}, %false) : (memref<1x48x32xf32, strided<[1, 1, 48]>
// CHECK-NOT: cause = "intermediate"
#image = affine_map<(c, h, w) -> (c, h, w)>
func.func @main(%x: memref<16x4x8xf32>, %weight: memref<32x16x3xf32>) -> memref<32x4x8xf32> attributes {
    npu.groups = [{loops = [[1, 1]], nests = [[], []], places = {arg0 = "window", arg1 = "whole", t = "window", t_1 = "window"}}]} {
  %zero = arith.constant 0.0 : f32
  %relu = memref.alloc() : memref<16x4x8xf32>
  %out = memref.alloc() : memref<32x4x8xf32>
  linalg.generic {indexing_maps = [#image, #image], iterator_types = ["parallel", "parallel", "parallel"]}
    ins(%x : memref<16x4x8xf32>) outs(%relu : memref<16x4x8xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%a: f32, %o: f32):
    %r = arith.maximumf %a, %zero : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [#image], iterator_types = ["parallel", "parallel", "parallel"]} outs(%out : memref<32x4x8xf32>) {
  ^bb0(%o: f32):
    linalg.yield %zero : f32
  }
  %padded = "npu.overlay"(%relu) {fill = 0.0 : f32, offsets = array<i64: 0, 1, 0>} : (memref<16x4x8xf32>) -> memref<16x6x8xf32>
  linalg.generic {indexing_maps = [affine_map<(m, h, w, c, k) -> (c, h + k, w)>, affine_map<(m, h, w, c, k) -> (m, c, k)>, affine_map<(m, h, w, c, k) -> (m, h, w)>],
                  iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction"]}
    ins(%padded, %weight : memref<16x6x8xf32>, memref<32x16x3xf32>) outs(%out : memref<32x4x8xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %p = arith.mulf %a, %b : f32
    %s = arith.addf %o, %p : f32
    linalg.yield %s : f32
  }
  return %out : memref<32x4x8xf32>
}
