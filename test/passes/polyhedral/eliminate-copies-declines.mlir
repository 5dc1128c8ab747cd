// RUN: %polystage-opt --poly-eliminate-copies --split-input-file %s | filecheck %s
// RUN: %polystage-opt --poly-eliminate-copies --remarks --split-input-file %s 2>&1 >/dev/null | filecheck %s --check-prefix=REMARK

/// What stays, and why. See eliminate-copies.mlir for what goes.


/// An input that is an output as it is has to be stored there.
// CHECK-LABEL: @no_input_to_output
// CHECK: memref.copy
// REMARK: stays: an input, a weight or another output is an output as it is
func.func @no_input_to_output(%x: memref<8xf32>, %y: memref<8xf32>) {
  memref.copy %x, %y : memref<8xf32> to memref<8xf32>
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// The source changes between the copy and who reads it; and it is an argument, which stays where it is.
// CHECK-LABEL: @no_overwritten_source
// CHECK: memref.copy
// REMARK: stays: source is overwritten before it is read ('elementwise_1' reads it)
func.func @no_overwritten_source(%x: memref<8xf32>, %y: memref<8xf32>, %z: memref<8xf32>) {
  %t = memref.alloc() : memref<8xf32>
  memref.copy %x, %t : memref<8xf32> to memref<8xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%z : memref<8xf32>) outs(%x : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.exp %i0 : f32
    linalg.yield %0 : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%t : memref<8xf32>) outs(%y : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.log %i0 : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// A sum that starts from what is copied is kept where the copy puts it.
// CHECK-LABEL: @no_accumulator
// CHECK: memref.copy
// REMARK: stays: the reader accumulates onto what the pair writes ('reduction' reads it)
func.func @no_accumulator(%x: memref<8xf32>, %w: memref<8x4xf32>, %y: memref<8xf32>) {
  %t = memref.alloc() : memref<8xf32>
  memref.copy %x, %t : memref<8xf32> to memref<8xf32>
  linalg.generic {indexing_maps = [affine_map<(i, k) -> (i, k)>, affine_map<(i, k) -> (i)>],
                  iterator_types = ["parallel", "reduction"]}
      ins(%w : memref<8x4xf32>) outs(%t : memref<8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = arith.addf %in, %out : f32
    linalg.yield %0 : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%t : memref<8xf32>) outs(%y : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.log %i0 : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// The reader writes the source, other elements of it than it reads.
// CHECK-LABEL: @no_reader_that_replaces_the_source
// CHECK: memref.copy
// REMARK: stays: the reader overwrites the source while it reads ('elementwise' reads it)
func.func @no_reader_that_replaces_the_source(%x: memref<8xf32>) {
  %t = memref.alloc() : memref<8xf32>
  memref.copy %x, %t : memref<8xf32> to memref<8xf32>
  linalg.generic {indexing_maps = [affine_map<(i) -> (7 - i)>, #id], iterator_types = ["parallel"]}
      ins(%t : memref<8xf32>) outs(%x : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.exp %i0 : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// Of what is computed only a half is wanted.
// CHECK-LABEL: @no_part_backward
// CHECK: memref.copy
// REMARK: stays: only a part of the source is copied ('elementwise' uses more)
func.func @no_part_backward(%x: memref<8xf32>, %y: memref<4xf32>) {
  %t = memref.alloc() : memref<8xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : memref<8xf32>) outs(%t : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.exp %i0 : f32
    linalg.yield %0 : f32
  }
  %h = memref.subview %t[4] [4] [1] : memref<8xf32> to memref<4xf32, strided<[1], offset: 4>>
  memref.copy %h, %y : memref<4xf32, strided<[1], offset: 4>> to memref<4xf32>
  return
}

// -----

/// A broadcast into an output: one element computed has several places.
// CHECK-LABEL: @no_broadcast_backward
// CHECK: linalg.yield %in : f32
// REMARK: stays: an element of the source is copied to several places
func.func @no_broadcast_backward(%x: memref<8xf32>, %y: memref<3x8xf32>) {
  %t = memref.alloc() : memref<8xf32>
  linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
                  iterator_types = ["parallel"]}
      ins(%x : memref<8xf32>) outs(%t : memref<8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %0 = math.exp %in : f32
    linalg.yield %0 : f32
  }
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%t : memref<8xf32>) outs(%y : memref<3x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// The old value of the output is read after what replaces it has been computed.
// CHECK-LABEL: @no_target_read_before
// CHECK: memref.copy
// REMARK: stays: target is read while the source is being computed (at 'elementwise_1')
func.func @no_target_read_before(%x: memref<8xf32>, %y: memref<8xf32>, %z: memref<8xf32>) {
  %t = memref.alloc() : memref<8xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : memref<8xf32>) outs(%t : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.exp %i0 : f32
    linalg.yield %0 : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%y : memref<8xf32>) outs(%z : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.log %i0 : f32
    linalg.yield %0 : f32
  }
  memref.copy %t, %y : memref<8xf32> to memref<8xf32>
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// The output is written in between.
// CHECK-LABEL: @no_target_written_before
// CHECK: memref.copy
// REMARK: stays: target is written while the source is being computed ('elementwise_1' writes it)
func.func @no_target_written_before(%x: memref<8xf32>, %y: memref<8xf32>, %z: memref<8xf32>) {
  %t = memref.alloc() : memref<8xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : memref<8xf32>) outs(%t : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.exp %i0 : f32
    linalg.yield %0 : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%z : memref<8xf32>) outs(%y : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.log %i0 : f32
    linalg.yield %0 : f32
  }
  %a = memref.subview %y[0] [4] [1] : memref<8xf32> to memref<4xf32, strided<[1]>>
  %b = memref.subview %t[0] [4] [1] : memref<8xf32> to memref<4xf32, strided<[1]>>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%y : memref<8xf32>) outs(%z : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.exp %i0 : f32
    linalg.yield %0 : f32
  }
  memref.copy %t, %y : memref<8xf32> to memref<8xf32>
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// The output changes afterwards, while the source is still read as it was.
// CHECK-LABEL: @no_target_changed_after
// CHECK: memref.copy
// REMARK: stays: target is overwritten while the source is still read (at 'elementwise_1')
func.func @no_target_changed_after(%x: memref<8xf32>, %y: memref<8xf32>, %z: memref<8xf32>) {
  %t = memref.alloc() : memref<8xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : memref<8xf32>) outs(%t : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.exp %i0 : f32
    linalg.yield %0 : f32
  }
  memref.copy %t, %y : memref<8xf32> to memref<8xf32>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel"]}
      outs(%y : memref<8xf32>) {
  ^bb0(%out: f32):
    %0 = arith.negf %out : f32
    linalg.yield %0 : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%t : memref<8xf32>) outs(%z : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.log %i0 : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// The source changes after it was stored in the output.
// CHECK-LABEL: @no_source_changed_after
// CHECK: memref.copy
// REMARK: stays: source is overwritten while the copy is still read
func.func @no_source_changed_after(%x: memref<8xf32>, %y: memref<8xf32>, %z: memref<8xf32>) {
  %t = memref.alloc() : memref<8xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : memref<8xf32>) outs(%t : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.exp %i0 : f32
    linalg.yield %0 : f32
  }
  memref.copy %t, %y : memref<8xf32> to memref<8xf32>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel"]}
      outs(%t : memref<8xf32>) {
  ^bb0(%out: f32):
    %0 = arith.negf %out : f32
    linalg.yield %0 : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%t : memref<8xf32>) outs(%z : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.log %i0 : f32
    linalg.yield %0 : f32
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// What one iteration computes goes into the next as well as into the output.
// CHECK-LABEL: @no_carried_source
// CHECK: memref.copy
// REMARK: stays: source keeps values from one iteration of a loop to the next
func.func @no_carried_source(%y: memref<4x8xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %t = memref.alloc() : memref<8xf32>
  scf.for %i = %c0 to %c4 step %c1 {
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel"]}
      outs(%t : memref<8xf32>) {
  ^bb0(%out: f32):
    %0 = arith.negf %out : f32
    linalg.yield %0 : f32
  }
  %row = memref.subview %y[%i, 0] [1, 8] [1, 1]
      : memref<4x8xf32> to memref<8xf32, strided<[1], offset: ?>>
  memref.copy %t, %row : memref<8xf32> to memref<8xf32, strided<[1], offset: ?>>
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// The loop around the copy changes the source, which is made before the loop.
// CHECK-LABEL: @no_source_changed_in_the_loop
// CHECK: memref.copy
// REMARK: stays: the loop around it changes the source as well
func.func @no_source_changed_in_the_loop(%x: memref<4x8xf32>, %y: memref<4x8xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %t = memref.alloc() : memref<4x8xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%x : memref<4x8xf32>) outs(%t : memref<4x8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.exp %i0 : f32
    linalg.yield %0 : f32
  }
  scf.for %i = %c0 to %c4 step %c1 {
  %old = memref.subview %t[%i, 0] [1, 8] [1, 1]
      : memref<4x8xf32> to memref<8xf32, strided<[1], offset: ?>>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel"]}
      outs(%old : memref<8xf32, strided<[1], offset: ?>>) {
  ^bb0(%out: f32):
    %0 = arith.negf %out : f32
    linalg.yield %0 : f32
  }
  %row = memref.subview %y[%i, 0] [1, 8] [1, 1]
      : memref<4x8xf32> to memref<8xf32, strided<[1], offset: ?>>
  memref.copy %old, %row : memref<8xf32, strided<[1], offset: ?>> to memref<8xf32, strided<[1], offset: ?>>
  }
  return
}

// -----

#id = affine_map<(i) -> (i)>

/// Each iteration reads the output as it was before; its row may not be there while they run.
// CHECK-LABEL: @no_target_read_in_the_loop
// CHECK: memref.copy
// REMARK: stays: target is read while the source is being computed
func.func @no_target_read_in_the_loop(%y: memref<4x8xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %t = memref.alloc() : memref<8xf32>
  scf.for %i = %c0 to %c4 step %c1 {
  %old = memref.alloc() : memref<4x8xf32>
  memref.copy %y, %old : memref<4x8xf32> to memref<4x8xf32>
  %row = memref.subview %old[%i, 0] [1, 8] [1, 1]
      : memref<4x8xf32> to memref<8xf32, strided<[1], offset: ?>>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%row : memref<8xf32, strided<[1], offset: ?>>) outs(%t : memref<8xf32>) {
  ^bb0(%i0: f32, %out: f32):
    %0 = math.exp %i0 : f32
    linalg.yield %0 : f32
  }
  }
  %first = memref.subview %y[0, 0] [1, 8] [1, 1] : memref<4x8xf32> to memref<8xf32, strided<[1]>>
  memref.copy %t, %first : memref<8xf32> to memref<8xf32, strided<[1]>>
  return
}

// -----


/// An array is moved along within itself.
// CHECK-LABEL: @no_copy_within_an_array
// CHECK: memref.copy
// REMARK: stays: it copies within one array
func.func @no_copy_within_an_array(%y: memref<8xf32>) {
  %a = memref.subview %y[0] [4] [1] : memref<8xf32> to memref<4xf32, strided<[1]>>
  %b = memref.subview %y[4] [4] [1] : memref<8xf32> to memref<4xf32, strided<[1], offset: 4>>
  memref.copy %a, %b : memref<4xf32, strided<[1]>> to memref<4xf32, strided<[1], offset: 4>>
  return
}

// -----

func.func private @unknown(memref<8xf32>)

/// A call may do anything with its arguments.
// CHECK-LABEL: @no_copy_for_a_call
// CHECK: memref.copy
// REMARK: stays: target is used in a way that is not understood
func.func @no_copy_for_a_call(%x: memref<8xf32>) {
  %t = memref.alloc() : memref<8xf32>
  memref.copy %x, %t : memref<8xf32> to memref<8xf32>
  func.call @unknown(%t) : (memref<8xf32>) -> ()
  return
}

// -----

/// A contraction that would read the same for every column of its result stays on the tensor engine.
// CHECK-LABEL: @no_repeated_operand
// CHECK: ins(%arg0 : memref<8xf32>)
// CHECK: ins(%arg1, %{{.*}} : memref<4x8xf32>, memref<8x16xf32>)
// REMARK: stays: the tensor engine cannot repeat an operand
func.func @no_repeated_operand(%x: memref<8xf32>, %w: memref<4x8xf32>, %y: memref<4x16xf32>) {
  %t = memref.alloc() : memref<8x16xf32>
  linalg.generic {indexing_maps = [affine_map<(k, n) -> (k)>, affine_map<(k, n) -> (k, n)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%x : memref<8xf32>) outs(%t : memref<8x16xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  }
  linalg.generic {indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>,
                                   affine_map<(m, n, k) -> (m, n)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%w, %t : memref<4x8xf32>, memref<8x16xf32>) outs(%y : memref<4x16xf32>) {
  ^bb0(%l: f32, %r: f32, %out: f32):
    %p = arith.mulf %l, %r : f32
    %s = arith.addf %out, %p : f32
    linalg.yield %s : f32
  }
  return
}

// -----

/// One that repeats an operand as it is, for p, may repeat another.
// CHECK-LABEL: @repeats_already
// CHECK-NOT: memref.alloc
// CHECK: ins(%arg1, %arg0 : memref<4x8xf32>, memref<8xf32>)
func.func @repeats_already(%x: memref<8xf32>, %w: memref<4x8xf32>, %y: memref<4x16x2xf32>) {
  %t = memref.alloc() : memref<8x16xf32>
  linalg.generic {indexing_maps = [affine_map<(k, n) -> (k)>, affine_map<(k, n) -> (k, n)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%x : memref<8xf32>) outs(%t : memref<8x16xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  }
  linalg.generic {indexing_maps = [affine_map<(m, n, p, k) -> (m, k)>, affine_map<(m, n, p, k) -> (k, n)>,
                                   affine_map<(m, n, p, k) -> (m, n, p)>],
                  iterator_types = ["parallel", "parallel", "parallel", "reduction"]}
      ins(%w, %t : memref<4x8xf32>, memref<8x16xf32>) outs(%y : memref<4x16x2xf32>) {
  ^bb0(%l: f32, %r: f32, %out: f32):
    %q = arith.mulf %l, %r : f32
    %s = arith.addf %out, %q : f32
    linalg.yield %s : f32
  }
  return
}
