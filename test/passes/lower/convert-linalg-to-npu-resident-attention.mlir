// RUN: %polystage-opt --pass-pipeline='builtin.module(npu-attach-target{target=neuroncore_v2},npu-fuse-operators,convert-linalg-to-npu)' %s | filecheck %s

/// Attention and what reads it run in one kernel. Scores leave psum once, scaled and negated; the softmax runs on what lies in sbuf; the
/// array transposes the weights, and the result, which lies as the next operator wants it. Nothing but operands and the output moves.

#rows = affine_map<(q, k) -> (q)>
#tile = affine_map<(q, k) -> (q, k)>

// CHECK-LABEL: func.func @main
// CHECK: call @resident_0
// CHECK-NOT: call
// CHECK-LABEL: func.func private @resident_0
// CHECK: "npu.activate"({{.*}}) {{.*}}function = "identity", {{.*}}scale = -1.000000e+00
// CHECK: "npu.reduce"({{.*}}) {{.*}}function = @fold_minimum_f32
// CHECK: "npu.activate"({{.*}}) {{.*}}function = "exp"
// CHECK: "npu.elementwise"({{.*}}) {{.*}}function = @copy_f32
// CHECK: "npu.elementwise"({{.*}}) {{.*}}function = @divide_f32
// CHECK: "npu.activate"({{.*}}) {{.*}}function = "relu"
// CHECK-NOT: cause = "intermediate"
func.func @main(%q: memref<128x64xf32>, %k: memref<128x64xf32>, %v: memref<128x64xf32>) -> memref<128x64xf32> {
  %zero = arith.constant 0.0 : f32
  %lowest = arith.constant 0xFF800000 : f32
  %scores = memref.alloc() : memref<128x128xf32>
  %maximum = memref.alloc() : memref<128xf32>
  %weights = memref.alloc() : memref<128x128xf32>
  %sum = memref.alloc() : memref<128xf32>
  %normal = memref.alloc() : memref<128x128xf32>
  %out = memref.alloc() : memref<128x64xf32>
  %positive = memref.alloc() : memref<128x64xf32>
  linalg.generic {indexing_maps = [#tile], iterator_types = ["parallel", "parallel"]} outs(%scores : memref<128x128xf32>) {
  ^bb0(%o: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [affine_map<(q, k, d) -> (q, d)>, affine_map<(q, k, d) -> (k, d)>, affine_map<(q, k, d) -> (q, k)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%q, %k : memref<128x64xf32>, memref<128x64xf32>) outs(%scores : memref<128x128xf32>) {
  ^bb0(%x: f32, %y: f32, %o: f32):
    %p = arith.mulf %x, %y : f32
    %r = arith.addf %o, %p : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [affine_map<(q) -> (q)>], iterator_types = ["parallel"]} outs(%maximum : memref<128xf32>) {
  ^bb0(%o: f32):
    linalg.yield %lowest : f32
  }
  linalg.generic {indexing_maps = [#tile, #rows], iterator_types = ["parallel", "reduction"]}
    ins(%scores : memref<128x128xf32>) outs(%maximum : memref<128xf32>) {
  ^bb0(%x: f32, %o: f32):
    %r = arith.maximumf %x, %o : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [#tile, #rows, #tile], iterator_types = ["parallel", "parallel"]}
    ins(%scores, %maximum : memref<128x128xf32>, memref<128xf32>) outs(%weights : memref<128x128xf32>) {
  ^bb0(%x: f32, %m: f32, %o: f32):
    %d = arith.subf %x, %m : f32
    %r = math.exp %d : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [affine_map<(q) -> (q)>], iterator_types = ["parallel"]} outs(%sum : memref<128xf32>) {
  ^bb0(%o: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#tile, #rows], iterator_types = ["parallel", "reduction"]}
    ins(%weights : memref<128x128xf32>) outs(%sum : memref<128xf32>) {
  ^bb0(%x: f32, %o: f32):
    %r = arith.addf %x, %o : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [#tile, #rows, #tile], iterator_types = ["parallel", "parallel"]}
    ins(%weights, %sum : memref<128x128xf32>, memref<128xf32>) outs(%normal : memref<128x128xf32>) {
  ^bb0(%x: f32, %l: f32, %o: f32):
    %r = arith.divf %x, %l : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [#tile], iterator_types = ["parallel", "parallel"]} outs(%out : memref<128x64xf32>) {
  ^bb0(%o: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [affine_map<(q, v, k) -> (q, k)>, affine_map<(q, v, k) -> (k, v)>, affine_map<(q, v, k) -> (q, v)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%normal, %v : memref<128x128xf32>, memref<128x64xf32>) outs(%out : memref<128x64xf32>) {
  ^bb0(%x: f32, %y: f32, %o: f32):
    %p = arith.mulf %x, %y : f32
    %r = arith.addf %o, %p : f32
    linalg.yield %r : f32
  } loc("mix")
  linalg.generic {indexing_maps = [#tile, #tile], iterator_types = ["parallel", "parallel"]} ins(%out : memref<128x64xf32>) outs(%positive : memref<128x64xf32>) {
  ^bb0(%x: f32, %o: f32):
    %r = arith.maximumf %x, %zero : f32
    linalg.yield %r : f32
  }
  return %positive : memref<128x64xf32>
}
