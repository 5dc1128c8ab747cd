// RUN: %polystage-opt %s --drop-copies | filecheck %s

/// A copy of a tensor is the tensor.

// CHECK-LABEL: @copies
// CHECK-NOT: linalg.copy
// CHECK-NOT: bufferization.alloc_tensor
// CHECK: return %arg0, %arg0
func.func @copies(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %empty = tensor.empty() : tensor<4xf32>
  %a = linalg.copy ins(%x : tensor<4xf32>) outs(%empty : tensor<4xf32>) -> tensor<4xf32>
  %b = bufferization.alloc_tensor() copy(%x) : tensor<4xf32>
  return %a, %b : tensor<4xf32>, tensor<4xf32>
}

/// An allocation without contents is none, and neither is a conversion.

// CHECK-LABEL: @no_copy
// CHECK: bufferization.alloc_tensor
// CHECK: linalg.copy
func.func @no_copy(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf64>) {
  %empty = tensor.empty() : tensor<4xf64>
  %a = bufferization.alloc_tensor() : tensor<4xf32>
  %b = linalg.copy ins(%x : tensor<4xf32>) outs(%empty : tensor<4xf64>) -> tensor<4xf64>
  return %a, %b : tensor<4xf32>, tensor<4xf64>
}
