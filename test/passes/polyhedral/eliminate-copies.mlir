// RUN: %polystage-opt --poly-eliminate-copies --split-input-file %s | filecheck %s
// RUN: %polystage-opt --poly-eliminate-copies --remarks --mlir-pass-statistics --split-input-file %s 2>&1 >/dev/null | filecheck %s --check-prefix=REMARK

/// A transpose in front of a computation: the computation reads where the transpose read.
// CHECK-LABEL: @transpose
// REMARK: 96 bytes of arrays before
// REMARK: 1 pairs removed
// REMARK: 1 pairs removed forward
// REMARK: 1 pairs found
// REMARK: 96 copied bytes before
// REMARK: 0 copied bytes after
// REMARK: 0 bytes of arrays after
// REMARK: 'copy' removed forward: 'elementwise' reads x instead of t
func.func @transpose(%x: memref<4x6xf32> {npu.name = "x"}, %y: memref<6x4xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: ins(%arg0 : memref<4x6xf32>)
  // CHECK: math.exp
  // CHECK-NOT: linalg.generic
  %t = memref.alloc() : memref<6x4xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (j, i)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%x : memref<4x6xf32>) outs(%t : memref<6x4xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  }
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%t : memref<6x4xf32>) outs(%y : memref<6x4xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// A concatenation of two computations: each computes into its part of the result.
// CHECK-LABEL: @concat
// REMARK: 'copy_1' removed backward: t_1 is now a part of result
// REMARK: 'copy' removed backward: t is now a part of result
func.func @concat(%x: memref<4xf32>, %y: memref<6xf32>) -> (memref<10xf32> {npu.name = "result"}) {
  // CHECK: %[[RESULT:.*]] = memref.alloc() : memref<10xf32>
  // CHECK: memref.subview %[[RESULT]][0] [4] [1]
  // CHECK: math.exp
  // CHECK: memref.subview %[[RESULT]][4] [6] [1]
  // CHECK: math.exp
  // CHECK-NOT: memref.copy
  // CHECK: return %[[RESULT]]
  %a = memref.alloc() : memref<4xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : memref<4xf32>) outs(%a : memref<4xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  %b = memref.alloc() : memref<6xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%y : memref<6xf32>) outs(%b : memref<6xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  %c = memref.alloc() : memref<10xf32>
  %first = memref.subview %c[0] [4] [1] : memref<10xf32> to memref<4xf32, strided<[1]>>
  memref.copy %a, %first : memref<4xf32> to memref<4xf32, strided<[1]>>
  %second = memref.subview %c[4] [6] [1] : memref<10xf32> to memref<6xf32, strided<[1], offset: 4>>
  memref.copy %b, %second : memref<6xf32> to memref<6xf32, strided<[1], offset: 4>>
  return %c : memref<10xf32>
}

// -----

#id = affine_map<(i) -> (i)>

/// A concatenation inside of another one: all lies in the larger array, which is read in between.
// CHECK-LABEL: @nested_concat
func.func @nested_concat(%x: memref<4xf32>, %y: memref<8xf32>) -> memref<8xf32> {
  // CHECK: %[[RESULT:.*]] = memref.alloc() : memref<8xf32>
  // CHECK-NOT: memref.alloc
  // CHECK: memref.subview %[[RESULT]][0] [4] [1]
  // CHECK: math.exp
  // CHECK-NOT: memref.copy
  // CHECK: return %[[RESULT]]
  %a = memref.alloc() : memref<4xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : memref<4xf32>) outs(%a : memref<4xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  %b = memref.alloc() : memref<2xf32>
  %head = memref.subview %a[0] [2] [1] : memref<4xf32> to memref<2xf32, strided<[1]>>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%head : memref<2xf32, strided<[1]>>) outs(%b : memref<2xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.log %in : f32
    linalg.yield %0 : f32
  }
  %c = memref.alloc() : memref<6xf32>
  %c0 = memref.subview %c[0] [4] [1] : memref<6xf32> to memref<4xf32, strided<[1]>>
  memref.copy %a, %c0 : memref<4xf32> to memref<4xf32, strided<[1]>>
  %c1 = memref.subview %c[4] [2] [1] : memref<6xf32> to memref<2xf32, strided<[1], offset: 4>>
  memref.copy %b, %c1 : memref<2xf32> to memref<2xf32, strided<[1], offset: 4>>
  %d = memref.alloc() : memref<2xf32>
  %tail = memref.subview %c[3] [2] [1] : memref<6xf32> to memref<2xf32, strided<[1], offset: 3>>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%tail : memref<2xf32, strided<[1], offset: 3>>) outs(%d : memref<2xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.sqrt %in : f32
    linalg.yield %0 : f32
  }
  %e = memref.alloc() : memref<8xf32>
  %e0 = memref.subview %e[0] [6] [1] : memref<8xf32> to memref<6xf32, strided<[1]>>
  memref.copy %c, %e0 : memref<6xf32> to memref<6xf32, strided<[1]>>
  %e1 = memref.subview %e[6] [2] [1] : memref<8xf32> to memref<2xf32, strided<[1], offset: 6>>
  memref.copy %d, %e1 : memref<2xf32> to memref<2xf32, strided<[1], offset: 6>>
  return %e : memref<8xf32>
}

