// RUN: not %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu %s 2>&1 | filecheck %s

#id = affine_map<(m, n) -> (m, n)>

/// A group by hand whose second operation does not read what the first one wrote.

// CHECK: error: convert-linalg-to-npu: the operation shares its 'npu.group' with others, but an operation reads nothing that one before it wrote
// CHECK: help: remove 'npu.group' from them; npu-fuse-operators sets it where it can be
func.func @invalid_apart(%a: memref<6x7xf32>, %b: memref<6x7xf32>) -> (memref<6x7xf32>, memref<6x7xf32>) {
  %t = memref.alloc() : memref<6x7xf32>
  %r = memref.alloc() : memref<6x7xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
    ins(%a : memref<6x7xf32>) outs(%t : memref<6x7xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%x: f32, %old: f32):
    %v = arith.negf %x : f32
    linalg.yield %v : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
    ins(%b : memref<6x7xf32>) outs(%r : memref<6x7xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%x: f32, %old: f32):
    %v = arith.negf %x : f32
    linalg.yield %v : f32
  }
  return %t, %r : memref<6x7xf32>, memref<6x7xf32>
}
