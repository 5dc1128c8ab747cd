// RUN: %polystage-opt %s --drop-assertions --verify-diagnostics

/// What is false for every input is not dropped but reported.

func.func @invalid_always_false() {
  %false = arith.constant false
  // expected-error@+1 {{drop-assertions: assertion 'rank must be 4' is false for every input}}
  cf.assert %false, "rank must be 4"
  return
}
