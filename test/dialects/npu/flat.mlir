// RUN: %polystage-opt --split-input-file --verify-diagnostics --npu-attach-target=target=flat %s

/// Rules of a flat scratchpad: one partition, sums in sbuf, operands of any size.

/// 100 x 70 x 500 takes twelve passes over an array of 32 x 32, and a window with strides is as good as a buffer.
func.func private @larger_than_the_array() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<1x100x70xbf16, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<1x100x50x20xbf16, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<1x70x50x10xf32, #npu.space<"sbuf">>
  %even = memref.subview %b[0, 0, 0, 0] [1, 100, 50, 10] [1, 1, 1, 2] : memref<1x100x50x20xbf16, #npu.space<"sbuf">> to memref<1x100x50x10xbf16, strided<[100000, 1000, 20, 2]>, #npu.space<"sbuf">>
  "npu.matmul"(%a, %even, %c, %t) : (memref<1x100x70xbf16, #npu.space<"sbuf">>, memref<1x100x50x10xbf16, strided<[100000, 1000, 20, 2]>, #npu.space<"sbuf">>, memref<1x70x50x10xf32, #npu.space<"sbuf">>, i1) -> ()
  return
}

// -----

/// A window at an offset that is not constant: there is one partition, so it is known which.
func.func private @window_at_any_offset(%i: index) {
  %a = "npu.alloc"() : () -> memref<1x8x64xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<1x4x4xf32, #npu.space<"sbuf">>
  %w = memref.reinterpret_cast %a to offset: [%i], sizes: [1, 4, 4], strides: [512, 32, 1] : memref<1x8x64xf32, #npu.space<"sbuf">> to memref<1x4x4xf32, strided<[512, 32, 1], offset: ?>, #npu.space<"sbuf">>
  "npu.dma"(%w, %b) {cause = "copy"} : (memref<1x4x4xf32, strided<[512, 32, 1], offset: ?>, #npu.space<"sbuf">>, memref<1x4x4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_psum() {
  // expected-error@+1 {{'npu.alloc' op allocates in psum, which 'flat' has not; its sums lie in sbuf}}
  %0 = "npu.alloc"() : () -> memref<1x4xf32, #npu.space<"psum">>
  return
}

// -----

func.func private @invalid_partitions() {
  // expected-error@+1 {{'npu.alloc' op takes 2 partitions, but sbuf of 'flat' has 1}}
  %0 = "npu.alloc"() : () -> memref<2x4xf32, #npu.space<"sbuf">>
  return
}
