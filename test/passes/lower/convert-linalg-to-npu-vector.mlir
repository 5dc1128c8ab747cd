// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu %s | filecheck %s
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=neuroncore_v2 --convert-linalg-to-npu %s | filecheck %s --check-prefix=V2
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu=buffers=1 %s | filecheck %s --check-prefix=ONE

/// Loops that every operand runs through alike become one, split over the 8 partitions. It is cut into 4 tiles, so that one
/// moves while the other computes; with a single place for each buffer that would not help. The result overwrites the operand.

// CHECK-LABEL: func.func @relu
// CHECK: func.func private @relu_2(%[[A:.*]]: f32, %{{.*}}: f32) -> f32
// CHECK: arith.maximumf %[[A]]
// CHECK: func.func private @[[K:.*]](%{{.*}}: memref<4x8x100xf32>, %{{.*}}: memref<4x8x100xf32>) attributes {npu.kernel}
// CHECK: memref.collapse_shape {{.*}} into memref<3200xf32>
// CHECK: memref.expand_shape {{.*}} into memref<8x400xf32>
// CHECK: scf.for
// CHECK: %[[X:.*]] = "npu.alloc"() {buffers = 2 : i64} : () -> memref<8x100xf32, #npu.space<"sbuf">>
// ONE: "npu.alloc"() : () -> memref<8x400xf32, #npu.space<"sbuf">>
// CHECK: "npu.dma"(%{{.*}}, %[[X]]) {cause = "input"}
// CHECK: "npu.elementwise"(%[[X]], %[[X]]) {{.*}}function = @relu_2
// CHECK: "npu.dma"(%[[X]], %{{.*}}) {cause = "output"}
#id = affine_map<(i, j, k) -> (i, j, k)>
func.func @relu(%x: memref<4x8x100xf32>) -> memref<4x8x100xf32> {
  %zero = arith.constant 0.0 : f32
  %y = memref.alloc() : memref<4x8x100xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel", "parallel"]}
    ins(%x : memref<4x8x100xf32>) outs(%y : memref<4x8x100xf32>) {
  ^bb0(%in: f32, %out: f32):
    %positive = arith.cmpf ugt, %in, %zero : f32
    %r = arith.select %positive, %in, %zero : f32
    linalg.yield %r : f32
  }
  return %y : memref<4x8x100xf32>
}

// -----

/// Functions run on the scalar engine, their scale and bias for nothing; what they need and what follows is arithmetic.

// CHECK-LABEL: func.func @gate
// CHECK: func.func private @fused_0
// CHECK: "npu.activate"(%[[X:.*]], %[[T:.*]]) {bias = 1.000000e+00 : f32, function = "tanh",{{.*}}scale = 5.000000e-01 : f32}
// CHECK: "npu.elementwise"(%[[T]], %[[X]], %[[T]]) {{.*}}function = @mul
#row = affine_map<(i, j) -> (i, j)>
func.func @gate(%x: memref<8x20xf32>, %y: memref<8x20xf32>) {
  %half = arith.constant 0.5 : f32
  %one = arith.constant 1.0 : f32
  linalg.generic {indexing_maps = [#row, #row], iterator_types = ["parallel", "parallel"]}
    ins(%x : memref<8x20xf32>) outs(%y : memref<8x20xf32>) {
  ^bb0(%in: f32, %out: f32):
    %a = arith.mulf %in, %half : f32
    %b = arith.addf %a, %one : f32
    %t = math.tanh %b : f32
    %r = arith.mulf %t, %in : f32
    linalg.yield %r : f32
  }
  return
}

// -----

/// A window keeps its halo: 9 rows and columns for 4 results of stride 2. The operand that only gives the window's shape is
/// not loaded, and the fill before becomes a memset.

// CHECK-LABEL: func.func @pool
// CHECK: func.func private @[[K:.*]](%{{.*}}: memref<8x9x9xf32>, %{{.*}}: memref<3x3xf32>, %{{.*}}: memref<8x4x4xf32>)
// CHECK-SAME: npu.kernel
// CHECK: "npu.memset"(%[[ACC:.*]]) {{.*}}value = 0xFF800000 : f32
// CHECK: "npu.dma"({{.*}}) {cause = "input"} : (memref<8x9x9xf32>, memref<8x9x9xf32, #npu.space<"sbuf">>)
// CHECK-NEXT: "npu.reduce"(%{{.*}}, %[[ACC]]) {{.*}}sizes = array<i64: 8, 4, 4, 3, 3>
// CHECK-NEXT: "npu.dma"(%[[ACC]], %{{.*}}) {cause = "output"}
func.func @pool(%x: memref<8x9x9xf32>, %window: memref<3x3xf32>) -> memref<8x4x4xf32> {
  %low = arith.constant 0xFF800000 : f32
  %y = memref.alloc() : memref<8x4x4xf32>
  linalg.generic {indexing_maps = [affine_map<(c, h, w) -> (c, h, w)>], iterator_types = ["parallel", "parallel", "parallel"]}
    outs(%y : memref<8x4x4xf32>) {
  ^bb0(%out: f32):
    linalg.yield %low : f32
  }
  linalg.generic {
    indexing_maps = [affine_map<(c, h, w, i, j) -> (c, h * 2 + i, w * 2 + j)>, affine_map<(c, h, w, i, j) -> (i, j)>,
                     affine_map<(c, h, w, i, j) -> (c, h, w)>],
    iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction"]
  } ins(%x, %window : memref<8x9x9xf32>, memref<3x3xf32>) outs(%y : memref<8x4x4xf32>) {
  ^bb0(%in: f32, %shape: f32, %out: f32):
    %r = arith.maximumf %in, %out : f32
    linalg.yield %r : f32
  }
  return %y : memref<8x4x4xf32>
}

// -----

/// Where the innermost dimension changes, rows are loaded, turned by the tensor engine and stored as rows.

// V2-LABEL: func.func @transpose
// V2: func.func private @copy_0
// V2: "npu.dma"
// V2: "npu.transpose"
// V2: "npu.activate"({{.*}}function = "identity"
// V2: "npu.dma"
func.func @transpose(%x: memref<32x48xf32>, %y: memref<48x32xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (j, i)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]}
    ins(%x : memref<32x48xf32>) outs(%y : memref<48x32xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  }
  return
}

