// RUN: not %polystage-opt --split-input-file --npu-attach-target=target=tiny --convert-linalg-to-npu %s 2>&1 | filecheck %s

/// What no engine executes is refused with the way out.

// CHECK: error: {{.*}}no engine executes 'math.powf'
// CHECK: help: expand it to arith and unary math operations first (math-expand-ops)
#id = affine_map<(i) -> (i)>
func.func @invalid_function(%x: memref<8xf32>) {
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel"]} outs(%x : memref<8xf32>) {
  ^bb0(%out: f32):
    %r = math.powf %out, %out : f32
    linalg.yield %r : f32
  }
  return
}

// -----

// CHECK: error: {{.*}}a reduction applies 'exp' to what it has accumulated
// CHECK: help: split it: reduce with arith operations only
func.func @invalid_accumulation(%x: memref<8xf32>, %y: memref<f32>) {
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> ()>], iterator_types = ["reduction"]}
    ins(%x : memref<8xf32>) outs(%y : memref<f32>) {
  ^bb0(%in: f32, %out: f32):
    %e = math.exp %out : f32
    %r = arith.addf %e, %in : f32
    linalg.yield %r : f32
  }
  return
}

// -----

// CHECK: error: {{.*}}a scalar is loaded from a place that is not constant
func.func @invalid_scalar(%x: memref<8xf32>, %y: memref<8xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c8 = arith.constant 8 : index
  scf.for %i = %c0 to %c8 step %c1 {
    %s = memref.load %x[%i] : memref<8xf32>
    linalg.generic {indexing_maps = [affine_map<(i) -> (i)>], iterator_types = ["parallel"]} outs(%y : memref<8xf32>) {
    ^bb0(%out: f32):
      %r = arith.addf %out, %s : f32
      linalg.yield %r : f32
    }
  }
  return
}

// -----

/// How much is copied has to be known.
// CHECK: error: {{.*}}operand of type memref<?xf32> has a dynamic shape
// CHECK: help: bind dynamic dimensions at import with --bind name=value
func.func @invalid_copy(%x: memref<?xf32>, %y: memref<?xf32>) {
  memref.copy %x, %y : memref<?xf32> to memref<?xf32>
  return
}

// -----

// CHECK: error: {{.*}}operand of type memref<?xf32> has a dynamic shape
func.func @invalid_copy_of_few(%x: memref<?xf32>, %y: memref<8xf32>) {
  memref.copy %x, %y : memref<?xf32> to memref<8xf32>
  return
}
