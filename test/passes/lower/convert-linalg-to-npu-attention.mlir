// RUN: %polystage-opt --split-input-file --npu-attach-target="target=flat set=scratchpad_bytes=4096" --npu-fuse-operators --convert-linalg-to-npu %s | filecheck %s

/// Attention becomes one pass over the keys: tiles of keys and values come by while a tile of queries stays. Scores never leave the chip.

#rows = affine_map<(q, k) -> (q)>
#tile = affine_map<(q, k) -> (q, k)>

// CHECK-LABEL: func.func @attention
func.func @attention(%q: memref<64x16xf32>, %k: memref<64x16xf32>, %v: memref<64x16xf32>) -> memref<64x16xf32> {
  %zero = arith.constant 0.0 : f32
  %lowest = arith.constant 0xFF800000 : f32
  %scores = memref.alloc() : memref<64x64xf32>
  %maximum = memref.alloc() : memref<64xf32>
  %weights = memref.alloc() : memref<64x64xf32>
  %sum = memref.alloc() : memref<64xf32>
  %normal = memref.alloc() : memref<64x64xf32>
  %out = memref.alloc() : memref<64x16xf32>
  linalg.generic {indexing_maps = [#tile], iterator_types = ["parallel", "parallel"]} outs(%scores : memref<64x64xf32>) {
  ^bb0(%o: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [affine_map<(q, k, d) -> (q, d)>, affine_map<(q, k, d) -> (k, d)>, affine_map<(q, k, d) -> (q, k)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%q, %k : memref<64x16xf32>, memref<64x16xf32>) outs(%scores : memref<64x64xf32>) {
  ^bb0(%x: f32, %y: f32, %o: f32):
    %p = arith.mulf %x, %y : f32
    %r = arith.addf %o, %p : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [affine_map<(q) -> (q)>], iterator_types = ["parallel"]} outs(%maximum : memref<64xf32>) {
  ^bb0(%o: f32):
    linalg.yield %lowest : f32
  }
  linalg.generic {indexing_maps = [#tile, #rows], iterator_types = ["parallel", "reduction"]}
    ins(%scores : memref<64x64xf32>) outs(%maximum : memref<64xf32>) {
  ^bb0(%x: f32, %o: f32):
    %r = arith.maximumf %x, %o : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [#tile, #rows, #tile], iterator_types = ["parallel", "parallel"]}
    ins(%scores, %maximum : memref<64x64xf32>, memref<64xf32>) outs(%weights : memref<64x64xf32>) {
  ^bb0(%x: f32, %m: f32, %o: f32):
    %d = arith.subf %x, %m : f32
    %r = math.exp %d : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [affine_map<(q) -> (q)>], iterator_types = ["parallel"]} outs(%sum : memref<64xf32>) {
  ^bb0(%o: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#tile, #rows], iterator_types = ["parallel", "reduction"]}
    ins(%weights : memref<64x64xf32>) outs(%sum : memref<64xf32>) {
  ^bb0(%x: f32, %o: f32):
    %r = arith.addf %x, %o : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [#tile, #rows, #tile], iterator_types = ["parallel", "parallel"]}
    ins(%weights, %sum : memref<64x64xf32>, memref<64xf32>) outs(%normal : memref<64x64xf32>) {
  ^bb0(%x: f32, %l: f32, %o: f32):
    %r = arith.divf %x, %l : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [#tile], iterator_types = ["parallel", "parallel"]} outs(%out : memref<64x16xf32>) {
  ^bb0(%o: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [affine_map<(q, v, k) -> (q, k)>, affine_map<(q, v, k) -> (k, v)>, affine_map<(q, v, k) -> (q, v)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%normal, %v : memref<64x64xf32>, memref<64x16xf32>) outs(%out : memref<64x16xf32>) {
  ^bb0(%x: f32, %y: f32, %o: f32):
    %p = arith.mulf %x, %y : f32
    %r = arith.addf %o, %p : f32
    linalg.yield %r : f32
  } loc("mix")
  return %out : memref<64x16xf32>
}

/// The first tile of keys sets maximum, sum and result; those after it shrink what is there before they add.

// CHECK: scf.for
// CHECK: "npu.dma"({{.*}}) {cause = "input"
// CHECK: "npu.matmul"({{.*}}, %false)
// CHECK: "npu.memset"({{.*}}) {{.*}}value = -3.40282347E+38
// CHECK: "npu.reduce"({{.*}}) {{.*}}function = @max
// CHECK-NOT: function = @shrink
// CHECK: "npu.elementwise"({{.*}}) {{.*}}function = @weight
// CHECK: "npu.reduce"({{.*}}) {{.*}}function = @add
// CHECK: "npu.matmul"({{.*}}, %false)
// CHECK: scf.for
// CHECK: "npu.activate"({{.*}}) {{.*}}function = "identity"
// CHECK: "npu.elementwise"({{.*}}) {{.*}}function = @factor
// CHECK: "npu.elementwise"({{.*}}) {{.*}}function = @shrink
// CHECK: "npu.matmul"({{.*}}, %true)
// CHECK: "npu.elementwise"({{.*}}) {{.*}}function = @divide
// CHECK: "npu.dma"({{.*}}) {cause = "output"
// CHECK-NOT: cause = "intermediate"
