// The example of docs/synchronisation.md: every row of a matrix is loaded, scaled and stored.

func.func private @scale(%x: memref<64x16xf32>, %y: memref<64x16xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %c8 = arith.constant 8 : index
  %c64 = arith.constant 64 : index
  scf.for %i = %c0 to %c64 step %c8 {
    %from = memref.subview %x[%i, 0] [8, 16] [1, 1] : memref<64x16xf32> to memref<8x16xf32, strided<[16, 1], offset: ?>>
    %to = memref.subview %y[%i, 0] [8, 16] [1, 1] : memref<64x16xf32> to memref<8x16xf32, strided<[16, 1], offset: ?>>
    %a = "npu.alloc"() {address = 0 : i64, addresses = array<i64: 0, 64>, buffers = 2 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
    %b = "npu.alloc"() {address = 128 : i64} : () -> memref<8x16xf32, #npu.space<"sbuf">>
    "npu.dma"(%from, %a) {cause = "input"} : (memref<8x16xf32, strided<[16, 1], offset: ?>>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
    "npu.activate"(%a, %b) {function = "identity", scale = 2.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, #npu.space<"sbuf">>) -> ()
    "npu.dma"(%b, %to) {cause = "output"} : (memref<8x16xf32, #npu.space<"sbuf">>, memref<8x16xf32, strided<[16, 1], offset: ?>>) -> ()
  }
  return
}

func.func @main(%x: memref<64x16xf32>) -> memref<64x16xf32> {
  %y = memref.alloc() : memref<64x16xf32>
  %z = memref.alloc() : memref<64x16xf32>
  call @scale(%x, %y) {layer = "first"} : (memref<64x16xf32>, memref<64x16xf32>) -> ()
  call @scale(%y, %z) {layer = "second"} : (memref<64x16xf32>, memref<64x16xf32>) -> ()
  return %z : memref<64x16xf32>
}
