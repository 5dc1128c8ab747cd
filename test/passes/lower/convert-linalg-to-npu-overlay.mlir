// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu --canonicalize --cse %s | filecheck %s

/// A padded array takes no storage: its source goes to the kernel, which writes the border on chip, one memset for each side,
/// and loads the rest.

// CHECK-LABEL: func.func @pad(
// CHECK-SAME: %[[X:[^:]*]]: memref<4x3xf32>
func.func @pad(%x: memref<4x3xf32>, %y: memref<4x6xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK-NOT: npu.overlay
  // CHECK: call @mulf_0(%[[X]], %{{.*}})
  %padded = "npu.overlay"(%x) {offsets = array<i64: 0, 1>, fill = 1.0 : f32} : (memref<4x3xf32>) -> memref<4x6xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]}
    ins(%padded : memref<4x6xf32>) outs(%y : memref<4x6xf32>) {
  ^bb0(%in: f32, %out: f32):
    %square = arith.mulf %in, %in : f32
    linalg.yield %square : f32
  }
  return
}

// CHECK: func.func private @mulf_0(
// CHECK: %[[TILE:[0-9]+]] = "npu.alloc"() : () -> memref<4x6xf32
// CHECK: %[[LEFT:.*]] = memref.subview %[[TILE]][0, 0] [4, 1]
// CHECK: "npu.memset"(%[[LEFT]]) {{.*}}value = 1.0
// CHECK: %[[RIGHT:.*]] = memref.subview %[[TILE]][0, 4] [4, 2]
// CHECK: "npu.memset"(%[[RIGHT]])
// CHECK: %[[MIDDLE:.*]] = memref.subview %[[TILE]][0, 1] [4, 3]
// CHECK: "npu.dma"(%{{.*}}, %[[MIDDLE]])
// CHECK: "npu.elementwise"(%[[TILE]]

// -----

/// A concatenation is loaded by one transfer for each of its parts, to their partitions. Nothing is filled.

// CHECK-LABEL: func.func @concat(
func.func @concat(%a: memref<3x40xf32>, %b: memref<5x40xf32>, %y: memref<8x40xf32>) {
  // CHECK: call @mulf_0(%{{.*}}, %{{.*}}, %{{.*}}) {{.*}} : (memref<5x40xf32>, memref<3x40xf32>, memref<8x40xf32>)
  %first = "npu.overlay"(%a) {offsets = array<i64: 0, 0>} : (memref<3x40xf32>) -> memref<8x40xf32>
  %both = "npu.overlay"(%b, %first) {offsets = array<i64: 3, 0>} : (memref<5x40xf32>, memref<8x40xf32>) -> memref<8x40xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]}
    ins(%both : memref<8x40xf32>) outs(%y : memref<8x40xf32>) {
  ^bb0(%in: f32, %out: f32):
    %square = arith.mulf %in, %in : f32
    linalg.yield %square : f32
  }
  return
}

// CHECK: func.func private @mulf_0(%[[B:.*]]: memref<5x40xf32>, %[[A:.*]]: memref<3x40xf32>, %{{.*}}: memref<8x40xf32>)
// CHECK-NOT: npu.memset
// CHECK: %[[TILE:[0-9]+]] = "npu.alloc"() : () -> memref<8x40xf32
// CHECK: %[[LOWER:.*]] = memref.subview %[[TILE]][3, 0] [5, 40]
// CHECK: "npu.dma"(%[[B]], %[[LOWER]])
// CHECK: %[[UPPER:.*]] = memref.subview %[[TILE]][0, 0] [3, 40]
// CHECK: "npu.dma"(%[[A]], %[[UPPER]])

// -----

/// Windows over an image with a border, too large for one tile: the first and the last rows of tiles, which reach over the
/// border, stand by themselves, those between them share a loop without a memset.

// CHECK-LABEL: func.func @pool(
func.func @pool(%x: memref<8x62x30xf32>, %window: memref<3x3xf32>, %y: memref<8x62x28xf32>) {
  %padded = "npu.overlay"(%x) {offsets = array<i64: 0, 1, 0>, fill = 0.0 : f32} : (memref<8x62x30xf32>) -> memref<8x64x30xf32>
  linalg.generic {
    indexing_maps = [
      affine_map<(c, h, w, p, q) -> (c, h + p, w + q)>, affine_map<(c, h, w, p, q) -> (p, q)>,
      affine_map<(c, h, w, p, q) -> (c, h, w)>
    ],
    iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction"]
  } ins(%padded, %window : memref<8x64x30xf32>, memref<3x3xf32>) outs(%y : memref<8x62x28xf32>) {
  ^bb0(%in: f32, %unused: f32, %out: f32):
    %greatest = arith.maximumf %out, %in : f32
    linalg.yield %greatest : f32
  }
  return
}

