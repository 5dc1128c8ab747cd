// RUN: not %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu %s 2>&1 | filecheck %s

/// Decisions that a user writes by hand are obeyed or refused.

// CHECK: error: {{.*}}'npu.partition' of an array of type memref<8x16xf32> is 2 : i64, but its dimensions are 0 to 1
// CHECK: help: name one of them, or remove the attribute
func.func @invalid_dimension(%x: memref<8x16xf32>) {
  %a = memref.alloc() {npu.partition = 2 : i64} : memref<8x16xf32>
  memref.copy %x, %a : memref<8x16xf32> to memref<8x16xf32>
  return
}

// -----

// CHECK: error: {{.*}}'npu.partition' of an array of type memref<4x8x16xf32> is 1, but 'memref.collapse_shape' on it needs dimensions together that then lie apart
// CHECK: help: name another dimension, or remove the attribute
func.func @invalid_for_view(%x: memref<32x16xf32>) {
  %a = memref.alloc() {npu.partition = 1 : i64} : memref<4x8x16xf32>
  %flat = memref.collapse_shape %a [[0, 1], [2]] : memref<4x8x16xf32> into memref<32x16xf32>
  memref.copy %x, %flat : memref<32x16xf32> to memref<32x16xf32>
  return
}

// -----

// CHECK: error: {{.*}}'npu.partition' of an array of type memref<8x16xf32> is 1, but 'func.return' takes it row-major
func.func @invalid_result(%x: memref<8x16xf32>) -> memref<8x16xf32> {
  %a = memref.alloc() {npu.partition = 1 : i64} : memref<8x16xf32>
  memref.copy %x, %a : memref<8x16xf32> to memref<8x16xf32>
  return %a : memref<8x16xf32>
}

// -----

// CHECK: error: {{.*}}argument 0 lies in DRAM row-major, but 'npu.partition' is 1
// CHECK: help: arguments stay as the caller lays them out; copy to an allocation
func.func @invalid_argument(%x: memref<8x16xf32> {npu.partition = 1 : i64}) {
  return
}

// -----

// CHECK: error: {{.*}}'npu.partition_loop' is 1, but the parallel loops of more than one iteration are 0
// CHECK: help: name one of them, or remove the attribute
func.func @invalid_loop(%x: memref<8x16xf32>, %y: memref<8xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>],
    iterator_types = ["parallel", "reduction"]
  } ins(%x : memref<8x16xf32>) outs(%y : memref<8xf32>) attrs = {npu.partition_loop = 1 : i64} {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.addf %in, %out : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

// CHECK: error: {{.*}}the loop that is to lie across the partitions steps through several dimensions of an operand, or with others through one
// CHECK: help: name another loop in 'npu.partition_loop', or remove the attribute
func.func @invalid_window(%x: memref<9xf32>, %y: memref<8xf32>, %w: memref<2xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(i, k) -> (i + k)>, affine_map<(i, k) -> (k)>, affine_map<(i, k) -> (i)>],
    iterator_types = ["parallel", "reduction"]
  } ins(%x, %w : memref<9xf32>, memref<2xf32>) outs(%y : memref<8xf32>) attrs = {npu.partition_loop = 0 : i64} {
  ^bb0(%in: f32, %tap: f32, %out: f32):
    %0 = arith.maximumf %in, %out : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

// CHECK: error: {{.*}}operand 2 cannot be the stationary one of this operation
// CHECK: help: name the other operand of a contraction, or remove 'npu.stationary'
func.func @invalid_operand(%a: memref<8x3xf32>, %b: memref<8x5xf32>, %y: memref<3x5xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (k, m)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]
  } ins(%a, %b : memref<8x3xf32>, memref<8x5xf32>) outs(%y : memref<3x5xf32>) attrs = {npu.stationary = 2 : i64} {
  ^bb0(%p: f32, %q: f32, %out: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

// -----

// CHECK: error: {{.*}}'npu.partition_loop' is "i", but must be an integer
// CHECK: help: name a loop by its number, or remove the attribute
func.func @invalid_loop_type(%x: memref<8xf32>, %y: memref<8xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
    iterator_types = ["parallel"]
  } ins(%x : memref<8xf32>) outs(%y : memref<8xf32>) attrs = {npu.partition_loop = "i"} {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.addf %in, %in : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

// CHECK: error: {{.*}}'npu.stationary' is "q", but must be an integer
// CHECK: help: name an operand by its number, or remove the attribute
func.func @invalid_operand_type(%a: memref<8x3xf32>, %b: memref<8x5xf32>, %y: memref<3x5xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (k, m)>, affine_map<(m, n, k) -> (k, n)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]
  } ins(%a, %b : memref<8x3xf32>, memref<8x5xf32>) outs(%y : memref<3x5xf32>) attrs = {npu.stationary = "q"} {
  ^bb0(%p: f32, %q: f32, %out: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}
