// RUN: not %polystage-opt --npu-attach-target='target=tiny set=sbuf.bytes_per_partition=64' --convert-linalg-to-npu %s 2>&1 | filecheck %s

/// Five operands of one element each, every buffer at a multiple of 16 bytes, are more than a partition of 64 bytes.

// CHECK: error: {{.*}}the smallest tile takes 80 bytes per partition, but 'tiny' has 64
// CHECK: help: use a target with more bytes per partition (--set sbuf.bytes_per_partition=..)
#id = affine_map<(i) -> (i)>
func.func @invalid_size(%a: memref<64xf32>, %b: memref<64xf32>, %c: memref<64xf32>, %d: memref<64xf32>, %e: memref<64xf32>) {
  linalg.generic {indexing_maps = [#id, #id, #id, #id, #id], iterator_types = ["parallel"]}
    ins(%a, %b, %c, %d : memref<64xf32>, memref<64xf32>, memref<64xf32>, memref<64xf32>) outs(%e : memref<64xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32, %w: f32, %out: f32):
    %0 = arith.addf %x, %y : f32
    %1 = arith.addf %0, %z : f32
    %2 = arith.addf %1, %w : f32
    %3 = arith.addf %2, %out : f32
    linalg.yield %3 : f32
  }
  return
}
