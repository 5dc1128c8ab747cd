// RUN: %polystage-opt --split-input-file --verify-diagnostics --npu-attach-target=target=tiny %s

/// Rules with the limits of a target: `tiny` has 8 partitions of 4096 bytes, an 8 x 8 array, 16 moving columns, psum banks of
/// 64 bytes, and starts accesses at quarters of its partitions.

func.func private @invalid_sums() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<1x4x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.matmul' op has its sums in sbuf, but the array of 'tiny' adds up in psum}}
  "npu.matmul"(%a, %a, %a, %t) : (memref<1x4x4xf32, #npu.space<"sbuf">>, memref<1x4x4xf32, #npu.space<"sbuf">>, memref<1x4x4xf32, #npu.space<"sbuf">>, i1) -> ()
  return
}

// -----

func.func private @invalid_partitions() {
  // expected-error@+1 {{'npu.alloc' op takes 9 partitions, but sbuf of 'tiny' has 8}}
  %0 = "npu.alloc"() : () -> memref<9x4xf32, #npu.space<"sbuf">>
  return
}

// -----

func.func private @invalid_bytes() {
  // expected-error@+1 {{'npu.alloc' op takes 4100 bytes per partition, but a partition of sbuf of 'tiny' holds 4096}}
  %0 = "npu.alloc"() : () -> memref<8x1025xf32, #npu.space<"sbuf">>
  return
}

// -----

func.func private @invalid_address() {
  // expected-error@+1 {{'npu.alloc' op lies at bytes [4090, 4106), but sbuf of 'tiny' ends at 4096}}
  %0 = "npu.alloc"() {address = 4090 : i64} : () -> memref<8x4xf32, #npu.space<"sbuf">>
  return
}

// -----

func.func private @invalid_bank_size() {
  // expected-error@+1 {{'npu.alloc' op takes 68 bytes per partition, but one psum bank of 'tiny' holds 64}}
  %0 = "npu.alloc"() : () -> memref<8x17xf32, #npu.space<"psum">>
  return
}

// -----

func.func private @invalid_bank_crossing() {
  // expected-error@+1 {{'npu.alloc' op lies at bytes [32, 96) and crosses a psum bank of 64 bytes}}
  %0 = "npu.alloc"() {address = 32 : i64} : () -> memref<8x16xf32, #npu.space<"psum">>
  return
}

// -----

func.func private @invalid_second_address() {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.for %i = %c0 to %c1 step %c1 {
    // expected-error@+1 {{'npu.alloc' op lies at bytes [4090, 4106), but sbuf of 'tiny' ends at 4096}}
    %0 = "npu.alloc"() {address = 0 : i64, addresses = array<i64: 0, 4090>, buffers = 2 : i64} : () -> memref<8x4xf32, #npu.space<"sbuf">>
  }
  return
}

// -----

func.func private @invalid_second_bank_crossing() {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.for %i = %c0 to %c1 step %c1 {
    // expected-error@+1 {{'npu.alloc' op lies at bytes [96, 160) and crosses a psum bank of 64 bytes}}
    %0 = "npu.alloc"() {address = 0 : i64, addresses = array<i64: 0, 96>, buffers = 2 : i64} : () -> memref<8x16xf32, #npu.space<"psum">>
  }
  return
}

// -----

func.func private @invalid_overlapping_places() {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.for %i = %c0 to %c1 step %c1 {
    // expected-error@+1 {{'npu.alloc' op has overlapping places at bytes [8, 24) and [16, 32)}}
    %0 = "npu.alloc"() {address = 16 : i64, addresses = array<i64: 16, 8>, buffers = 2 : i64} : () -> memref<8x4xf32, #npu.space<"sbuf">>
  }
  return
}

// -----

