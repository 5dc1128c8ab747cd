// RUN: %polystage-opt --pass-pipeline='builtin.module(npu-attach-target{target=neuroncore_v2},npu-fuse-operators)' %s | filecheck --check-prefix=MARKS %s
// RUN: %polystage-opt --pass-pipeline='builtin.module(npu-attach-target{target=neuroncore_v2},npu-fuse-operators,convert-linalg-to-npu)' %s | filecheck %s

#whole = affine_map<(c, h) -> (c, h)>
#channel = affine_map<(c, h) -> (c)>
#moving = affine_map<(m, h, k) -> (k, h)>
#weights = affine_map<(m, h, k) -> (k, m)>
#sums = affine_map<(m, h, k) -> (m, h)>

memref.global "private" constant @w : memref<200x200xf32> = dense<0.5>
memref.global "private" constant @b : memref<200xf32> = dense<2.0>

/// Two layers: both contractions and the sum between them run in one kernel, the array between them never leaves the chip. The second tile
/// of the 200 channels has 72. The bias and relu cost one instruction of the scalar engine for each tile that leaves psum.

// MARKS-LABEL: func.func @main
// MARKS: memref.alloc() {npu.resident = [0]} : memref<200x32xf32>
// MARKS: linalg.generic {{.*}} attrs = {npu.group = 0 : i64}

// CHECK-LABEL: func.func @main
// CHECK: call @resident_0
// CHECK-NOT: call
// CHECK-LABEL: func.func private @resident_0
// CHECK: "npu.dma"({{.*}}) {cause = "input", layer = "reduce_addf"}
// CHECK: "npu.matmul"
// CHECK: "npu.activate"({{.*}}, {{.*}}, {{.*}}) {bias = 0.000000e+00 : f32, function = "relu"
// CHECK-NOT: cause = "intermediate"
// CHECK: "npu.activate"({{.*}}) {bias = 0.000000e+00 : f32, function = "identity"
// CHECK: cause = "output"
// CHECK-NOT: cause = "intermediate"
func.func @main(%x: memref<200x32xf32>) -> memref<200x32xf32> {
  %zero = arith.constant 0.0 : f32
  %w = memref.get_global @w : memref<200x200xf32>
  %b = memref.get_global @b : memref<200xf32>
  %t = memref.alloc() : memref<200x32xf32>
  %y = memref.alloc() : memref<200x32xf32>
  %z = memref.alloc() : memref<200x32xf32>
  linalg.generic {indexing_maps = [#whole], iterator_types = ["parallel", "parallel"]} outs(%t : memref<200x32xf32>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#moving, #weights, #sums], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : memref<200x32xf32>, memref<200x200xf32>) outs(%t : memref<200x32xf32>) {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %m = arith.mulf %a, %c : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#whole, #channel, #whole], iterator_types = ["parallel", "parallel"]}
      ins(%t, %b : memref<200x32xf32>, memref<200xf32>) outs(%y : memref<200x32xf32>) {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %s = arith.addf %a, %c : f32
    %r = arith.maximumf %s, %zero : f32
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [#whole], iterator_types = ["parallel", "parallel"]} outs(%z : memref<200x32xf32>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#moving, #weights, #sums], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%y, %w : memref<200x32xf32>, memref<200x200xf32>) outs(%z : memref<200x32xf32>) {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %m = arith.mulf %a, %c : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return %z : memref<200x32xf32>
}
