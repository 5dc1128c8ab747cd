// RUN: %polystage-opt --split-input-file --npu-attach-target=target=neuroncore_v2 --npu-schedule-instructions %s | filecheck %s
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=neuroncore_v2 --npu-schedule-instructions --mlir-pass-statistics %s 2>&1 >/dev/null | filecheck %s --check-prefix=STATS
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=neuroncore_v2 --npu-schedule-instructions --remarks %s 2>&1 >/dev/null | filecheck %s --check-prefix=REMARK

/// In the order of the program the vector engine waits for the functions of %a before it doubles %b, which needs no function, and
/// the scalar engine then waits for that. Doubling %b first, both engines are at work at once.

// CHECK-LABEL: func.func private @two_chains
// CHECK: %[[A:.*]] = "npu.alloc"() {address = 0 : i64}
// CHECK: %[[B:.*]] = "npu.alloc"() {address = 2048 : i64}
// CHECK: "npu.elementwise"(%[[B]], %[[B]])
// CHECK: "npu.elementwise"(%[[A]], %[[A]])
// STATS: 1 kernels reordered
// REMARK: kernel 'two_chains': {{[0-9]+}} ns become {{[0-9]+}} ns
#id = affine_map<(i, j) -> (i, j)>
func.func private @double(%x: f32, %o: f32) -> f32 {
  %r = arith.addf %x, %x : f32
  return %r : f32
}
func.func private @two_chains(%x: memref<128x512xf32>, %y: memref<128x512xf32>) attributes {npu.kernel} {
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<128x512xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<128x512xf32>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%a, %a) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%a, %a) {function = "tanh", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%a, %a) {function = "sqrt", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%a, %a) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.elementwise"(%a, %a) {function = @double, engine = #npu.engine<"vector">, sizes = array<i64: 128, 512>, indexing_maps = [#id, #id], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  %b = "npu.alloc"() {address = 2048 : i64} : () -> memref<128x512xf32, #npu.space<"sbuf">>
  "npu.dma"(%y, %b) {cause = "input"} : (memref<128x512xf32>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.elementwise"(%b, %b) {function = @double, engine = #npu.engine<"vector">, sizes = array<i64: 128, 512>, indexing_maps = [#id, #id], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%b, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%a, %x) {cause = "output"} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32>) -> ()
  "npu.dma"(%b, %y) {cause = "output"} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32>) -> ()
  return
}
func.func @main(%x: memref<128x512xf32>, %y: memref<128x512xf32>) {
  call @two_chains(%x, %y) : (memref<128x512xf32>, memref<128x512xf32>) -> ()
  return
}

// -----

/// Both chains take the same buffer: the second cannot begin before the first has been stored.

// CHECK-LABEL: func.func private @no_reordering_of_conflicts
// CHECK: "npu.activate"
// CHECK: "npu.elementwise"
// CHECK: "npu.elementwise"
// CHECK: "npu.activate"
// REMARK: kernel 'no_reordering_of_conflicts' keeps its order, which takes {{[0-9]+}} ns
#id = affine_map<(i, j) -> (i, j)>
func.func private @double(%x: f32, %o: f32) -> f32 {
  %r = arith.addf %x, %x : f32
  return %r : f32
}
func.func private @no_reordering_of_conflicts(%x: memref<128x512xf32>, %y: memref<128x512xf32>) attributes {npu.kernel} {
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<128x512xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<128x512xf32>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%a, %a) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.elementwise"(%a, %a) {function = @double, engine = #npu.engine<"vector">, sizes = array<i64: 128, 512>, indexing_maps = [#id, #id], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%a, %x) {cause = "output"} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32>) -> ()
  %b = "npu.alloc"() {address = 0 : i64} : () -> memref<128x512xf32, #npu.space<"sbuf">>
  "npu.dma"(%y, %b) {cause = "input"} : (memref<128x512xf32>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.elementwise"(%b, %b) {function = @double, engine = #npu.engine<"vector">, sizes = array<i64: 128, 512>, indexing_maps = [#id, #id], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%b, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%b, %y) {cause = "output"} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32>) -> ()
  return
}
func.func @main(%x: memref<128x512xf32>, %y: memref<128x512xf32>) {
  call @no_reordering_of_conflicts(%x, %y) : (memref<128x512xf32>, memref<128x512xf32>) -> ()
  return
}

// -----

/// A loop has its own order in every iteration.

// CHECK-LABEL: func.func private @no_loop
// CHECK: scf.for
// CHECK: "npu.activate"
// CHECK: "npu.elementwise"
// REMARK-NOT: no_loop
#id = affine_map<(i, j) -> (i, j)>
func.func private @double(%x: f32, %o: f32) -> f32 {
  %r = arith.addf %x, %x : f32
  return %r : f32
}
func.func private @no_loop(%x: memref<128x512xf32>, %y: memref<128x512xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.for %i = %c0 to %c1 step %c1 {
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<128x512xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<128x512xf32>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%a, %a) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.elementwise"(%a, %a) {function = @double, engine = #npu.engine<"vector">, sizes = array<i64: 128, 512>, indexing_maps = [#id, #id], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%a, %y) {cause = "output"} : (memref<128x512xf32, #npu.space<"sbuf">>, memref<128x512xf32>) -> ()
  }
  return
}
func.func @main(%x: memref<128x512xf32>, %y: memref<128x512xf32>) {
  call @no_loop(%x, %y) : (memref<128x512xf32>, memref<128x512xf32>) -> ()
  return
}