// -----

#id = affine_map<(i) -> (i)>

/// A border of zeros is nothing to store: the computation reads the interior, and zero around it.
// CHECK-LABEL: @pad
func.func @pad(%x: memref<4xf32>, %y: memref<6xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: %[[PADDED:.*]] = "npu.overlay"(%arg0) {{.*}}fill = 0.000000e+00 : f32, offsets = array<i64: 1>
  // CHECK: ins(%[[PADDED]] : memref<6xf32>)
  // CHECK: math.exp
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<6xf32>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel"]} outs(%t : memref<6xf32>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  %inner = memref.subview %t[1] [4] [1] : memref<6xf32> to memref<4xf32, strided<[1], offset: 1>>
  memref.copy %x, %inner : memref<4xf32> to memref<4xf32, strided<[1], offset: 1>>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%t : memref<6xf32>) outs(%y : memref<6xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

/// A shuffle of channels: with floordiv and mod composed away, a transposed view remains.
// CHECK-LABEL: @shuffle
func.func @shuffle(%x: memref<6x5xf32>, %y: memref<6x5xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: memref.expand_shape
  // CHECK: math.exp
  // CHECK-NOT: linalg.generic
  %groups = memref.expand_shape %x [[0, 1], [2]] output_shape [2, 3, 5]
      : memref<6x5xf32> into memref<2x3x5xf32>
  %t = memref.alloc() : memref<3x2x5xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j, k) -> (j, i, k)>,
                                   affine_map<(i, j, k) -> (i, j, k)>],
                  iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%groups : memref<2x3x5xf32>) outs(%t : memref<3x2x5xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  }
  %shuffled = memref.collapse_shape %t [[0, 1], [2]] : memref<3x2x5xf32> into memref<6x5xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%shuffled : memref<6x5xf32>) outs(%y : memref<6x5xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

/// A chain collapses: a broadcast, every second element of it, a repetition of each.
// CHECK-LABEL: @chain
// REMARK: 3 pairs removed forward
func.func @chain(%x: memref<8xf32>, %y: memref<3x8xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: math.exp
  // CHECK-NOT: linalg.generic
  %a = memref.alloc() : memref<3x8xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%x : memref<8xf32>) outs(%a : memref<3x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  }
  %second = memref.subview %a[0, 1] [3, 4] [1, 2]
      : memref<3x8xf32> to memref<3x4xf32, strided<[8, 2], offset: 1>>
  %b = memref.alloc() : memref<3x4xf32>
  memref.copy %second, %b : memref<3x4xf32, strided<[8, 2], offset: 1>> to memref<3x4xf32>
  %c = memref.alloc() : memref<3x8xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j floordiv 2)>,
                                   affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%b : memref<3x4xf32>) outs(%c : memref<3x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  }
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%c : memref<3x8xf32>) outs(%y : memref<3x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// Two halves of an array: whoever reads one reads the array.
// CHECK-LABEL: @split
func.func @split(%x: memref<8xf32>, %y: memref<4xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK-DAG: memref.subview %arg0[0] [4] [1]
  // CHECK-DAG: memref.subview %arg0[4] [4] [1]
  // CHECK: arith.addf
  %0 = memref.subview %x[0] [4] [1] : memref<8xf32> to memref<4xf32, strided<[1]>>
  %1 = memref.subview %x[4] [4] [1] : memref<8xf32> to memref<4xf32, strided<[1], offset: 4>>
  %a = memref.alloc() : memref<4xf32>
  memref.copy %0, %a : memref<4xf32, strided<[1]>> to memref<4xf32>
  %b = memref.alloc() : memref<4xf32>
  memref.copy %1, %b : memref<4xf32, strided<[1], offset: 4>> to memref<4xf32>
  linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel"]}
      ins(%a, %b : memref<4xf32>, memref<4xf32>) outs(%y : memref<4xf32>) {
  ^bb0(%left: f32, %right: f32, %out: f32):
    %2 = arith.addf %left, %right : f32
    linalg.yield %2 : f32
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// A copy of which a part changes: the computation works where the copy would have been.
// CHECK-LABEL: @update_in_place
func.func @update_in_place(%x: memref<8xf32>, %y: memref<8xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: outs(%arg1 : memref<8xf32>)
  // CHECK: math.exp
  // CHECK: memref.subview %arg1[2] [3] [1]
  // CHECK: arith.negf
  // CHECK-NOT: memref.copy
  %a = memref.alloc() : memref<8xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : memref<8xf32>) outs(%a : memref<8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  %b = memref.alloc() : memref<8xf32>
  memref.copy %a, %b : memref<8xf32> to memref<8xf32>
  %part = memref.subview %b[2] [3] [1] : memref<8xf32> to memref<3xf32, strided<[1], offset: 2>>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel"]}
      outs(%part : memref<3xf32, strided<[1], offset: 2>>) {
  ^bb0(%out: f32):
    %0 = arith.negf %out : f32
    linalg.yield %0 : f32
  }
  memref.copy %b, %y : memref<8xf32> to memref<8xf32>
  return
}

// -----

/// In a loop, each iteration for itself: a row is computed where it is wanted.
// CHECK-LABEL: @loop_body
func.func @loop_body(%x: memref<4x8xf32>, %y: memref<4x8xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: scf.for %[[ROW:.*]] =
  // CHECK: memref.subview %arg1[%[[ROW]], 0] [1, 8] [1, 1]
  // CHECK: math.exp
  // CHECK-NOT: memref.copy
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %t = memref.alloc() : memref<8xf32>
  scf.for %i = %c0 to %c4 step %c1 {
    %in_row = memref.subview %x[%i, 0] [1, 8] [1, 1]
        : memref<4x8xf32> to memref<8xf32, strided<[1], offset: ?>>
    linalg.generic {indexing_maps = [affine_map<(j) -> (j)>, affine_map<(j) -> (j)>],
                    iterator_types = ["parallel"]}
        ins(%in_row : memref<8xf32, strided<[1], offset: ?>>) outs(%t : memref<8xf32>) {
    ^bb0(%in: f32, %out: f32):
      %0 = math.exp %in : f32
      linalg.yield %0 : f32
    }
    %out_row = memref.subview %y[%i, 0] [1, 8] [1, 1]
        : memref<4x8xf32> to memref<8xf32, strided<[1], offset: ?>>
    memref.copy %t, %out_row : memref<8xf32> to memref<8xf32, strided<[1], offset: ?>>
  }
  return
}

// -----

/// Copy loops in affine nests are pairs as well.
// CHECK-LABEL: @affine_nest
func.func @affine_nest(%x: memref<4x6xf32>, %y: memref<6x4xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: affine.for %[[I:.*]] = 0 to 6
  // CHECK: affine.for %[[J:.*]] = 0 to 4
  // CHECK: affine.load %arg0[%[[J]], %[[I]]]
  // CHECK: affine.store %{{.*}}, %arg1[%[[I]], %[[J]]]
  // CHECK-NOT: affine.for
  %t = memref.alloc() : memref<6x4xf32>
  affine.for %i = 0 to 4 {
    affine.for %j = 0 to 6 {
      %0 = affine.load %x[%i, %j] : memref<4x6xf32>
      affine.store %0, %t[%j, %i] : memref<6x4xf32>
    }
  }
  affine.for %i = 0 to 6 {
    affine.for %j = 0 to 4 {
      %0 = affine.load %t[%i, %j] : memref<6x4xf32>
      %1 = arith.addf %0, %0 : f32
      affine.store %1, %y[%i, %j] : memref<6x4xf32>
    }
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// A pad whose interior is computed for nobody else: the fill moves up, so that it can be computed
/// in place. Nobody could read the border of an output from anywhere else.
// CHECK-LABEL: @padded_output
func.func @padded_output(%x: memref<4xf32>, %y: memref<6xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: linalg.yield %{{cst.*}} : f32
  // CHECK: memref.subview %arg1[1] [4] [1]
  // CHECK: math.exp
  // CHECK-NOT: memref.copy
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<4xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : memref<4xf32>) outs(%t : memref<4xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel"]} outs(%y : memref<6xf32>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  %inner = memref.subview %y[1] [4] [1] : memref<6xf32> to memref<4xf32, strided<[1], offset: 1>>
  memref.copy %t, %inner : memref<4xf32> to memref<4xf32, strided<[1], offset: 1>>
  return
}
