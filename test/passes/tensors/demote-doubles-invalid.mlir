// RUN: %polystage-opt %s --demote-doubles --verify-diagnostics

/// The bits of an f64 cannot be had from an f32.

func.func @invalid_bits(%x: i64) -> f64 {
  // expected-error@+1 {{demote-doubles: 'arith.bitcast' takes the bits of an f64, which is computed as f32}}
  %y = arith.bitcast %x : i64 to f64
  return %y : f64
}
