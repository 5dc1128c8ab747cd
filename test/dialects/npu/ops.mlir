// RUN: %polystage-opt %s | %polystage-opt | filecheck %s
// RUN: %polystage-opt --emit-irdl=npu > %t.irdl.mlir && torch-mlir-opt --irdl-file=%t.irdl.mlir %s | filecheck %s

/// Every operation survives a round trip, here and in the stock opt tool that knows npu from IRDL only.

#id = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>

func.func private @relu(%x: f32, %out: f32) -> f32 {
  %zero = arith.constant 0.0 : f32
  %max = arith.maximumf %x, %zero : f32
  return %max : f32
}

func.func private @sum(%x: f32, %out: f32) -> f32 {
  %sum = arith.addf %x, %out : f32
  return %sum : f32
}

// CHECK-LABEL: func.func private @alloc_and_dma
func.func private @alloc_and_dma(%x: memref<8x64xf32>) attributes {npu.kernel} {
  // CHECK: %[[B:.*]] = "npu.alloc"() {address = 64 : i64} : () -> memref<8x64xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() {address = 64 : i64} : () -> memref<8x64xf32, #npu.space<"sbuf">>
  // CHECK: "npu.dma"(%{{.*}}, %[[B]]) {cause = "input"}
  "npu.dma"(%x, %b) {cause = "input"} : (memref<8x64xf32>, memref<8x64xf32, #npu.space<"sbuf">>) -> ()
  return
}

// CHECK-LABEL: func.func private @overlay
func.func private @overlay(%a: memref<2x3xf32>, %b: memref<4x2xf32, strided<[8, 1], offset: 6>>, %o: memref<4x6xf32>) {
  // CHECK: %[[P:.*]] = "npu.overlay"(%{{.*}}) {fill = 0.000000e+00 : f32, offsets = array<i64: 1, 0>} : (memref<2x3xf32>) -> memref<4x6xf32>
  %p = "npu.overlay"(%a) {fill = 0.0 : f32, offsets = array<i64: 1, 0>} : (memref<2x3xf32>) -> memref<4x6xf32>
  // CHECK: %[[Q:.*]] = "npu.overlay"(%{{.*}}, %[[P]]) {offsets = array<i64: 0, 4>}
  %q = "npu.overlay"(%b, %p) {offsets = array<i64: 0, 4>} : (memref<4x2xf32, strided<[8, 1], offset: 6>>, memref<4x6xf32>) -> memref<4x6xf32>
  // CHECK: linalg.generic {{.*}} ins(%[[Q]] :
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]} ins(%q : memref<4x6xf32>) outs(%o : memref<4x6xf32>) {
  ^bb0(%x: f32, %y: f32):
    %s = math.sqrt %x : f32
    linalg.yield %s : f32
  }
  return
}

