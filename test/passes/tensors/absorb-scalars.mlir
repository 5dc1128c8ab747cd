// RUN: %polystage-opt --absorb-scalars %s | filecheck %s

/// A scalar read from a tensor becomes an operand; arithmetic on it moves into the body.

// CHECK-DAG: #[[SCALAR:.*]] = affine_map<(d0) -> ()>
// CHECK-DAG: #[[SECOND:.*]] = affine_map<(d0) -> (1)>
// CHECK-LABEL: func.func @scale
func.func @scale(%x: tensor<8xf32>, %s: tensor<f32>, %t: tensor<3xf32>) -> tensor<8xf32> {
  %c1 = arith.constant 1 : index
  %a = tensor.extract %s[] : tensor<f32>
  %b = tensor.extract %t[%c1] : tensor<3xf32>
  %n = arith.negf %b : f32
  %e = tensor.empty() : tensor<8xf32>
  // CHECK: linalg.generic {{.*}} ins(%arg0, %arg1, %arg2 : tensor<8xf32>, tensor<f32>, tensor<3xf32>)
  // CHECK-NEXT: ^bb0(%[[X:.*]]: f32, %[[A:.*]]: f32, %[[B:.*]]: f32, %{{.*}}: f32):
  // CHECK: %[[N:.*]] = arith.negf %[[B]]
  // CHECK: %[[M:.*]] = arith.mulf %[[X]], %[[A]]
  // CHECK: arith.addf %[[M]], %[[N]]
  %y = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]}
    ins(%x : tensor<8xf32>) outs(%e : tensor<8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.mulf %in, %a : f32
    %r = arith.addf %m, %n : f32
    linalg.yield %r : f32
  } -> tensor<8xf32>
  return %y : tensor<8xf32>
}

/// A fill with a value from a tensor reads it as an operand.

// CHECK-LABEL: func.func @fill
func.func @fill(%s: tensor<f32>) -> tensor<8xf32> {
  %a = tensor.extract %s[] : tensor<f32>
  %e = tensor.empty() : tensor<8xf32>
  // CHECK: linalg.generic {{.*}} ins(%arg0 : tensor<f32>)
  %y = linalg.generic {indexing_maps = [affine_map<(d0) -> ()>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]}
    ins(%a : f32) outs(%e : tensor<8xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  } -> tensor<8xf32>
  return %y : tensor<8xf32>
}

/// A scalar argument does not come from a tensor and stays.

// CHECK-LABEL: func.func @no_argument
func.func @no_argument(%x: tensor<8xf32>, %a: f32) -> tensor<8xf32> {
  %e = tensor.empty() : tensor<8xf32>
  // CHECK: linalg.generic {{.*}} ins(%arg0 : tensor<8xf32>)
  %y = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]}
    ins(%x : tensor<8xf32>) outs(%e : tensor<8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %m = arith.mulf %in, %a : f32
    linalg.yield %m : f32
  } -> tensor<8xf32>
  return %y : tensor<8xf32>
}
