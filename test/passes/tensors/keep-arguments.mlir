// RUN: %polystage-opt %s --keep-arguments | filecheck %s
// RUN: %polystage-opt %s --keep-arguments --one-shot-bufferize='bufferize-function-boundaries' | filecheck %s --check-prefix=BUFFERS

/// An input that is updated is copied first.

// CHECK-LABEL: @update
// CHECK-SAME: {bufferization.writable = false, npu.name = "x"}
// BUFFERS-LABEL: @update
// BUFFERS-NOT: bufferization.writable
// BUFFERS: %[[NEW:.*]] = memref.alloc
// BUFFERS: memref.copy %arg0, %[[NEW]]
func.func @update(%x: tensor<4xf32> {npu.name = "x"}, %y: tensor<2xf32>) -> tensor<4xf32> {
  %r = tensor.insert_slice %y into %x[1] [2] [1] : tensor<2xf32> into tensor<4xf32>
  return %r : tensor<4xf32>
}

/// Private functions and buffers are not marked.

// CHECK-LABEL: @no_private
// CHECK-NOT: bufferization.writable
// CHECK-LABEL: @no_buffer
// CHECK-NOT: bufferization.writable
func.func private @no_private(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}
func.func @no_buffer(%x: memref<4xf32>, %y: f32) {
  return
}
