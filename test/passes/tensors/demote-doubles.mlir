// RUN: %polystage-opt %s --split-input-file --demote-doubles | filecheck %s

/// Types change everywhere, casts between f32 and f64 disappear.

// CHECK-LABEL: @variance
// CHECK-SAME: tensor<8xf32>
// CHECK-NOT: f64
// CHECK-NOT: arith.extf
// CHECK: arith.mulf {{.*}} : f32
// CHECK-NOT: arith.truncf
func.func @variance(%x: tensor<8xf32>) -> tensor<8xf32> {
  %empty = tensor.empty() : tensor<8xf64>
  %y = linalg.generic {
      indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
      iterator_types = ["parallel"]
    } ins(%x : tensor<8xf32>) outs(%empty : tensor<8xf64>) {
  ^bb0(%a: f32, %b: f64):
    %wide = arith.extf %a : f32 to f64
    %square = arith.mulf %wide, %wide : f64
    linalg.yield %square : f64
  } -> tensor<8xf64>
  %narrow = arith.truncf %y : tensor<8xf64> to tensor<8xf32>
  return %narrow : tensor<8xf32>
}

// -----

/// Constants: infinities stay, numbers beyond f32 become its largest.

// CHECK-LABEL: @constants
// CHECK: arith.constant 1.500000e+00 : f32
// CHECK: arith.constant 0xFF800000 : f32
// CHECK: arith.constant -3.40282347E+38 : f32
// CHECK: arith.constant dense<[1.000000e+00, 2.000000e+00]> : tensor<2xf32>
func.func @constants() -> (f64, f64, f64, tensor<2xf64>) {
  %a = arith.constant 1.5 : f64
  %b = arith.constant 0xFFF0000000000000 : f64
  %c = arith.constant -1.79769e+308 : f64
  %d = arith.constant dense<[1.0, 2.0]> : tensor<2xf64>
  return %a, %b, %c, %d : f64, f64, f64, tensor<2xf64>
}

// -----

/// What is narrower than f32 keeps its casts, to and from f32.

// CHECK-LABEL: @no_cast_of_half
// CHECK: arith.extf {{.*}} : f16 to f32
// CHECK: arith.truncf {{.*}} : f32 to f16
func.func @no_cast_of_half(%x: f16) -> f16 {
  %wide = arith.extf %x : f16 to f64
  %sum = arith.addf %wide, %wide : f64
  %narrow = arith.truncf %sum : f64 to f16
  return %narrow : f16
}
