// RUN: %polystage-opt --split-input-file --npu-attach-target="target=flat set=scratchpad_bytes=65536" --npu-fuse-operators %s | filecheck %s
// RUN: %polystage-opt --split-input-file --npu-attach-target="target=flat set=scratchpad_bytes=65536" --npu-fuse-operators=max-group=1 %s | filecheck %s --check-prefix=ALONE
// RUN: %polystage-opt --split-input-file --npu-attach-target="target=flat set=scratchpad_bytes=65536" --npu-fuse-operators --remarks --mlir-pass-statistics %s 2>&1 >/dev/null | filecheck %s --check-prefix=REMARK

#input = affine_map<(f, x, c, t) -> (c, x + t)>
#filter = affine_map<(f, x, c, t) -> (f, c, t)>
#result = affine_map<(f, x, c, t) -> (f, x)>
#id = affine_map<(f, x) -> (f, x)>

/// Two filters of three taps, one after the other. What is between them is larger than the scratchpad; it exists as a window
/// that slides along x, and every element of it is computed once.
// CHECK-LABEL: @main
// CHECK-SAME: npu.groups = [{loops = {{\[\[}}1, {{[0-9]+}}]]
// CHECK-SAME: t = "window"
// ALONE-LABEL: @main
// ALONE-SAME: t = "streamed"
// REMARK: group 0: {{.*}}, 2 operators; {{.*}} steps {{.*}} 0 more than it must; takes {{[0-9]+}} ns; ends with the program
// REMARK: compulsory bytes
// REMARK-NEXT: least bytes of operators alone
// REMARK-NEXT: least nanoseconds
func.func @main(%x: memref<16x2052xf32>, %v: memref<16x16x3xf32>, %w: memref<16x16x3xf32>, %y: memref<16x2048xf32>) {
  %zero = arith.constant 0.0 : f32
  %h = memref.alloc() : memref<16x2050xf32>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%h : memref<16x2050xf32>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  // CHECK: npu.group = 0 : i64
  // ALONE: npu.group = 0 : i64
  linalg.generic {indexing_maps = [#input, #filter, #result], iterator_types = ["parallel", "parallel", "reduction", "reduction"]}
    ins(%x, %v : memref<16x2052xf32>, memref<16x16x3xf32>) outs(%h : memref<16x2050xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %m = arith.mulf %a, %b : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%y : memref<16x2048xf32>) {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  // CHECK: npu.group = 0 : i64
  // ALONE: npu.group = 1 : i64
  linalg.generic {indexing_maps = [#input, #filter, #result], iterator_types = ["parallel", "parallel", "reduction", "reduction"]}
    ins(%h, %w : memref<16x2050xf32>, memref<16x16x3xf32>) outs(%y : memref<16x2048xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %m = arith.mulf %a, %b : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

// -----

#id = affine_map<(d) -> (d)>

/// What fits stays on chip between groups; there is nothing to step through.
// CHECK-LABEL: @main
// CHECK-SAME: t = "resident"
// CHECK-SAME: t = "resident"
// REMARK: leaves t on chip
func.func @main(%x: memref<64xf32>, %y: memref<64xf32>, %z: memref<64xf32>) {
  %h = memref.alloc() : memref<64xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%x : memref<64xf32>) outs(%h : memref<64xf32>) {
  ^bb0(%a: f32, %out: f32):
    %s = math.exp %a : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%h : memref<64xf32>) outs(%y : memref<64xf32>) {
  ^bb0(%a: f32, %out: f32):
    %s = math.exp %a : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%h : memref<64xf32>) outs(%z : memref<64xf32>) {
  ^bb0(%a: f32, %out: f32):
    %s = arith.negf %a : f32
    linalg.yield %s : f32
  }
  return
}
