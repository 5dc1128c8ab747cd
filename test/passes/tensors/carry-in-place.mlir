// RUN: %polystage-opt %s --carry-in-place | filecheck %s
// RUN: %polystage-opt %s --carry-in-place --one-shot-bufferize='bufferize-function-boundaries' | filecheck %s --check-prefix=BUFFERS

/// A new tensor per iteration is copied into the buffer of the last.

// CHECK-LABEL: @sum
// CHECK: scf.for {{.*}} iter_args(%[[CARRIED:.*]] = %
// CHECK: %[[SUM:.*]] = linalg.add
// CHECK: %[[KEPT:.*]] = bufferization.materialize_in_destination %[[SUM]] in %[[CARRIED]]
// CHECK: scf.yield %[[KEPT]]
// BUFFERS-LABEL: @sum
// BUFFERS: scf.for
// BUFFERS: linalg.add
// BUFFERS: memref.copy
func.func @sum(%x: tensor<4xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c8 = arith.constant 8 : index
  %r = scf.for %i = %c0 to %c8 step %c1 iter_args(%a = %x) -> tensor<4xf32> {
    %new = tensor.empty() : tensor<4xf32>
    %s = linalg.add ins(%a, %y : tensor<4xf32>, tensor<4xf32>) outs(%new : tensor<4xf32>) -> tensor<4xf32>
    scf.yield %s : tensor<4xf32>
  }
  return %r : tensor<4xf32>
}

/// What is handed on as it came stays.

// CHECK-LABEL: @no_change
// CHECK-NOT: materialize_in_destination
func.func @no_change(%x: tensor<4xf32>) -> tensor<4xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c8 = arith.constant 8 : index
  %r = scf.for %i = %c0 to %c8 step %c1 iter_args(%a = %x) -> tensor<4xf32> {
    scf.yield %a : tensor<4xf32>
  }
  return %r : tensor<4xf32>
}
