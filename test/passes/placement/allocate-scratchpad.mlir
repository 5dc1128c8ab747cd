// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-allocate-scratchpad %s | filecheck %s

/// Buffers that live at the same time lie side by side; one that lives later takes the place of one that is gone.

// CHECK-LABEL: func.func private @reuse
func.func private @reuse(%x: memref<8x16xf32>, %y: memref<8x16xf32>) attributes {npu.kernel} {
  // CHECK: "npu.alloc"() {address = 0 : i64}
  %a = "npu.alloc"() : () -> memref<8x16xf32, #npu.space<"sbuf">>
  // CHECK: "npu.alloc"() {address = 64 : i64}
  %b = "npu.alloc"() : () -> memref<8x16xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  // CHECK: "npu.alloc"() {address = 0 : i64}
  %c = "npu.alloc"() : () -> memref<8x16xf32, #npu.space<"sbuf">>
  "npu.activate"(%b, %c) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%c, %y) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32>) -> ()
  return
}

// -----

/// A buffer from outside a loop lives as long as the loop; one inside it does not share its place.

// CHECK-LABEL: func.func private @loop
func.func private @loop(%x: memref<8x16xf32>, %y: memref<8x16xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  // CHECK: "npu.alloc"() {address = 0 : i64}
  %a = "npu.alloc"() : () -> memref<8x16xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  scf.for %i = %c0 to %c4 step %c1 {
    // CHECK: "npu.alloc"() {address = 64 : i64}
    %b = "npu.alloc"() : () -> memref<8x16xf32, #npu.space<"sbuf">>
    "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
    "npu.dma"(%b, %y) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32>) -> ()
  }
  return
}

// -----

/// Every accumulator has a psum bank of its own.

// CHECK-LABEL: func.func private @banks
func.func private @banks() attributes {npu.kernel} {
  // CHECK: "npu.alloc"() {address = 0 : i64} : () -> memref<8x4xf32, #npu.space<"psum">>
  %a = "npu.alloc"() : () -> memref<8x4xf32, #npu.space<"psum">>
  // CHECK: "npu.alloc"() {address = 64 : i64} : () -> memref<8x4xf32, #npu.space<"psum">>
  %b = "npu.alloc"() : () -> memref<8x4xf32, #npu.space<"psum">>
  "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32} : (memref<8x4xf32, #npu.space<"psum">>, memref<8x4xf32, #npu.space<"psum">>) -> ()
  return
}
