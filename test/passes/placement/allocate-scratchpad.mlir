// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-allocate-scratchpad %s | filecheck %s
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-allocate-scratchpad --remarks %s 2>&1 >/dev/null | filecheck %s --check-prefix=REMARK
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-allocate-scratchpad=opposite-ends=false %s | filecheck %s --check-prefix=START

/// Buffers that live at the same time lie side by side; one that lives later takes the place of one that is gone,
/// where there is no other.

// CHECK-LABEL: func.func private @reuse
func.func private @reuse(%x: memref<8x400xf32>, %y: memref<8x400xf32>) attributes {npu.kernel} {
  // CHECK: "npu.alloc"() {address = 0 : i64}
  %a = "npu.alloc"() : () -> memref<8x400xf32, #npu.space<"sbuf">>
  // CHECK: "npu.alloc"() {address = 1600 : i64}
  %b = "npu.alloc"() : () -> memref<8x400xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x400xf32>, memref<8x400xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x400xf32, #npu.space<"sbuf">>, memref<8x400xf32, #npu.space<"sbuf">>) -> ()
  // CHECK: "npu.alloc"() {address = 0 : i64}
  %c = "npu.alloc"() : () -> memref<8x400xf32, #npu.space<"sbuf">>
  "npu.activate"(%b, %c) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x400xf32, #npu.space<"sbuf">>, memref<8x400xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%c, %y) {cause = "output"} : (memref<8x400xf32, #npu.space<"sbuf">>, memref<8x400xf32>) -> ()
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
    "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
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
  "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x4xf32, #npu.space<"psum">>, memref<8x4xf32, #npu.space<"psum">>) -> ()
  return
}

// -----

/// While there is room, buffers share nothing: nobody has to wait for a place.

// CHECK-LABEL: func.func private @no_reuse
func.func private @no_reuse(%x: memref<8x16xf32>, %y: memref<8x16xf32>) attributes {npu.kernel} {
  // CHECK: "npu.alloc"() {address = 0 : i64}
  %a = "npu.alloc"() : () -> memref<8x16xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%a, %y) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32>) -> ()
  // CHECK: "npu.alloc"() {address = 64 : i64}
  %b = "npu.alloc"() : () -> memref<8x16xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %b) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%b, %y) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32>) -> ()
  return
}

// -----

/// A buffer that rotates has several places, an accumulator as many banks.

