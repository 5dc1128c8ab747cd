// RUN: not %polystage-opt --split-input-file --npu-attach-target=target=tiny --npu-allocate-scratchpad %s 2>&1 | filecheck %s

/// What does not fit is accounted for: the demand, the capacity, and which buffers are live.

// CHECK: kernel 'invalid_too_much' needs 6144 bytes per partition at once, but sbuf of 'tiny' holds 4096; live are 8x1024xf32 4096, 8x512xf32 2048
// CHECK: help: use a target with a larger scratchpad, or smaller tiles
func.func private @invalid_too_much() attributes {npu.kernel} {
  %a = "npu.alloc"() : () -> memref<8x1024xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<8x512xf32, #npu.space<"sbuf">>
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x1024xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%b) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x512xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x1024xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

/// What is too little room because of an address that is there already is said to be that.

// CHECK: kernel 'invalid_in_the_way' needs 4096 bytes per partition at once, which sbuf of 'tiny' with 4096 would hold, but no addresses keep them apart; live are 8x768xf32 3072, 8x256xf32 1024
// CHECK: help: use a target with a larger scratchpad, or smaller tiles
func.func private @invalid_in_the_way() attributes {npu.kernel} {
  %a = "npu.alloc"() {address = 1024 : i64} : () -> memref<8x256xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<8x768xf32, #npu.space<"sbuf">>
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x256xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%b) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x768xf32, #npu.space<"sbuf">>) -> ()
  "npu.memset"(%a) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<8x256xf32, #npu.space<"sbuf">>) -> ()
  return
}
