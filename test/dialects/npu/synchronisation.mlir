// RUN: %polystage-opt %s | %polystage-opt | filecheck %s
// RUN: %polystage-opt --emit-irdl=npu > %t.irdl.mlir && torch-mlir-opt --irdl-file=%t.irdl.mlir %s | filecheck %s

/// Queues, semaphores and rotating buffers survive a round trip.

module attributes {npu.semaphores = array<i64: 0, 2>} {
  // CHECK-LABEL: func.func private @kernel
  func.func private @kernel(%x: memref<32x64xf32>) attributes {npu.kernel} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    scf.for %i = %c0 to %c4 step %c1 {
      // CHECK: "npu.alloc"() {address = 64 : i64, addresses = array<i64: 64, 512>, buffers = 2 : i64}
      %b = "npu.alloc"() {address = 64 : i64, addresses = array<i64: 64, 512>, buffers = 2 : i64} : () -> memref<8x64xf32, #npu.space<"sbuf">>
      %at = arith.muli %i, %c4 : index
      %v = memref.subview %x[%at, 0] [8, 64] [1, 1] : memref<32x64xf32> to memref<8x64xf32, strided<[64, 1], offset: ?>>
      // CHECK: "npu.wait"() {queue = "dma0", semaphore = 1 : i64} : () -> ()
      "npu.wait"() {queue = "dma0", semaphore = 1 : i64} : () -> ()
      // CHECK: "npu.dma"{{.*}} {cause = "input", queue = "dma0"}
      "npu.dma"(%v, %b) {cause = "input", queue = "dma0"} : (memref<8x64xf32, strided<[64, 1], offset: ?>>, memref<8x64xf32, #npu.space<"sbuf">>) -> ()
      // CHECK: "npu.signal"() {queue = "dma0", semaphore = 0 : i64} : () -> ()
      "npu.signal"() {queue = "dma0", semaphore = 0 : i64} : () -> ()
      "npu.wait"() {queue = "scalar", semaphore = 0 : i64} : () -> ()
      "npu.activate"(%b, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x64xf32, #npu.space<"sbuf">>, memref<8x64xf32, #npu.space<"sbuf">>) -> ()
      "npu.signal"() {queue = "scalar", semaphore = 1 : i64} : () -> ()
    }
    return
  }
}