// -----

/// A copy with long runs on both sides stays within DRAM.

// CHECK-LABEL: func.func @concat
// CHECK: func.func private @copy_0
// CHECK-NOT: npu.alloc
// CHECK: "npu.dma"(%{{.*}}, %{{.*}}) {cause = "copy"}
func.func @concat(%x: memref<4x16xf32>, %y: memref<4x40xf32>) {
  %part = memref.subview %y[0, 20] [4, 16] [1, 1] : memref<4x40xf32> to memref<4x16xf32, strided<[40, 1], offset: 20>>
  memref.copy %x, %part : memref<4x16xf32> to memref<4x16xf32, strided<[40, 1], offset: 20>>
  return
}

// -----

/// Rows of a table are looked up whole; what indexes the columns is no operand.

// CHECK-LABEL: func.func @embedding
// CHECK: func.func private @gather_0
// CHECK: "npu.dma"(%{{.*}}, %[[I:.*]]) {cause = "input"} : (memref<6xi64>, memref<6xi64, #npu.space<"sbuf">>)
// CHECK: "npu.gather"(%{{.*}}, %{{.*}}, %[[I]]) {{.*}} : (memref<50x32xf32>, memref<6x32xf32, #npu.space<"sbuf">>, memref<6xi64, #npu.space<"sbuf">>)
func.func @embedding(%table: memref<50x32xf32>, %tokens: memref<1x6xi64>, %y: memref<1x6x32xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(b, s, e) -> (b, s)>, affine_map<(b, s, e) -> (b, s, e)>],
    iterator_types = ["parallel", "parallel", "parallel"]
  } ins(%tokens : memref<1x6xi64>) outs(%y : memref<1x6x32xf32>) {
  ^bb0(%in: i64, %out: f32):
    %row = arith.index_cast %in : i64 to index
    %column = linalg.index 2 : index
    %v = memref.load %table[%row, %column] : memref<50x32xf32>
    linalg.yield %v : f32
  }
  return
}

// -----

/// Coordinates come from gpsimd.

// CHECK-LABEL: func.func @arange
// CHECK: "npu.iota"(%{{.*}}, %{{.*}}) {dimension = 1 : i64}
func.func @arange(%y: memref<80xi64>) {
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>], iterator_types = ["parallel"]} outs(%y : memref<80xi64>) {
  ^bb0(%out: i64):
    %i = linalg.index 0 : index
    %r = arith.index_cast %i : index to i64
    linalg.yield %r : i64
  }
  return
}
