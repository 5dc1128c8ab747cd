// RUN: %polystage-opt --npu-attach-target=target=neuroncore_v2 --npu-map-banks --split-input-file %s | filecheck %s
// RUN: %polystage-opt --npu-attach-target=target=neuroncore_v2 --npu-map-banks=mode=local --split-input-file %s | filecheck %s --check-prefix=LOCAL
// RUN: %polystage-opt --npu-attach-target=target=neuroncore_v2 --npu-map-banks --remarks --mlir-pass-statistics --split-input-file %s 2>&1 >/dev/null | filecheck %s --check-prefix=REMARK

memref.global "private" constant @w1 : memref<1024x1024xf32> = dense<1.0>
memref.global "private" constant @w2 : memref<1024x256xf32> = dense<1.0>

/// Two matmuls in a row. The first holds its weight, so that its result comes out with the hidden
/// dimension across the partitions, where the second contracts it; it is stored that way.
// CHECK-LABEL: @chain
func.func @chain(%x: memref<1024x192xf32>, %y: memref<256x192xf32>) {
  %w1 = memref.get_global @w1 : memref<1024x1024xf32>
  %w2 = memref.get_global @w2 : memref<1024x256xf32>
  // CHECK: memref.alloc() {npu.partition = 1 : i64} : memref<192x1024xf32>
  %h = memref.alloc() : memref<192x1024xf32>
  // CHECK: npu.stationary = 1 : i64
  linalg.generic {
    indexing_maps = [affine_map<(t, n, k) -> (k, t)>, affine_map<(t, n, k) -> (k, n)>, affine_map<(t, n, k) -> (t, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]
  } ins(%x, %w1 : memref<1024x192xf32>, memref<1024x1024xf32>) outs(%h : memref<192x1024xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %m = arith.mulf %a, %b : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  // CHECK: npu.stationary = 1 : i64
  linalg.generic {
    indexing_maps = [affine_map<(t, n, k) -> (t, k)>, affine_map<(t, n, k) -> (k, n)>, affine_map<(t, n, k) -> (n, t)>],
    iterator_types = ["parallel", "parallel", "reduction"]
  } ins(%h, %w2 : memref<192x1024xf32>, memref<1024x256xf32>) outs(%y : memref<256x192xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %m = arith.mulf %a, %b : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

// -----

/// A diamond whose arms want the array otherwise: a sum along the rows, and one along the columns
/// of a quarter of it. Exactly one access pays, on the arm where less is turned.
// CHECK-LABEL: @diamond
// REMARK: (S) 1 reshuffles
// REMARK: (S) 262144 bytes turned on chip
// REMARK: remark: npu-map-banks: {{.*}} of f32[512, 512] lies along dimension 0, but is read along 1: turned by the tensor engine, 262144 bytes, 1.38 us
// REMARK-NOT: remark
func.func @diamond(%x: memref<512x512xf32>, %rows: memref<512xf32>, %columns: memref<128xf32>) {
  // CHECK: memref.alloc() {npu.partition = 0 : i64}
  %a = memref.alloc() : memref<512x512xf32>
  linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
    iterator_types = ["parallel", "parallel"]
  } ins(%x : memref<512x512xf32>) outs(%a : memref<512x512xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.mulf %in, %in : f32
    linalg.yield %0 : f32
  }
  linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>],
    iterator_types = ["parallel", "reduction"]
  } ins(%a : memref<512x512xf32>) outs(%rows : memref<512xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.addf %in, %out : f32
    linalg.yield %0 : f32
  }
  %part = memref.subview %a[0, 0] [512, 128] [1, 1] : memref<512x512xf32> to memref<512x128xf32, strided<[512, 1]>>
  // CHECK: npu.partition_loop = 0 : i64
  linalg.generic {
    indexing_maps = [affine_map<(j, i) -> (i, j)>, affine_map<(j, i) -> (j)>],
    iterator_types = ["parallel", "reduction"]
  } ins(%part : memref<512x128xf32, strided<[512, 1]>>) outs(%columns : memref<128xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.addf %in, %out : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

/// On its own, the first operation fills the partitions with its 512 columns rather than with 96
/// rows, and the sum along the rows finds the array turned. Together, all agree on rows.
// CHECK-LABEL: @agree
// LOCAL-LABEL: @agree
func.func @agree(%x: memref<96x512xf32>, %y: memref<96xf32>) {
  // CHECK: memref.alloc() {npu.partition = 0 : i64}
  // LOCAL: memref.alloc() {npu.partition = 1 : i64}
  %a = memref.alloc() : memref<96x512xf32>
  // CHECK-NOT: npu.partition_loop
  // LOCAL: npu.partition_loop = 1 : i64
  // LOCAL: npu.partition_loop = 0 : i64
  linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
    iterator_types = ["parallel", "parallel"]
  } ins(%x : memref<96x512xf32>) outs(%a : memref<96x512xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.mulf %in, %in : f32
    linalg.yield %0 : f32
  }
  linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>],
    iterator_types = ["parallel", "reduction"]
  } ins(%a : memref<96x512xf32>) outs(%y : memref<96xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.addf %in, %out : f32
    linalg.yield %0 : f32
  }
  // CHECK: return
  return
}

// -----

/// An array that is collapsed for its reader has to stay as the collapsed view needs it.
// CHECK-LABEL: @no_other_layout
func.func @no_other_layout(%x: memref<4x96x512xf32>, %y: memref<196608xf32>) {
  // CHECK: memref.alloc() {npu.partition = 0 : i64}
  %a = memref.alloc() : memref<4x96x512xf32>
  linalg.generic {
    indexing_maps = [affine_map<(b, i, j) -> (b, i, j)>, affine_map<(b, i, j) -> (b, i, j)>],
    iterator_types = ["parallel", "parallel", "parallel"]
  } ins(%x : memref<4x96x512xf32>) outs(%a : memref<4x96x512xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.mulf %in, %in : f32
    linalg.yield %0 : f32
  }
  %flat = memref.collapse_shape %a [[0, 1, 2]] : memref<4x96x512xf32> into memref<196608xf32>
  linalg.generic {
    indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
    iterator_types = ["parallel"]
  } ins(%flat : memref<196608xf32>) outs(%y : memref<196608xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.addf %in, %in : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

/// What never runs asks for no layout.
// CHECK-LABEL: @no_elements
func.func @no_elements(%x: memref<0x512xf32>, %y: memref<0x512xf32>, %z: memref<512xf32>) {
  // CHECK-NEXT: memref.copy
  memref.copy %x, %y : memref<0x512xf32> to memref<0x512xf32>
  // CHECK: iterator_types = ["parallel", "reduction"]} ins(%arg0 : memref<0x512xf32>) outs(%arg2 : memref<512xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(j, i) -> (i, j)>, affine_map<(j, i) -> (j)>],
    iterator_types = ["parallel", "reduction"]
  } ins(%x : memref<0x512xf32>) outs(%z : memref<512xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.addf %in, %out : f32
    linalg.yield %0 : f32
  }
  return
}
