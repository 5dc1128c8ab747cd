/// `--split-input-file` keeps line numbers; `--verify-diagnostics` compares errors with comments.

// RUN: %polystage-opt %s --split-input-file --verify-diagnostics
// RUN: not %polystage-opt %s --split-input-file 2>&1 | filecheck %s

func.func @good() {
  return
}

// -----

func.func @invalid_space() {
  // CHECK: polystage-opt-diagnostics.mlir:[[# @LINE + 3]]:8: error: 'npu.alloc' op allocates in dram
  // CHECK-NEXT: %a = "npu.alloc"
  // expected-error@below {{'npu.alloc' op allocates in dram, but only sbuf and psum are allocated}}
  %a = "npu.alloc"() : () -> memref<4x4xf32>
  return
}

// -----

func.func @invalid_parse() {
  // expected-error@+1 {{undeclared SSA value}}
  return %a : f32
}
