// RUN: %polystage-opt --split-input-file --verify-diagnostics %s

/// Rules of queues, semaphores and rotating buffers that hold for every target.

module attributes {npu.semaphores = array<i64: 0>} {
  func.func private @invalid_queue() {
    // expected-error@+1 {{'npu.signal' op queue 'dma' does not exist, allowed are tensor, vector, scalar, gpsimd and dma0, dma1, ..}}
    "npu.signal"() {queue = "dma", semaphore = 0 : i64} : () -> ()
    return
  }
}

// -----

module attributes {npu.semaphores = array<i64: 0>} {
  func.func private @invalid_queue_number() {
    // expected-error@+1 {{'npu.wait' op queue 'dma01' does not exist, allowed are tensor, vector, scalar, gpsimd and dma0, dma1, ..}}
    "npu.wait"() {queue = "dma01", semaphore = 0 : i64} : () -> ()
    return
  }
}

// -----

func.func private @invalid_negative_semaphore() {
  // expected-error@+1 {{'npu.signal' op has semaphore -1, but semaphores are numbered from 0}}
  "npu.signal"() {queue = "tensor", semaphore = -1 : i64} : () -> ()
  return
}

// -----

func.func private @invalid_no_semaphores() {
  // expected-error@+1 {{'npu.wait' op has semaphore 0, but the module declares none in npu.semaphores = array<i64: ..>}}
  "npu.wait"() {queue = "tensor", semaphore = 0 : i64} : () -> ()
  return
}

// -----

module attributes {npu.semaphores = [0, 1]} {
  func.func private @invalid_type_of_semaphores() {
    // expected-error@+1 {{'npu.wait' op has semaphore 0, but the module declares none in npu.semaphores = array<i64: ..>}}
    "npu.wait"() {queue = "tensor", semaphore = 0 : i64} : () -> ()
    return
  }
}

// -----

module attributes {npu.semaphores = array<i64: 0, 1>} {
  func.func private @invalid_undeclared_semaphore() {
    // expected-error@+1 {{'npu.wait' op has semaphore 2, but npu.semaphores of the module declares 2}}
    "npu.wait"() {queue = "tensor", semaphore = 2 : i64} : () -> ()
    return
  }
}

// -----

module attributes {npu.semaphores = array<i64: -1>} {
  func.func private @invalid_initial_value() {
    // expected-error@+1 {{'npu.wait' op has semaphore 0 of initial value -1, which must be at least 0}}
    "npu.wait"() {queue = "tensor", semaphore = 0 : i64} : () -> ()
    return
  }
}

// -----

func.func private @invalid_engine_for_dma(%x: memref<4x4xf32>) {
  %0 = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.dma' op queue 'tensor' moves no data, allowed are dma0, dma1, ..}}
  "npu.dma"(%x, %0) {cause = "input", queue = "tensor"} : (memref<4x4xf32>, memref<4x4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_dma_queue(%x: memref<4x4xf32>) {
  %0 = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.dma' op queue 'fast' does not exist, allowed are dma0, dma1, ..}}
  "npu.dma"(%x, %0) {cause = "input", queue = "fast"} : (memref<4x4xf32>, memref<4x4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_type_of_dma_queue(%x: memref<4x4xf32>) {
  %0 = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.dma' op has the queue 1 : i64, which must be a string}}
  "npu.dma"(%x, %0) {cause = "input", queue = 1 : i64} : (memref<4x4xf32>, memref<4x4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_buffers() {
  // expected-error@+1 {{'npu.alloc' op has buffers = 0 : i64, but needs a positive integer}}
  %0 = "npu.alloc"() {buffers = 0 : i64} : () -> memref<4x4xf32, #npu.space<"sbuf">>
  return
}

// -----

func.func private @invalid_type_of_buffers() {
  // expected-error@+1 {{'npu.alloc' op has buffers = "two", but needs a positive integer}}
  %0 = "npu.alloc"() {buffers = "two"} : () -> memref<4x4xf32, #npu.space<"sbuf">>
  return
}

// -----

func.func private @invalid_rotation_without_a_loop() {
  // expected-error@+1 {{'npu.alloc' op has 2 buffers, but is in no loop that takes them in turn}}
  %0 = "npu.alloc"() {buffers = 2 : i64} : () -> memref<4x4xf32, #npu.space<"sbuf">>
  return
}

// -----

func.func private @invalid_addresses_alone() {
  // expected-error@+1 {{'npu.alloc' op has addresses, but no buffers}}
  %0 = "npu.alloc"() {address = 0 : i64, addresses = array<i64: 0, 64>} : () -> memref<4x4xf32, #npu.space<"sbuf">>
  return
}

// -----

func.func private @invalid_one_address() {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.for %i = %c0 to %c1 step %c1 {
    // expected-error@+1 {{'npu.alloc' op has 2 buffers, but only one address}}
    %0 = "npu.alloc"() {address = 0 : i64, buffers = 2 : i64} : () -> memref<4x4xf32, #npu.space<"sbuf">>
  }
  return
}

// -----

func.func private @invalid_number_of_addresses() {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.for %i = %c0 to %c1 step %c1 {
    // expected-error@+1 {{'npu.alloc' op has the addresses array<i64: 0>, but needs array<i64: ..> with one for each of 2 buffers}}
    %0 = "npu.alloc"() {address = 0 : i64, addresses = array<i64: 0>, buffers = 2 : i64} : () -> memref<4x4xf32, #npu.space<"sbuf">>
  }
  return
}

// -----

func.func private @invalid_first_address() {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  scf.for %i = %c0 to %c1 step %c1 {
    // expected-error@+1 {{'npu.alloc' op has addresses that start with 64, which must be its address too}}
    %0 = "npu.alloc"() {address = 0 : i64, addresses = array<i64: 64, 0>, buffers = 2 : i64} : () -> memref<4x4xf32, #npu.space<"sbuf">>
  }
  return
}

// -----

module attributes {npu.semaphores = array<i64: 0>} {
  func.func private @invalid_type_of_queue() {
    // expected-error@+1 {{'npu.wait' op has the queue 3 : i64, which must be a string}}
    "npu.wait"() {queue = 3 : i64, semaphore = 0 : i64} : () -> ()
    return
  }
}

// -----

module attributes {npu.semaphores = array<i64: 0>} {
  func.func private @invalid_type_of_semaphore() {
    // expected-error@+1 {{'npu.wait' op has the semaphore "a", which must be an integer}}
    "npu.wait"() {queue = "dma0", semaphore = "a"} : () -> ()
    return
  }
}

// -----

func.func private @invalid_type_of_address() {
  // expected-error@+1 {{'npu.alloc' op has the address "x", which must be an integer}}
  %0 = "npu.alloc"() {address = "x"} : () -> memref<4x4xf32, #npu.space<"sbuf">>
  return
}

// -----

func.func private @invalid_type_of_hint() {
  // expected-error@+1 {{'npu.alloc' op has the hint "x", which must be an integer}}
  %0 = "npu.alloc"() {hint = "x"} : () -> memref<4x4xf32, #npu.space<"sbuf">>
  return
}
