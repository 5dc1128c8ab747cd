// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-insert-sync %s | filecheck %s
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-insert-sync --remarks %s 2>&1 >/dev/null | filecheck %s --check-prefix=REMARK
// RUN: %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-insert-sync=reduce=false %s | filecheck %s --check-prefix=ALL

/// A load, a computation, a store, tile after tile. The scalar engine waits for the load of its tile, the store for the engine; the
/// load of the next tile waits until the engine has read this one, and the engine until the tile before is stored. In the first
/// iteration the last two have nothing to wait for: their semaphores start at 1.

// CHECK: npu.semaphores = array<i64: 1, 0, 1, 0>
// CHECK-LABEL: func.func private @exp
func.func private @exp(%x: memref<32x16xf32>, %y: memref<32x16xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c8 = arith.constant 8 : index
  %c32 = arith.constant 32 : index
  scf.for %i = %c0 to %c32 step %c8 {
    %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
    %b = "npu.alloc"() {address = 64 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
    %from = memref.subview %x[%i, 0] [8, 16] [1, 1] : memref<32x16xf32> to memref<8x16xf32, strided<[16, 1], offset: ?>>
    %to = memref.subview %y[%i, 0] [8, 16] [1, 1] : memref<32x16xf32> to memref<8x16xf32, strided<[16, 1], offset: ?>>
    // CHECK: "npu.wait"() {queue = "dma0", semaphore = 0 : i64}
    // CHECK-NEXT: "npu.dma"{{.*}} {cause = "input", queue = "dma0"}
    // CHECK-NEXT: "npu.signal"() {queue = "dma0", semaphore = 1 : i64}
    "npu.dma"(%from, %a) {cause = "input"} : (memref<8x16xf32, strided<[16, 1], offset: ?>>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
    // CHECK-DAG: "npu.wait"() {queue = "scalar", semaphore = 1 : i64}
    // CHECK-DAG: "npu.wait"() {queue = "scalar", semaphore = 2 : i64}
    // CHECK: "npu.activate"
    // CHECK-DAG: "npu.signal"() {queue = "scalar", semaphore = 0 : i64}
    // CHECK-DAG: "npu.signal"() {queue = "scalar", semaphore = 3 : i64}
    "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
    // CHECK: "npu.wait"() {queue = "dma1", semaphore = 3 : i64}
    // CHECK-NEXT: "npu.dma"{{.*}} {cause = "output", queue = "dma1"}
    // CHECK-NEXT: "npu.signal"() {queue = "dma1", semaphore = 2 : i64}
    "npu.dma"(%b, %to) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, strided<[16, 1], offset: ?>>) -> ()
  }
  return
}

// -----

/// In a straight line: one order for the load, none between what touches different bytes.

// CHECK: npu.semaphores = array<i64: 0>
// CHECK-LABEL: func.func private @straight_line
func.func private @straight_line(%x: memref<8x16xf32>) attributes {npu.kernel} {
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() {address = 64 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  %c = "npu.alloc"() {address = 128 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  // CHECK: "npu.dma"
  // CHECK-NEXT: "npu.signal"() {queue = "dma0", semaphore = 0 : i64}
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  // CHECK-NEXT: "npu.memset"
  "npu.memset"(%c) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  // CHECK-NEXT: "npu.wait"() {queue = "scalar", semaphore = 0 : i64}
  // CHECK-NEXT: "npu.activate"
  "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  // CHECK-NEXT: return
  return
}

// -----

/// A buffer of two places: the load may be two iterations ahead.

// CHECK: npu.semaphores = array<i64: 2, 0>
// CHECK-LABEL: func.func private @rotating_buffers
func.func private @rotating_buffers(%x: memref<64x16xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c8 = arith.constant 8 : index
  %c64 = arith.constant 64 : index
  %b = "npu.alloc"() {address = 512 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  scf.for %i = %c0 to %c64 step %c8 {
    %a = "npu.alloc"() {address = 0 : i64, addresses = array<i64: 0, 128>, buffers = 2 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
    %from = memref.subview %x[%i, 0] [8, 16] [1, 1] : memref<64x16xf32> to memref<8x16xf32, strided<[16, 1], offset: ?>>
    // CHECK: "npu.wait"() {queue = "dma0", semaphore = 0 : i64}
    // CHECK-NEXT: "npu.dma"
    // CHECK-NEXT: "npu.signal"() {queue = "dma0", semaphore = 1 : i64}
    "npu.dma"(%from, %a) {cause = "input"} : (memref<8x16xf32, strided<[16, 1], offset: ?>>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
    // CHECK-NEXT: "npu.wait"() {queue = "scalar", semaphore = 1 : i64}
    // CHECK-NEXT: "npu.activate"
    // CHECK-NEXT: "npu.signal"() {queue = "scalar", semaphore = 0 : i64}
    "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  }
  return
}

// -----

/// A loop reads row i and writes row i + 2 of one buffer: the reader of the next execution but one waits.

// CHECK: npu.semaphores = array<i64: 2>
// CHECK-LABEL: func.func private @distance
func.func private @distance() attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c6 = arith.constant 6 : index
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x8x16xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() {address = 1024 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  scf.for %i = %c0 to %c6 step %c1 {
    %j = arith.addi %i, %c2 : index
    %read = memref.subview %a[0, %i, 0] [8, 1, 16] [1, 1, 1] : memref<8x8x16xf32, #npu.space<"sbuf">> to memref<8x16xf32, strided<[128, 1], offset: ?>, #npu.space<"sbuf">>
    %write = memref.subview %a[0, %j, 0] [8, 1, 16] [1, 1, 1] : memref<8x8x16xf32, #npu.space<"sbuf">> to memref<8x16xf32, strided<[128, 1], offset: ?>, #npu.space<"sbuf">>
    // CHECK: "npu.wait"() {queue = "scalar", semaphore = 0 : i64}
    // CHECK-NEXT: "npu.activate"
    "npu.activate"(%read, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x16xf32, strided<[128, 1], offset: ?>, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
    // CHECK-NEXT: "npu.memset"
    // CHECK-NEXT: "npu.signal"() {queue = "vector", semaphore = 0 : i64}
    "npu.memset"(%write) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x16xf32, strided<[128, 1], offset: ?>, #npu.space<"sbuf">>) -> ()
  }
  return
}

// -----

/// The load waits for the scalar engine, which has waited for the vector engine: no order between these two is needed. With
/// `reduce=false` there is one.

// CHECK: npu.semaphores = array<i64: 0, 0>
// CHECK-LABEL: func.func private @redundant
// ALL-LABEL: func.func private @redundant
func.func private @redundant(%x: memref<8x16xf32>) attributes {npu.kernel} {
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() {address = 64 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  // CHECK: "npu.memset"
  // CHECK-NEXT: "npu.signal"() {queue = "vector", semaphore = 0 : i64}
  // CHECK-NEXT: "npu.wait"() {queue = "scalar", semaphore = 0 : i64}
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  // CHECK-NEXT: "npu.activate"
  // CHECK-NEXT: "npu.signal"() {queue = "scalar", semaphore = 1 : i64}
  // CHECK-NEXT: "npu.wait"() {queue = "dma0", semaphore = 1 : i64}
  "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  // ALL: "npu.activate"
  // ALL: "npu.wait"() {queue = "dma0",
  // ALL: "npu.wait"() {queue = "dma0",
  // CHECK-NEXT: "npu.dma"
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

/// The second kernel takes the bytes of the first and reads what it stores: its load waits for the store, and that of the next
/// inference for the last store of this one. One semaphore serves both, and starts with the token of the latter. All other orders
/// follow.

// CHECK: npu.semaphores = array<i64: 0, 0, 0, 0, 1>
// CHECK-LABEL: func.func private @first
func.func private @first(%x: memref<8x16xf32>, %y: memref<8x16xf32>) attributes {npu.kernel} {
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  "npu.activate"(%a, %a) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%a, %y) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32>) -> ()
  return
}

func.func private @second(%x: memref<8x16xf32>, %y: memref<8x16xf32>) attributes {npu.kernel} {
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%a, %y) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32>) -> ()
  return
}

// CHECK-LABEL: func.func @main
func.func @main(%x: memref<8x16xf32>) -> memref<8x16xf32> {
  %y = memref.alloc() : memref<8x16xf32>
  %z = memref.alloc() : memref<8x16xf32>
  // CHECK: "npu.wait"() {queue = "dma0", semaphore = 4 : i64}
  // CHECK-NEXT: call @first
  // CHECK-NEXT: "npu.signal"() {queue = "dma1", semaphore = 4 : i64}
  // CHECK-NEXT: "npu.wait"() {queue = "dma0", semaphore = 4 : i64}
  // CHECK-NEXT: call @second
  // CHECK-NEXT: "npu.signal"() {queue = "dma1", semaphore = 4 : i64}
  call @first(%x, %y) : (memref<8x16xf32>, memref<8x16xf32>) -> ()
  call @second(%y, %z) : (memref<8x16xf32>, memref<8x16xf32>) -> ()
  return %z : memref<8x16xf32>
}

// -----

/// Two inferences of a kernel that keeps its bytes: its first load waits until the store of the inference before has read them.

// CHECK: npu.semaphores = array<i64: 0, 1>
// CHECK-LABEL: func.func private @copy
func.func private @copy(%x: memref<8x16xf32>, %y: memref<8x16xf32>) attributes {npu.kernel} {
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  "npu.dma"(%x, %a) {cause = "input"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  "npu.dma"(%a, %y) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32>) -> ()
  return
}

// CHECK-LABEL: func.func @main
func.func @main(%x: memref<8x16xf32>) -> memref<8x16xf32> {
  %y = memref.alloc() : memref<8x16xf32>
  // CHECK: "npu.wait"() {queue = "dma0", semaphore = 1 : i64}
  // CHECK-NEXT: call @copy
  // CHECK-NEXT: "npu.signal"() {queue = "dma1", semaphore = 1 : i64}
  call @copy(%x, %y) : (memref<8x16xf32>, memref<8x16xf32>) -> ()
  return %y : memref<8x16xf32>
}

// -----

/// Parts of an array that a quotient and a remainder choose are told apart: no tile is stored twice.

// CHECK: npu.semaphores = array<i64: 0>
// CHECK-LABEL: func.func private @quotients
func.func private @quotients(%y: memref<16x32xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c4 = arith.constant 4 : index
  %c8 = arith.constant 8 : index
  %c16 = arith.constant 16 : index
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  // CHECK: "npu.memset"
  // CHECK-NEXT: "npu.signal"() {queue = "vector", semaphore = 0 : i64}
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  // CHECK: "npu.wait"() {queue = "dma1", semaphore = 0 : i64}
  // CHECK-NEXT: scf.for
  scf.for %i = %c0 to %c4 step %c1 {
    %row = arith.divui %i, %c2 : index
    %column = arith.remui %i, %c2 : index
    %r = arith.muli %row, %c8 : index
    %c = arith.muli %column, %c16 : index
    %to = memref.subview %y[%r, %c] [8, 16] [1, 1] : memref<16x32xf32> to memref<8x16xf32, strided<[32, 1], offset: ?>>
    "npu.dma"(%a, %to) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, strided<[32, 1], offset: ?>>) -> ()
  }
  return
}

// -----

/// The product of loop variables is not affine: whatever is accessed through it counts as anything, and the load of an iteration waits
/// for the store of the one before.

// CHECK-LABEL: func.func private @no_affine_index
func.func private @no_affine_index(%y: memref<32x16xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() {address = 64 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  scf.for %i = %c0 to %c4 step %c1 {
    // REMARK: remark: npu-insert-sync: the index is not affine in loop variables: accesses through it may touch any part of a buffer
    %s = arith.muli %i, %i : index
    %v = memref.subview %y[%s, 0] [8, 16] [1, 1] : memref<32x16xf32> to memref<8x16xf32, strided<[16, 1], offset: ?>>
    // CHECK: "npu.wait"() {queue = "dma0", semaphore = 0 : i64}
    // CHECK-NEXT: "npu.dma"
    "npu.dma"(%v, %a) {cause = "input"} : (memref<8x16xf32, strided<[16, 1], offset: ?>>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
    // CHECK-NEXT: "npu.signal"() {queue = "dma0", semaphore = 1 : i64}
    // CHECK-NEXT: "npu.wait"() {queue = "dma1", semaphore = 1 : i64}
    // CHECK-NEXT: "npu.dma"
    // CHECK-NEXT: "npu.signal"() {queue = "dma1", semaphore = 0 : i64}
    "npu.dma"(%b, %v) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, strided<[16, 1], offset: ?>>) -> ()
  }
  return
}

// -----

/// A transfer that names a queue keeps it, and a kernel of one queue needs no semaphore.

// CHECK: npu.semaphores = array<i64>
// CHECK-LABEL: func.func private @one_queue
func.func private @one_queue(%x: memref<8x16xf32>, %y: memref<8x16xf32>) attributes {npu.kernel} {
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  // CHECK: "npu.dma"{{.*}} {cause = "input", queue = "dma1"}
  "npu.dma"(%x, %a) {cause = "input", queue = "dma1"} : (memref<8x16xf32>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  // CHECK-NEXT: "npu.dma"{{.*}} {cause = "output", queue = "dma1"}
  "npu.dma"(%a, %y) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32>) -> ()
  return
}

// -----

/// An array that starts anywhere: the types of its windows are equal, but the second load reads what is stored, the first does not.

// CHECK: npu.semaphores = array<i64: 0>
// CHECK-LABEL: func.func private @anywhere
func.func private @anywhere(%x: memref<32x16xf32, strided<[16, 1], offset: ?>>) attributes {npu.kernel} {
  %a = "npu.alloc"() {address = 0 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() {address = 64 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  %c = "npu.alloc"() {address = 128 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
  %to = memref.subview %x[24, 4] [8, 8] [1, 1] : memref<32x16xf32, strided<[16, 1], offset: ?>> to memref<8x8xf32, strided<[16, 1], offset: ?>>
  %part = memref.subview %c[0, 0] [8, 8] [1, 1] : memref<8x16xf32, #npu.space<"sbuf">> to memref<8x8xf32, strided<[16, 1]>, #npu.space<"sbuf">>
  %first = memref.subview %x[0, 0] [8, 16] [1, 1] : memref<32x16xf32, strided<[16, 1], offset: ?>> to memref<8x16xf32, strided<[16, 1], offset: ?>>
  %second = memref.subview %x[24, 0] [8, 16] [1, 1] : memref<32x16xf32, strided<[16, 1], offset: ?>> to memref<8x16xf32, strided<[16, 1], offset: ?>>
  // CHECK: "npu.dma"{{.*}}cause = "output"
  // CHECK-NEXT: "npu.signal"() {queue = "dma1", semaphore = 0 : i64}
  "npu.dma"(%part, %to) {cause = "output"} : (memref<8x8xf32, strided<[16, 1]>, #npu.space<"sbuf">>, memref<8x8xf32, strided<[16, 1], offset: ?>>) -> ()
  // CHECK-NEXT: "npu.dma"
  "npu.dma"(%first, %a) {cause = "input"} : (memref<8x16xf32, strided<[16, 1], offset: ?>>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  // CHECK-NEXT: "npu.wait"() {queue = "dma0", semaphore = 0 : i64}
  // CHECK-NEXT: "npu.dma"
  "npu.dma"(%second, %b) {cause = "input"} : (memref<8x16xf32, strided<[16, 1], offset: ?>>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
  return
}
