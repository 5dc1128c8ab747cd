// RUN: %polystage-opt %s --split-input-file --expand-powers | filecheck %s
// RUN: %polystage-opt %s --split-input-file --expand-powers --remarks 2>&1 >/dev/null | filecheck %s --check-prefix=REMARK

/// Constant exponents: a product, a square root, a reciprocal root, one over a product.

// CHECK-LABEL: @powers
// CHECK-NOT: math.powf
// CHECK-NOT: math.fpowi
// CHECK: %[[SQUARE:.*]] = arith.mulf %arg0, %arg0
// CHECK: %[[CUBE:.*]] = arith.mulf %[[SQUARE]], %arg0
// CHECK: %[[ROOT:.*]] = math.sqrt %arg0
// CHECK: %[[RECIPROCAL:.*]] = math.rsqrt %arg0
// CHECK: %[[SQUARE2:.*]] = arith.mulf %arg0, %arg0
// CHECK: %[[INVERSE:.*]] = arith.divf %{{.*}}, %[[SQUARE2]]
// CHECK: return %[[CUBE]], %[[ROOT]], %[[RECIPROCAL]], %[[INVERSE]]
func.func @powers(%x: f32) -> (f32, f32, f32, f32) {
  %three = arith.constant 3 : i64
  %half = arith.constant 0.5 : f32
  %minus_half = arith.constant -0.5 : f32
  %minus_two = arith.constant -2.0 : f32
  %a = math.fpowi %x, %three : f32, i64
  %b = math.powf %x, %half : f32
  %c = math.powf %x, %minus_half : f32
  %d = math.powf %x, %minus_two : f32
  return %a, %b, %c, %d : f32, f32, f32, f32
}

// -----

/// Other exponents are left to upstream's expansion.

// REMARK: remark: expand-powers: power 0.3 left to upstream
// REMARK: remark: expand-powers: power that is not constant left to upstream
// CHECK-LABEL: @no_other_exponent
// CHECK-COUNT-2: math.powf
func.func @no_other_exponent(%x: f64, %y: f64) -> (f64, f64) {
  %third = arith.constant 0.3 : f64
  %a = math.powf %x, %third : f64
  %b = math.powf %x, %y : f64
  return %a, %b : f64, f64
}