// CHECK: func.func private @reduce_maximumf_0(
// CHECK: "npu.memset"
// CHECK: "npu.reduce"
// CHECK: scf.for
// CHECK-NOT: npu.memset
// CHECK: "npu.reduce"
// CHECK: }
// CHECK: "npu.memset"
// CHECK: "npu.reduce"
// CHECK-NOT: "npu.reduce"

// -----

/// A convolution with a border: the operand of the matmuls has the border, DRAM has not. The image comes in one run per channel, and
/// an engine moves its short rows to the inside.

// CHECK-LABEL: func.func @convolution(
func.func @convolution(%x: memref<8x6x6xf32>, %filter: memref<4x8x3x3xf32>, %y: memref<4x6x6xf32>) {
  %padded = "npu.overlay"(%x) {offsets = array<i64: 0, 1, 1>, fill = 0.0 : f32} : (memref<8x6x6xf32>) -> memref<8x8x8xf32>
  linalg.generic {
    indexing_maps = [
      affine_map<(f, h, w, c, p, q) -> (c, h + p, w + q)>, affine_map<(f, h, w, c, p, q) -> (f, c, p, q)>,
      affine_map<(f, h, w, c, p, q) -> (f, h, w)>
    ],
    iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]
  } ins(%padded, %filter : memref<8x8x8xf32>, memref<4x8x3x3xf32>) outs(%y : memref<4x6x6xf32>) {
  ^bb0(%in: f32, %weight: f32, %out: f32):
    %product = arith.mulf %in, %weight : f32
    %sum = arith.addf %out, %product : f32
    linalg.yield %sum : f32
  }
  return
}

// CHECK: func.func private @matmul_0(
// CHECK: %[[WINDOW:[0-9]+]] = "npu.alloc"() : () -> memref<8x1x8x8xf32
// CHECK: %[[STAGE:[0-9]+]] = "npu.alloc"() : () -> memref<8x1x6x6xf32
// CHECK: %[[IMAGE:.*]] = memref.subview %[[STAGE]]
// CHECK: "npu.dma"(%{{.*}}, %[[IMAGE]])
// CHECK-COUNT-4: "npu.memset"
// CHECK: %[[INSIDE:.*]] = memref.subview %[[WINDOW]][0, 0, 1, 1] [8, 1, 6, 6]
// CHECK: "npu.activate"(%[[IMAGE]], %[[INSIDE]])
// CHECK: "npu.matmul"

// -----

/// The zeros are not folded into the sum that starts from them: a copy of the array around them is taken in between.

// CHECK-LABEL: func.func @no_fold_of_what_is_read
func.func @no_fold_of_what_is_read(%x: memref<4x8xf32>, %y: memref<2x4xf32>, %copy: memref<4x4xf32>) {
  %zero = arith.constant 0.0 : f32
  %all = memref.alloc() : memref<4x4xf32>
  %part = memref.subview %all[1, 0] [2, 4] [1, 1] : memref<4x4xf32> to memref<2x4xf32, strided<[4, 1], offset: 4>>
  // CHECK: call @copy_0
  linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]}
    outs(%part : memref<2x4xf32, strided<[4, 1], offset: 4>>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  // CHECK: call @copy_1
  memref.copy %all, %copy : memref<4x4xf32> to memref<4x4xf32>
  // CHECK: call @addf_0
  linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]}
    ins(%y : memref<2x4xf32>) outs(%part : memref<2x4xf32, strided<[4, 1], offset: 4>>) {
  ^bb0(%in: f32, %out: f32):
    %sum = arith.addf %in, %out : f32
    linalg.yield %sum : f32
  }
  return
}

// -----

/// The features of a grouped convolution are `group * 4 + channel` in memory. They become two dimensions, and the convolution a
/// matmul over the four channels.

// CHECK-LABEL: func.func @groups(
func.func @groups(%x: memref<9x8xf32>, %filter: memref<2x6x4xf32>, %y: memref<2x6x9xf32>) {
  // CHECK: %[[GROUPS:.*]] = memref.expand_shape %{{.*}} {{\[\[}}0], [1, 2]] output_shape [9, 2, 4]
  // CHECK: call @matmul_0(%[[GROUPS]]
  linalg.generic {
    indexing_maps = [
      affine_map<(g, m, t, c) -> (t, g * 4 + c)>, affine_map<(g, m, t, c) -> (g, m, c)>, affine_map<(g, m, t, c) -> (g, m, t)>
    ],
    iterator_types = ["parallel", "parallel", "parallel", "reduction"]
  } ins(%x, %filter : memref<9x8xf32>, memref<2x6x4xf32>) outs(%y : memref<2x6x9xf32>) {
  ^bb0(%in: f32, %weight: f32, %out: f32):
    %product = arith.mulf %in, %weight : f32
    %sum = arith.addf %out, %product : f32
    linalg.yield %sum : f32
  }
  return
}
