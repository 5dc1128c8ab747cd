// RUN: %polystage-opt --npu-attach-target=target=tiny --convert-linalg-to-npu --canonicalize --split-input-file %s | filecheck %s

/// The array is stored with dimension 1 outermost; operations on it have their maps permuted.
// CHECK-LABEL: func.func @stored_otherwise
func.func @stored_otherwise(%x: memref<8x16xf32>, %y: memref<8x16xf32>) {
  // CHECK: %[[A:.*]] = memref.alloc() : memref<16x8xf32>
  %a = memref.alloc() {npu.partition = 1 : i64} : memref<8x16xf32>
  // CHECK: call @{{.*}}(%{{.*}}, %[[A]])
  linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
    iterator_types = ["parallel", "parallel"]
  } ins(%x : memref<8x16xf32>) outs(%a : memref<8x16xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.mulf %in, %in : f32
    linalg.yield %0 : f32
  }
  // CHECK: memref.transpose %[[A]] (d0, d1) -> (d1, d0)
  // CHECK: memref.subview
  // CHECK-SAME: memref<4x16xf32, strided<[1, 8], offset: 4>>
  %part = memref.subview %a[4, 0] [4, 16] [1, 1] : memref<8x16xf32> to memref<4x16xf32, strided<[16, 1], offset: 64>>
  %target = memref.subview %y[4, 0] [4, 16] [1, 1] : memref<8x16xf32> to memref<4x16xf32, strided<[16, 1], offset: 64>>
  memref.copy %part, %target : memref<4x16xf32, strided<[16, 1], offset: 64>> to memref<4x16xf32, strided<[16, 1], offset: 64>>
  return
}

// -----

/// Unit dimensions outside make no difference.
// CHECK-LABEL: func.func @no_change
func.func @no_change(%x: memref<1x8x16xf32>) {
  // CHECK: memref.alloc() : memref<1x8x16xf32>
  %a = memref.alloc() {npu.partition = 1 : i64} : memref<1x8x16xf32>
  memref.copy %x, %a : memref<1x8x16xf32> to memref<1x8x16xf32>
  return
}

// -----

/// The kernel has the loop that its attribute names across the partitions: 5 columns, not 6 rows.
// CHECK-LABEL: func.func @named_loop
// CHECK: func.func private @mulf
// CHECK: "npu.alloc"() : () -> memref<5x6xf32
func.func @named_loop(%x: memref<6x5xf32>, %y: memref<6x5xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
    iterator_types = ["parallel", "parallel"]
  } ins(%x : memref<6x5xf32>) outs(%y : memref<6x5xf32>) attrs = {npu.partition_loop = 1 : i64} {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.mulf %in, %in : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

/// The operand that is named is the stationary one.
// CHECK-LABEL: func.func @named_operand
// CHECK: func.func private @matmul_0(%[[A:.*]]: memref<8x3xf32>, %[[B:.*]]: memref<8x5xf32>
// CHECK: %[[HELD:.*]] = "npu.alloc"() : () -> memref<8x1x5xf32
// CHECK: "npu.matmul"
// CHECK-SAME: memref<8x5xf32, {{.*}}, memref<8x3xf32
func.func @named_operand(%a: memref<8x3xf32>, %b: memref<8x5xf32>, %y: memref<3x5xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (k, m)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]
  } ins(%a, %b : memref<8x3xf32>, memref<8x5xf32>) outs(%y : memref<3x5xf32>) attrs = {npu.stationary = 1 : i64} {
  ^bb0(%p: f32, %q: f32, %out: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}
