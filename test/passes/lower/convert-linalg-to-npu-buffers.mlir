// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu %s | filecheck %s
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu=buffers=3 %s | filecheck %s --check-prefix=THREE
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu=buffers=1 %s | filecheck %s --check-prefix=ONE
// RUN: not %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu=buffers=0 %s 2>&1 | filecheck %s --check-prefix=NONE
// RUN: not %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu=buffers=two %s 2>&1 | filecheck %s --check-prefix=WORD

// NONE: error: convert-linalg-to-npu: option 'buffers' is 0, but must be at least 1
// NONE: help: 1 lets a tile wait for the one before, 2 overlaps loads, computation, stores
// WORD: error: option 'buffers' of 'convert-linalg-to-npu' is 'two', but it takes an integer

/// A buffer that hands data from one engine to another has two places, as often as its loop runs at least: the accumulators and
/// results of 4 tiles of rows. What stays for all of them has one.

#map = affine_map<(m, n, k) -> (k, m)>
#map1 = affine_map<(m, n, k) -> (k, n)>
#map2 = affine_map<(m, n, k) -> (m, n)>

// CHECK-LABEL: func.func private @matmul_0
// CHECK: "npu.alloc"() : () -> memref<8x1x256xf32
// CHECK: scf.for
// CHECK: "npu.alloc"() {buffers = 2 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
// ONE-LABEL: func.func private @matmul_0
// ONE-NOT: buffers =
// THREE: "npu.alloc"() {buffers = 3 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
func.func @rows(%a: memref<8x256xf32>, %b: memref<8x16xf32>, %c: memref<256x16xf32>) {
  linalg.generic {indexing_maps = [#map, #map1, #map2], iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%a, %b : memref<8x256xf32>, memref<8x16xf32>) outs(%c : memref<256x16xf32>) {
  ^bb0(%x: f32, %y: f32, %out: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

// -----

/// Small products in a batch go several in a loop body, so that more of them are under way than each buffer has places.

// CHECK-LABEL: func.func private @matmul_0
// CHECK: scf.for %{{.*}} = %c0 to %c12 step %c2
// CHECK-COUNT-2: npu.matmul
// ONE-LABEL: func.func private @matmul_0
// ONE: scf.for %{{.*}} = %c0 to %c12 step %c1
func.func @batches(%a: memref<12x8x8xf32>, %b: memref<12x8x8xf32>, %c: memref<12x8x8xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(b, m, n, k) -> (b, k, m)>, affine_map<(b, m, n, k) -> (b, k, n)>, affine_map<(b, m, n, k) -> (b, m, n)>],
    iterator_types = ["parallel", "parallel", "parallel", "reduction"]
  } ins(%a, %b : memref<12x8x8xf32>, memref<12x8x8xf32>) outs(%c : memref<12x8x8xf32>) {
  ^bb0(%x: f32, %y: f32, %out: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

// -----

/// Columns are cut into blocks although all of them fit, so that one is loaded while another is computed and stored.

// CHECK-LABEL: func.func private @matmul_0
// CHECK: scf.for
// CHECK: "npu.alloc"() {buffers = 2 : i64} : () -> memref<8x1x{{[0-9]+}}xf32, #npu.space<"sbuf">>
// CHECK: "npu.dma"
// ONE-LABEL: func.func private @matmul_0
// ONE: "npu.alloc"() : () -> memref<8x1x256xf32, #npu.space<"sbuf">>
func.func @columns(%a: memref<8x8xf32>, %b: memref<8x256xf32>, %c: memref<8x256xf32>) {
  linalg.generic {indexing_maps = [affine_map<(m, n, k) -> (k, m)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
      iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%a, %b : memref<8x8xf32>, memref<8x256xf32>) outs(%c : memref<8x256xf32>) {
  ^bb0(%x: f32, %y: f32, %out: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

// -----

/// An operand that repeats along the loop over tiles is the same for all of them.

// CHECK-LABEL: func.func private @addf_0
// CHECK: scf.for
// CHECK: memref.subview %{{.*}}[%{{.*}}, 0, 0] {{.*}}, strided<[0, 8, 1]>> to memref<{{[0-9x]+}}xf32, strided<[0, 8, 1]>>
func.func @repeated(%x: memref<64x16xf32, strided<[0, 1]>>, %y: memref<64x16xf32>, %z: memref<64x16xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"], npu.partition_loop = 1 : i64}
    ins(%x, %y : memref<64x16xf32, strided<[0, 1]>>, memref<64x16xf32>) outs(%z : memref<64x16xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %s = arith.addf %a, %b : f32
    linalg.yield %s : f32
  }
  return
}

// -----

/// The weights of many channels for few columns come in chunks of channels, whose next is loaded meanwhile; the accumulators of
/// 4 tiles of rows stay open for all chunks.

// CHECK-LABEL: func.func private @matmul_0
// CHECK: "npu.alloc"() {{.*}} : () -> memref<8x2xf32, #npu.space<"psum">>
// CHECK: "npu.alloc"() {{.*}} : () -> memref<8x2xf32, #npu.space<"psum">>
// CHECK: scf.for %[[CHUNK:.*]] = %c0 to %c64
// CHECK: "npu.alloc"() {buffers = 2 : i64} : () -> memref<8x8x32xf32, #npu.space<"sbuf">>
// CHECK: scf.for
// CHECK: "npu.dma"
// CHECK: scf.for
// CHECK-COUNT-4: npu.matmul
func.func @chunks(%a: memref<512x64xf32>, %b: memref<512x2xf32>, %c: memref<64x2xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (k, m)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]
  } ins(%a, %b : memref<512x64xf32>, memref<512x2xf32>) outs(%c : memref<64x2xf32>) {
  ^bb0(%x: f32, %y: f32, %out: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}