// CHECK-LABEL: func.func private @rotate
func.func private @rotate(%y: memref<8x4xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  scf.for %i = %c0 to %c4 step %c1 {
    // CHECK: "npu.alloc"() {address = 0 : i64, addresses = array<i64: 0, 64>, buffers = 2 : i64} : () -> memref<8x4xf32, #npu.space<"psum">>
    %a = "npu.alloc"() {buffers = 2 : i64} : () -> memref<8x4xf32, #npu.space<"psum">>
    // CHECK: "npu.alloc"() {address = 0 : i64, addresses = array<i64: 0, 16, 32>, buffers = 3 : i64} : () -> memref<8x4xf32, #npu.space<"sbuf">>
    %b = "npu.alloc"() {buffers = 3 : i64} : () -> memref<8x4xf32, #npu.space<"sbuf">>
    "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x4xf32, #npu.space<"psum">>, memref<8x4xf32, #npu.space<"sbuf">>) -> ()
    "npu.dma"(%b, %y) {cause = "output"} : (memref<8x4xf32, #npu.space<"sbuf">>, memref<8x4xf32>) -> ()
  }
  return
}

// -----

/// Where places do not fit, the largest buffer gives them up one by one, down to a single one.

// CHECK-LABEL: func.func private @give_up
// REMARK: buffer 8x700xf32 has 2 instead of 3 places, for which sbuf is too small
// REMARK: buffer 8x700xf32 has 1 instead of 2 places, for which sbuf is too small
// REMARK-NOT: 8x100xf32
func.func private @give_up(%x: memref<8x700xf32>, %y: memref<8x100xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  scf.for %i = %c0 to %c4 step %c1 {
    // CHECK: "npu.alloc"() {address = 0 : i64} : () -> memref<8x700xf32
    %a = "npu.alloc"() {buffers = 3 : i64} : () -> memref<8x700xf32, #npu.space<"sbuf">>
    // CHECK: "npu.alloc"() {address = 2800 : i64, addresses = array<i64: 2800, 3200>, buffers = 2 : i64} : () -> memref<8x100xf32
    %b = "npu.alloc"() {buffers = 2 : i64} : () -> memref<8x100xf32, #npu.space<"sbuf">>
    "npu.dma"(%x, %a) {cause = "input"} : (memref<8x700xf32>, memref<8x700xf32, #npu.space<"sbuf">>) -> ()
    "npu.dma"(%b, %y) {cause = "output"} : (memref<8x100xf32, #npu.space<"sbuf">>, memref<8x100xf32>) -> ()
    "npu.dma"(%x, %a) {cause = "input"} : (memref<8x700xf32>, memref<8x700xf32, #npu.space<"sbuf">>) -> ()
  }
  return
}

// -----

/// Kernels that follow each other lie at opposite ends, so that the second need not wait for the first to bring its
/// weights in; those come first, where the other end is farthest.

// CHECK-LABEL: func.func private @first
// START-LABEL: func.func private @first
func.func private @first(%x: memref<8x16xf32>) attributes {npu.kernel} {
  // CHECK: "npu.alloc"() {address = 0 : i64}
  // START: "npu.alloc"() {address = 0 : i64}
  %a = "npu.alloc"() : () -> memref<8x16xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  return
}
// CHECK-LABEL: func.func private @second
// START-LABEL: func.func private @second
func.func private @second(%x: memref<8x16xf32>, %w: memref<8x8xf32>) attributes {npu.kernel} {
  // CHECK: "npu.alloc"() {address = 4000 : i64}
  // START: "npu.alloc"() {address = 32 : i64}
  %a = "npu.alloc"() : () -> memref<8x16xf32, #npu.space<"sbuf">>
  // CHECK: "npu.alloc"() {address = 4064 : i64}
  // START: "npu.alloc"() {address = 0 : i64}
  %b = "npu.alloc"() : () -> memref<8x8xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%w, %b) {cause = "weight"} : (memref<8x8xf32>, memref<8x8xf32, #npu.space<"sbuf">>) -> ()
  return
}
func.func @main(%x: memref<8x16xf32>, %w: memref<8x8xf32>) {
  func.call @first(%x) : (memref<8x16xf32>) -> ()
  func.call @second(%x, %w) : (memref<8x16xf32>, memref<8x8xf32>) -> ()
  func.call @first(%x) : (memref<8x16xf32>) -> ()
  return
}

// -----

/// None of the orders that are always tried leads to addresses that fill the memory to the last byte; a variation does.

// CHECK-LABEL: func.func private @search
func.func private @search() attributes {npu.kernel} {
  // CHECK: "npu.alloc"() {address = 0 : i64} : () -> memref<8x384xf32
  %c = "npu.alloc"() : () -> memref<8x384xf32, #npu.space<"sbuf">>
  "npu.memset"(%c) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x384xf32, #npu.space<"sbuf">>) -> ()
  // CHECK: "npu.alloc"() {address = 2560 : i64} : () -> memref<8x384xf32
  %a = "npu.alloc"() : () -> memref<8x384xf32, #npu.space<"sbuf">>
  // CHECK: "npu.alloc"() {address = 1536 : i64} : () -> memref<8x256xf32
  %d = "npu.alloc"() : () -> memref<8x256xf32, #npu.space<"sbuf">>
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x384xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%d) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x256xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%c) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x384xf32, #npu.space<"sbuf">>) -> ()
  // CHECK: "npu.alloc"() {address = 0 : i64} : () -> memref<8x512xf32
  %b = "npu.alloc"() : () -> memref<8x512xf32, #npu.space<"sbuf">>
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x384xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%b) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x512xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

/// An address that is there already stays, and others go around it.

// CHECK-LABEL: func.func private @fixed
func.func private @fixed() attributes {npu.kernel} {
  // CHECK: "npu.alloc"() {address = 0 : i64} : () -> memref<8x384xf32
  %a = "npu.alloc"() : () -> memref<8x384xf32, #npu.space<"sbuf">>
  // CHECK: "npu.alloc"() {address = 1536 : i64} : () -> memref<8x512xf32
  %b = "npu.alloc"() {address = 1536 : i64} : () -> memref<8x512xf32, #npu.space<"sbuf">>
  // CHECK: "npu.alloc"() {address = 3584 : i64} : () -> memref<8x128xf32
  %e = "npu.alloc"() : () -> memref<8x128xf32, #npu.space<"sbuf">>
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x384xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%b) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%e) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x128xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x384xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%b) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x512xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

