// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-fuse-operators %s | filecheck %s
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-fuse-operators --convert-linalg-to-npu %s | filecheck %s --check-prefix=KERNEL
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-fuse-operators=max-group=1 %s | filecheck %s --check-prefix=ALONE

// ALONE-NOT: npu.group

#ab = affine_map<(m, n, k) -> (k, m)>
#bc = affine_map<(m, n, k) -> (k, n)>
#ac = affine_map<(m, n, k) -> (m, n)>
#id = affine_map<(m, n) -> (m, n)>
#row = affine_map<(m, n) -> (m)>
#column = affine_map<(m, n) -> (n)>

/// A contraction takes the reader of its result along: the bias of a row is added as psum leaves through the scalar engine,
/// and the result in between is nowhere.

// CHECK-LABEL: func.func @bias_of_rows
// CHECK: linalg.generic
// CHECK-NOT: npu.group
// CHECK: linalg.yield
// CHECK: linalg.generic {{.*}} attrs = {npu.group = 0 : i64}
// CHECK: linalg.generic {{.*}} attrs = {npu.group = 0 : i64}
// KERNEL-LABEL: func.func @bias_of_rows
// KERNEL-COUNT-1: call @
// KERNEL: func.func private @matmul_0(%arg0: memref<8x6xf32>, %arg1: memref<8x7xf32>, %arg2: memref<6x7xf32>, %arg3: memref<6xf32>)
// KERNEL: "npu.matmul"
// KERNEL-NOT: "npu.matmul"
// KERNEL: "npu.activate"(%[[PSUM:.*]], %[[OUT:.*]], %[[BIAS:.*]]) {{.*}}function = "relu"
// KERNEL: "npu.dma"(%[[OUT]], %arg2)
func.func @bias_of_rows(%a: memref<8x6xf32>, %b: memref<8x7xf32>, %c: memref<6xf32>) -> memref<6x7xf32> {
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<6x7xf32>
  %r = memref.alloc() : memref<6x7xf32>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%t : memref<6x7xf32>) {
  ^bb0(%old: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#ab, #bc, #ac], iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%a, %b : memref<8x6xf32>, memref<8x7xf32>) outs(%t : memref<6x7xf32>) {
  ^bb0(%x: f32, %y: f32, %old: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %old, %p : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#id, #row, #id], iterator_types = ["parallel", "parallel"]}
    ins(%t, %c : memref<6x7xf32>, memref<6xf32>) outs(%r : memref<6x7xf32>) {
  ^bb0(%x: f32, %y: f32, %old: f32):
    %s = arith.addf %x, %y : f32
    %v = arith.maximumf %s, %zero : f32
    linalg.yield %v : f32
  }
  return %r : memref<6x7xf32>
}

// -----

#ab = affine_map<(m, n, k) -> (k, m)>
#bc = affine_map<(m, n, k) -> (k, n)>
#ac = affine_map<(m, n, k) -> (m, n)>
#id = affine_map<(m, n) -> (m, n)>
#column = affine_map<(m, n) -> (n)>

/// What the array can add, it adds: an array of the result's shape as a product with the identity, a bias along the columns as
/// a product of ones with it.

// CHECK-LABEL: func.func @residual
// CHECK-COUNT-2: npu.group = 0 : i64
// KERNEL-LABEL: func.func @residual
// KERNEL: func.func private @matmul_0
// KERNEL: %[[IDENTITY:.*]] = "npu.alloc"() : () -> memref<6x6xf32
// KERNEL: "npu.matmul"({{.*}}, %[[PSUM:.*]], %false)
// KERNEL: "npu.matmul"({{.*}}, %[[PSUM]], %true)
// KERNEL: "npu.matmul"({{.*}}, %[[PSUM]], %true)
// KERNEL-NOT: "npu.elementwise"
// KERNEL: "npu.activate"(%[[PSUM]],
func.func @residual(%a: memref<8x6xf32>, %b: memref<8x7xf32>, %c: memref<7xf32>, %d: memref<6x7xf32>) -> memref<6x7xf32> {
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<6x7xf32>
  %r = memref.alloc() : memref<6x7xf32>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%t : memref<6x7xf32>) {
  ^bb0(%old: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#ab, #bc, #ac], iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%a, %b : memref<8x6xf32>, memref<8x7xf32>) outs(%t : memref<6x7xf32>) {
  ^bb0(%x: f32, %y: f32, %old: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %old, %p : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#id, #column, #id, #id], iterator_types = ["parallel", "parallel"]}
    ins(%t, %c, %d : memref<6x7xf32>, memref<7xf32>, memref<6x7xf32>) outs(%r : memref<6x7xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32, %old: f32):
    %u = arith.addf %x, %y : f32
    %v = arith.addf %u, %z : f32
    linalg.yield %v : f32
  }
  return %r : memref<6x7xf32>
}

// -----

#ab = affine_map<(m, n, k) -> (k, m)>
#bc = affine_map<(m, n, k) -> (k, n)>
#ac = affine_map<(m, n, k) -> (m, n)>
#id = affine_map<(m, n) -> (m, n)>

/// The result is returned as well, so that it has to be stored.

// CHECK-LABEL: func.func @no_other_user
// CHECK-NOT: npu.group
func.func @no_other_user(%a: memref<8x6xf32>, %b: memref<8x7xf32>) -> (memref<6x7xf32>, memref<6x7xf32>) {
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<6x7xf32>
  %r = memref.alloc() : memref<6x7xf32>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%t : memref<6x7xf32>) {
  ^bb0(%old: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#ab, #bc, #ac], iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%a, %b : memref<8x6xf32>, memref<8x7xf32>) outs(%t : memref<6x7xf32>) {
  ^bb0(%x: f32, %y: f32, %old: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %old, %p : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
    ins(%t : memref<6x7xf32>) outs(%r : memref<6x7xf32>) {
  ^bb0(%x: f32, %old: f32):
    %v = arith.maximumf %x, %zero : f32
    linalg.yield %v : f32
  }
  return %t, %r : memref<6x7xf32>, memref<6x7xf32>
}

// -----

#ab = affine_map<(m, n, k) -> (k, m)>
#bc = affine_map<(m, n, k) -> (k, n)>
#ac = affine_map<(m, n, k) -> (m, n)>
#id = affine_map<(m, n) -> (m, n)>

/// Between the contraction and the reader of its result, an operand of the contraction changes.

// CHECK-LABEL: func.func @no_operand_overwritten
// CHECK-NOT: npu.group
func.func @no_operand_overwritten(%a: memref<8x6xf32>, %b: memref<8x7xf32>, %c: memref<8x6xf32>) -> memref<6x7xf32> {
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<6x7xf32>
  %r = memref.alloc() : memref<6x7xf32>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%t : memref<6x7xf32>) {
  ^bb0(%old: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#ab, #bc, #ac], iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%a, %b : memref<8x6xf32>, memref<8x7xf32>) outs(%t : memref<6x7xf32>) {
  ^bb0(%x: f32, %y: f32, %old: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %old, %p : f32
    linalg.yield %s : f32
  }
  memref.copy %c, %a : memref<8x6xf32> to memref<8x6xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
    ins(%t : memref<6x7xf32>) outs(%r : memref<6x7xf32>) {
  ^bb0(%x: f32, %old: f32):
    %v = arith.maximumf %x, %zero : f32
    linalg.yield %v : f32
  }
  return %r : memref<6x7xf32>
}

// -----

#id = affine_map<(m, d) -> (m, d)>
#row = affine_map<(m, d) -> (m)>

/// Reductions and what is computed with their results run in one kernel, row by row: only the operand and the last result move.

// CHECK-LABEL: func.func @chain
// CHECK: linalg.generic
// CHECK-COUNT-2: npu.group = 0 : i64
// KERNEL-LABEL: func.func @chain
// KERNEL-COUNT-1: call @
// KERNEL: func.func private @chain_0(%arg0: memref<9x20xf32>, %arg1: memref<9x20xf32>, %arg2: memref<9x20xf32>)
// KERNEL: "npu.reduce"
// KERNEL: "npu.elementwise"
func.func @chain(%x: memref<9x20xf32>) -> memref<9x20xf32> {
  %zero = arith.constant 0.0 : f32
  %s = memref.alloc() : memref<9xf32>
  %r = memref.alloc() : memref<9x20xf32>
  linalg.generic {indexing_maps = [affine_map<(m) -> (m)>], iterator_types = ["parallel"]} outs(%s : memref<9xf32>) {
  ^bb0(%old: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#id, #row], iterator_types = ["parallel", "reduction"]}
    ins(%x : memref<9x20xf32>) outs(%s : memref<9xf32>) {
  ^bb0(%v: f32, %old: f32):
    %t = arith.addf %v, %old : f32
    linalg.yield %t : f32
  }
  linalg.generic {indexing_maps = [#id, #row, #id], iterator_types = ["parallel", "parallel"]}
    ins(%x, %s : memref<9x20xf32>, memref<9xf32>) outs(%r : memref<9x20xf32>) {
  ^bb0(%v: f32, %w: f32, %old: f32):
    %t = arith.divf %v, %w : f32
    linalg.yield %t : f32
  }
  return %r : memref<9x20xf32>
}
