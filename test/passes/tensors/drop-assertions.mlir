// RUN: %polystage-opt %s --split-input-file --drop-assertions --canonicalize --remarks 2>&1 | filecheck %s

/// The assertion goes, and with it what only it needed.

// CHECK: remark: drop-assertions: dropped assertion 'index must not be negative'
// CHECK-LABEL: @index
// CHECK-NOT: cf.assert
// CHECK-NOT: arith.cmpi
// CHECK: return %arg0
func.func @index(%i: i64) -> i64 {
  %zero = arith.constant 0 : i64
  %ok = arith.cmpi sge, %i, %zero : i64
  cf.assert %ok, "index must not be negative"
  return %i : i64
}

// -----

/// Assertions inside the body of an operation go too.

// CHECK-LABEL: @body
// CHECK-NOT: cf.assert
func.func @body(%x: tensor<4xf32>) -> tensor<4xf32> {
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1.0 : f32
  %y = linalg.generic {
      indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]
    } outs(%x : tensor<4xf32>) {
  ^bb0(%a: f32):
    %ok = arith.cmpf one, %a, %zero : f32
    cf.assert %ok, "division by zero"
    %r = arith.divf %one, %a : f32
    linalg.yield %r : f32
  } -> tensor<4xf32>
  return %y : tensor<4xf32>
}