/// Places are given up where most is live, not by larger buffers that are elsewhere.

// CHECK-LABEL: func.func private @give_up_where_most_is
// REMARK: buffer 8x400xf32 has 1 instead of 2 places, for which sbuf is too small
// REMARK-NOT: 8x500xf32
func.func private @give_up_where_most_is(%x: memref<8x500xf32>, %y: memref<8x400xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  scf.for %i = %c0 to %c4 step %c1 {
    // CHECK: buffers = 2 : i64} : () -> memref<8x500xf32
    %a = "npu.alloc"() {buffers = 2 : i64} : () -> memref<8x500xf32, #npu.space<"sbuf">>
    "npu.dma"(%x, %a) {cause = "input"} : (memref<8x500xf32>, memref<8x500xf32, #npu.space<"sbuf">>) -> ()
  }
  // CHECK: "npu.alloc"() {address = {{[0-9]+}} : i64} : () -> memref<8x600xf32
  %c = "npu.alloc"() : () -> memref<8x600xf32, #npu.space<"sbuf">>
  scf.for %i = %c0 to %c4 step %c1 {
    // CHECK: "npu.alloc"() {address = {{[0-9]+}} : i64} : () -> memref<8x400xf32
    %b = "npu.alloc"() {buffers = 2 : i64} : () -> memref<8x400xf32, #npu.space<"sbuf">>
    "npu.dma"(%y, %b) {cause = "input"} : (memref<8x400xf32>, memref<8x400xf32, #npu.space<"sbuf">>) -> ()
    "npu.memset"(%c) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x600xf32, #npu.space<"sbuf">>) -> ()
  }
  return
}

// -----

/// The largest first do not go in, but in the order of their hints, buffers lie no higher than these.

// CHECK-LABEL: func.func private @hints
// CHECK-NOT: hint
func.func private @hints() attributes {npu.kernel} {
  // CHECK: "npu.alloc"() {address = 2048 : i64} : () -> memref<8x512xf32
  %a = "npu.alloc"() {hint = 2048 : i64} : () -> memref<8x512xf32, #npu.space<"sbuf">>
  // CHECK: "npu.alloc"() {address = 0 : i64} : () -> memref<8x96xf32
  %b = "npu.alloc"() {hint = 0 : i64} : () -> memref<8x96xf32, #npu.space<"sbuf">>
  // CHECK: "npu.alloc"() {address = 384 : i64} : () -> memref<8x416xf32
  %c = "npu.alloc"() {hint = 384 : i64} : () -> memref<8x416xf32, #npu.space<"sbuf">>
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x512xf32, #npu.space<"sbuf">>) -> ()
  // CHECK: "npu.alloc"() {address = 2048 : i64} : () -> memref<8x192xf32
  %d = "npu.alloc"() {hint = 2048 : i64} : () -> memref<8x192xf32, #npu.space<"sbuf">>
  "npu.memset"(%c) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x416xf32, #npu.space<"sbuf">>) -> ()
  // CHECK: "npu.alloc"() {address = 384 : i64} : () -> memref<8x384xf32
  %e = "npu.alloc"() {hint = 384 : i64} : () -> memref<8x384xf32, #npu.space<"sbuf">>
  "npu.memset"(%e) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x384xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%b) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x96xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%d) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x192xf32, #npu.space<"sbuf">>) -> ()
  return
}