func.func private @invalid_dma_queue(%x: memref<8x4xf32>) {
  %a = "npu.alloc"() : () -> memref<8x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.dma' op queue 'dma2' does not exist, 'tiny' has dma0, dma1}}
  "npu.dma"(%x, %a) {cause = "input", queue = "dma2"} : (memref<8x4xf32>, memref<8x4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

module attributes {npu.semaphores = array<i64: 0>} {
  func.func private @invalid_queue() {
    // expected-error@+1 {{'npu.wait' op queue 'dma2' does not exist, 'tiny' has tensor, vector, scalar, gpsimd, dma0, dma1}}
    "npu.wait"() {queue = "dma2", semaphore = 0 : i64} : () -> ()
    return
  }
}

// -----

func.func private @invalid_columns() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<4x17xbf16, #npu.space<"sbuf">>
  %w = "npu.alloc"() : () -> memref<4x4xbf16, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<4x16xf32, #npu.space<"psum">>
  %d = memref.reinterpret_cast %c to offset: [0], sizes: [4, 17], strides: [16, 1] : memref<4x16xf32, #npu.space<"psum">> to memref<4x17xf32, strided<[16, 1]>, #npu.space<"psum">>
  // expected-error@+1 {{'npu.matmul' op has 17 moving columns, but the tensor engine of 'tiny' takes 16}}
  "npu.matmul"(%w, %b, %d, %t) : (memref<4x4xbf16, #npu.space<"sbuf">>, memref<4x17xbf16, #npu.space<"sbuf">>, memref<4x17xf32, strided<[16, 1]>, #npu.space<"psum">>, i1) -> ()
  return
}

// -----

func.func private @invalid_stationary_columns() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<4x9xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<8x4xf32, #npu.space<"psum">>
  %d = memref.reinterpret_cast %c to offset: [0], sizes: [9, 4], strides: [4, 1] : memref<8x4xf32, #npu.space<"psum">> to memref<9x4xf32, strided<[4, 1]>, #npu.space<"psum">>
  // expected-error@+1 {{'npu.matmul' op has 9 stationary columns, but the tensor engine of 'tiny' holds 8}}
  "npu.matmul"(%a, %b, %d, %t) : (memref<4x9xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"sbuf">>, memref<9x4xf32, strided<[4, 1]>, #npu.space<"psum">>, i1) -> ()
  return
}

// -----

func.func private @invalid_start() {
  %a = "npu.alloc"() : () -> memref<8x4xf32, #npu.space<"sbuf">>
  %b = memref.subview %a[3, 0] [3, 4] [1, 1] : memref<8x4xf32, #npu.space<"sbuf">> to memref<3x4xf32, strided<[4, 1], offset: 12>, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.memset' op operand 0 takes 3 partitions from 3, but such an access starts at 0, 4}}
  "npu.memset"(%b) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<3x4xf32, strided<[4, 1], offset: 12>, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_free_dims() {
  %a = "npu.alloc"() : () -> memref<8x3x3x3x3x3xf32, #npu.space<"sbuf">>
  %b = memref.subview %a[0, 0, 0, 0, 0, 0] [8, 2, 2, 2, 2, 2] [1, 1, 1, 1, 1, 1] : memref<8x3x3x3x3x3xf32, #npu.space<"sbuf">> to memref<8x2x2x2x2x2xf32, strided<[243, 81, 27, 9, 3, 1]>, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.memset' op operand 0 needs 5 free dimensions, but an access of 'tiny' has 4}}
  "npu.memset"(%b) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x2x2x2x2x2xf32, strided<[243, 81, 27, 9, 3, 1]>, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_transpose_size() {
  %a = "npu.alloc"() : () -> memref<4x9xf32, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<8x4xf32, #npu.space<"psum">>
  %d = memref.reinterpret_cast %c to offset: [0], sizes: [9, 4], strides: [4, 1] : memref<8x4xf32, #npu.space<"psum">> to memref<9x4xf32, strided<[4, 1]>, #npu.space<"psum">>
  // expected-error@+1 {{'npu.transpose' op transposes 4 x 9, but the array of 'tiny' is 8 x 8}}
  "npu.transpose"(%a, %d) : (memref<4x9xf32, #npu.space<"sbuf">>, memref<9x4xf32, strided<[4, 1]>, #npu.space<"psum">>) -> ()
  return
}

// -----

func.func private @invalid_free_size() {
  %a = "npu.alloc"() : () -> memref<8x1024xf32, #npu.space<"sbuf">>
  %b = memref.reinterpret_cast %a to offset: [0], sizes: [8, 70000], strides: [1024, 1] : memref<8x1024xf32, #npu.space<"sbuf">> to memref<8x70000xf32, strided<[1024, 1]>, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.memset' op operand 0 has a free dimension of 70000 elements, but an access of 'tiny' takes 65535}}
  "npu.memset"(%b) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x70000xf32, strided<[1024, 1]>, #npu.space<"sbuf">>) -> ()
  return
}

// -----

/// Dimensions that together have more elements than fit one are not merged.

func.func private @free_sizes_apart() {
  %a = "npu.alloc"() : () -> memref<8x1024xf32, #npu.space<"sbuf">>
  %b = memref.reinterpret_cast %a to offset: [0], sizes: [8, 2, 35000], strides: [1024, 35000, 1] : memref<8x1024xf32, #npu.space<"sbuf">> to memref<8x2x35000xf32, strided<[1024, 35000, 1]>, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.memset' op operand 0 has a stride of 35000 elements, but an access of 'tiny' reaches 32767}}
  "npu.memset"(%b) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x2x35000xf32, strided<[1024, 35000, 1]>, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_transfer_dims(%x: memref<3x3x3x3x3x3x3x3x3xi8>) {
  %a = "npu.alloc"() : () -> memref<2x2x2x2x2x2x2x2x2xi8, #npu.space<"sbuf">>
  %b = memref.subview %x[0, 0, 0, 0, 0, 0, 0, 0, 0] [2, 2, 2, 2, 2, 2, 2, 2, 2] [1, 1, 1, 1, 1, 1, 1, 1, 1] : memref<3x3x3x3x3x3x3x3x3xi8> to memref<2x2x2x2x2x2x2x2x2xi8, strided<[6561, 2187, 729, 243, 81, 27, 9, 3, 1]>>
  // expected-error@+1 {{'npu.dma' op needs 9 dimensions for its source, but a transfer of 'tiny' has 8}}
  "npu.dma"(%b, %a) {cause = "input"} : (memref<2x2x2x2x2x2x2x2x2xi8, strided<[6561, 2187, 729, 243, 81, 27, 9, 3, 1]>>, memref<2x2x2x2x2x2x2x2x2xi8, #npu.space<"sbuf">>) -> ()
  return
}