// CHECK-LABEL: func.func private @matmul
func.func private @matmul() attributes {npu.kernel} {
  %false = arith.constant false
  %a = "npu.alloc"() : () -> memref<16x8xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<16x4x4xf32, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<8x4x4xf32, #npu.space<"psum">>
  // CHECK: "npu.matmul"
  "npu.matmul"(%a, %b, %c, %false) : (memref<16x8xf32, #npu.space<"sbuf">>, memref<16x4x4xf32, #npu.space<"sbuf">>, memref<8x4x4xf32, #npu.space<"psum">>, i1) -> ()
  return
}

/// An identity or ones: what it multiplies is no part of a contraction of the model.

// CHECK-LABEL: func.func private @auxiliary_matmul
func.func private @auxiliary_matmul() attributes {npu.kernel} {
  %true = arith.constant true
  %a = "npu.alloc"() : () -> memref<16x16xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<16x4xf32, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<16x4xf32, #npu.space<"psum">>
  // CHECK: "npu.matmul"({{.*}}) {auxiliary}
  "npu.matmul"(%a, %b, %c, %true) {auxiliary} : (memref<16x16xf32, #npu.space<"sbuf">>, memref<16x4xf32, #npu.space<"sbuf">>, memref<16x4xf32, #npu.space<"psum">>, i1) -> ()
  return
}

// CHECK-LABEL: func.func private @transpose
func.func private @transpose() attributes {npu.kernel} {
  %a = "npu.alloc"() : () -> memref<16x8xbf16, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<8x16xbf16, #npu.space<"psum">>
  // CHECK: "npu.transpose"
  "npu.transpose"(%a, %b) : (memref<16x8xbf16, #npu.space<"sbuf">>, memref<8x16xbf16, #npu.space<"psum">>) -> ()
  return
}

// CHECK-LABEL: func.func private @lanes
func.func private @lanes() attributes {npu.kernel} {
  %a = "npu.alloc"() : () -> memref<16x8xf32, #npu.space<"sbuf">>
  %s = "npu.alloc"() : () -> memref<16xf32, #npu.space<"sbuf">>
  // CHECK: "npu.memset"
  "npu.memset"(%s) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<16xf32, #npu.space<"sbuf">>) -> ()
  // CHECK: "npu.elementwise"
  "npu.elementwise"(%a, %a) {function = @relu, engine = #npu.engine<"vector">, sizes = array<i64: 16, 8>, indexing_maps = [#id, #id], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<16x8xf32, #npu.space<"sbuf">>, memref<16x8xf32, #npu.space<"sbuf">>) -> ()
  // CHECK: "npu.reduce"
  "npu.reduce"(%a, %s) {function = @sum, engine = #npu.engine<"vector">, sizes = array<i64: 16, 8>, indexing_maps = [#id, #row], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<16x8xf32, #npu.space<"sbuf">>, memref<16xf32, #npu.space<"sbuf">>) -> ()
  // CHECK: "npu.activate"
  "npu.activate"(%a, %a) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<16x8xf32, #npu.space<"sbuf">>, memref<16x8xf32, #npu.space<"sbuf">>) -> ()
  %bias = "npu.alloc"() : () -> memref<16x1xbf16, #npu.space<"sbuf">>
  // CHECK: "npu.activate"({{.*}}, {{.*}}, {{.*}}){{.*}}"relu"
  "npu.activate"(%a, %a, %bias) {function = "relu", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>} : (memref<16x8xf32, #npu.space<"sbuf">>, memref<16x8xf32, #npu.space<"sbuf">>, memref<16x1xbf16, #npu.space<"sbuf">>) -> ()
  %total = "npu.alloc"() : () -> memref<16x1xf32, #npu.space<"sbuf">>
  // CHECK: "npu.activate"({{.*}}, {{.*}}, {{.*}}, {{.*}}){{.*}}array<i32: 1, 1, 0, 1, 1>
  "npu.activate"(%a, %a, %bias, %total) {function = "silu", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 1, 1>} : (memref<16x8xf32, #npu.space<"sbuf">>, memref<16x8xf32, #npu.space<"sbuf">>, memref<16x1xbf16, #npu.space<"sbuf">>, memref<16x1xf32, #npu.space<"sbuf">>) -> ()
  return
}

// CHECK-LABEL: func.func private @gpsimd
func.func private @gpsimd(%table: memref<100x8xf32>) attributes {npu.kernel} {
  %c0 = arith.constant 0 : index
  %i = "npu.alloc"() : () -> memref<16xi32, #npu.space<"sbuf">>
  %rows = "npu.alloc"() : () -> memref<16x8xf32, #npu.space<"sbuf">>
  // CHECK: "npu.iota"
  "npu.iota"(%i, %c0) {dimension = 0 : i64} : (memref<16xi32, #npu.space<"sbuf">>, index) -> ()
  // CHECK: "npu.gather"
  "npu.gather"(%table, %rows, %i) : (memref<100x8xf32>, memref<16x8xf32, #npu.space<"sbuf">>, memref<16xi32, #npu.space<"sbuf">>) -> ()
  return
}
