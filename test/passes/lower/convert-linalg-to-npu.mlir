// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu %s | filecheck %s
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu=buffers=1 %s | filecheck %s --check-prefix=ONE
// RUN: %polystage-opt --npu-attach-target=target=tiny --convert-linalg-to-npu --mlir-pass-statistics --split-input-file %s 2>&1 >/dev/null | filecheck %s --check-prefix=STATISTICS

// STATISTICS: fills folded
// STATISTICS: kernels

/// A matmul becomes a kernel: operands to sbuf, tiles accumulated in psum, results back. The fill is folded into it: the first
/// contribution to a psum tile overwrites.

// CHECK-LABEL: func.func @matmul
func.func @matmul(%a: memref<16x24xf32>, %b: memref<24x32xf32>) -> memref<16x32xf32> {
  %zero = arith.constant 0.0 : f32
  %c = memref.alloc() : memref<16x32xf32>
  linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]} outs(%c : memref<16x32xf32>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  // CHECK-NOT: linalg.generic
  // CHECK: call @matmul_0(%{{.*}}, %{{.*}}, %{{.*}}) {layer = "gemm"}
  linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]
  } ins(%a, %b : memref<16x24xf32>, memref<24x32xf32>) outs(%c : memref<16x32xf32>) {
  ^bb0(%x: f32, %y: f32, %out: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  } loc("gemm")
  return %c : memref<16x32xf32>
}

/// Rows of the left operand are turned on chip, since their contracted dimension is contiguous in DRAM.

// CHECK: func.func private @matmul_0
// CHECK-SAME: attributes {npu.contraction = {batch = 1 : i64, k = 24 : i64, m = 16 : i64, n = 32 : i64}, npu.kernel}
// CHECK: "npu.dma"(%{{.*}}, %[[STAGE:.*]]) {cause = "input"}
// CHECK: "npu.transpose"
// CHECK: %[[PSUM:.*]] = "npu.alloc"() {{.*}}-> memref<8x16xf32, #npu.space<"psum">>
// CHECK: scf.for %[[K:.*]] =
// CHECK: %[[ADD:.*]] = arith.cmpi ne, %[[K]]
// CHECK: "npu.matmul"(%{{.*}}, %{{.*}}, %[[PSUM]], %[[ADD]])
// CHECK: "npu.activate"(%[[PSUM]], %[[OUT:.*]]) {{.*}}function = "identity"
// CHECK: "npu.dma"(%{{.*}}, %{{.*}}) {cause = "output"}

// -----

/// Two equal layers share one kernel.

#map = affine_map<(m, n, k) -> (m, k)>
#map1 = affine_map<(m, n, k) -> (k, n)>
#map2 = affine_map<(m, n, k) -> (m, n)>

// CHECK-LABEL: func.func @shared
func.func @shared(%a: memref<16x16xf32>, %b: memref<16x16xf32>, %c: memref<16x16xf32>, %d: memref<16x16xf32>) {
  // CHECK: call @matmul_0
  linalg.generic {indexing_maps = [#map, #map1, #map2], iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%a, %b : memref<16x16xf32>, memref<16x16xf32>) outs(%c : memref<16x16xf32>) {
  ^bb0(%x: f32, %y: f32, %out: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  // CHECK: call @matmul_0
  linalg.generic {indexing_maps = [#map, #map1, #map2], iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%b, %a : memref<16x16xf32>, memref<16x16xf32>) outs(%d : memref<16x16xf32>) {
  ^bb0(%x: f32, %y: f32, %out: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

// -----

/// A convolution of one channel lays its taps on the partitions, so that the array is not left empty.

// CHECK-LABEL: func.func @stem
func.func @stem(%x: memref<1x1x34x34xf32>, %w: memref<8x1x3x3xf32>, %y: memref<1x8x32x32xf32>) {
  // CHECK: call @matmul_0
  linalg.generic {
    indexing_maps = [affine_map<(n, f, h, w, c, p, q) -> (n, c, h + p, w + q)>,
                     affine_map<(n, f, h, w, c, p, q) -> (f, c, p, q)>,
                     affine_map<(n, f, h, w, c, p, q) -> (n, f, h, w)>],
    iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]
  } ins(%x, %w : memref<1x1x34x34xf32>, memref<8x1x3x3xf32>) outs(%y : memref<1x8x32x32xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %m = arith.mulf %a, %b : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

// CHECK: func.func private @matmul_0
// CHECK: "npu.matmul"(%{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}) : (memref<3x8xf32,

// -----

/// Blocks of rows that follow each other through one buffer are read channel by channel, by the
/// tiles of all rows in turn, so that the next block can take the place of a channel early.

// ONE-LABEL: func.func @interleaved
func.func @interleaved(%a: memref<256x64xf32>, %b: memref<256x2xf32>, %c: memref<64x2xf32>) {
  // ONE: call @matmul_0
  linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (k, m)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]
  } ins(%a, %b : memref<256x64xf32>, memref<256x2xf32>) outs(%c : memref<64x2xf32>) {
  ^bb0(%x: f32, %y: f32, %out: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

// ONE: func.func private @matmul_0
// ONE: scf.for %{{.*}} = %c0 to %c64 step %{{.*}} {
// ONE: scf.for %{{.*}} = %c0 to %c32 step %c1 {
// ONE: "npu.dma"
// ONE: scf.for %{{.*}} = %c0 to %c32 step %c1 {
// ONE: "npu.matmul"
// ONE-NOT: scf.for
// ONE: "npu.matmul"
// ONE-NOT: scf.for
// ONE: "npu.elementwise"

// -----

/// A kernel takes a name that nothing else in the module has.

func.func private @matmul_0(%x: f32) -> f32 {
  return %x : f32
}

// CHECK-LABEL: func.func @taken
func.func @taken(%a: memref<16x16xf32>, %b: memref<16x16xf32>, %c: memref<16x16xf32>) {
  // CHECK: call @matmul_1
  linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]
  } ins(%a, %b : memref<16x16xf32>, memref<16x16xf32>) outs(%c : memref<16x16xf32>) {
  ^bb0(%x: f32, %y: f32, %out: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

// -----

/// What runs on no elements leaves no kernel, and the fill before it stands by itself.

// CHECK-LABEL: func.func @no_elements(
// CHECK-NEXT: arith.constant
// CHECK-NEXT: call @copy_0(%arg1)
// CHECK-NEXT: return
func.func @no_elements(%x: memref<8x0xf32>, %y: memref<8xf32>, %z: memref<8x0xf32>) {
  %zero = arith.constant 0.0 : f32
  memref.copy %x, %z : memref<8x0xf32> to memref<8x0xf32>
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>], iterator_types = ["parallel"]} outs(%y : memref<8xf32>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>],
    iterator_types = ["parallel", "reduction"]
  } ins(%x : memref<8x0xf32>) outs(%y : memref<8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %s = arith.addf %in, %out : f32
    linalg.yield %s : f32
  }
  return
}
