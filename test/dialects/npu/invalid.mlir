// RUN: %polystage-opt --split-input-file --verify-diagnostics %s

/// Rules that hold for every target.

func.func private @invalid_alloc_in_dram() {
  // expected-error@+1 {{'npu.alloc' op allocates in dram, but only sbuf and psum are allocated by npu.alloc}}
  %0 = "npu.alloc"() : () -> memref<4x4xf32>
  return
}

// -----

func.func private @invalid_alloc_layout() {
  // expected-error@+1 {{'npu.alloc' op needs the identity layout}}
  %0 = "npu.alloc"() : () -> memref<4x4xf32, strided<[8, 1]>, #npu.space<"sbuf">>
  return
}

// -----

func.func private @invalid_alloc_rank() {
  // expected-error@+1 {{'npu.alloc' op needs a static shape with the partition as dimension 0}}
  %0 = "npu.alloc"() : () -> memref<f32, #npu.space<"sbuf">>
  return
}

// -----

func.func private @invalid_dma_cause(%x: memref<4x4xf32>) {
  %0 = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.dma' op has cause 'fun', allowed are input, weight, intermediate, output, copy}}
  "npu.dma"(%x, %0) {cause = "fun"} : (memref<4x4xf32>, memref<4x4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_dma_to_psum(%x: memref<4x4xf32>) {
  %0 = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"psum">>
  // expected-error@+1 {{'npu.dma' op has its destination in psum, which only the engines can reach; copy through sbuf}}
  "npu.dma"(%x, %0) {cause = "input"} : (memref<4x4xf32>, memref<4x4xf32, #npu.space<"psum">>) -> ()
  return
}

// -----

func.func private @invalid_dma_shape(%x: memref<4x4xf32>) {
  %0 = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.dma' op cannot copy shape [4, 4] to shape [4, 5]}}
  "npu.dma"(%x, %0) {cause = "input"} : (memref<4x4xf32>, memref<4x5xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_dma_cast(%x: memref<4x4xf32>) {
  %0 = "npu.alloc"() : () -> memref<4x4xbf16, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.dma' op changes the element type from f32 to bf16}}
  "npu.dma"(%x, %0) {cause = "input"} : (memref<4x4xf32>, memref<4x4xbf16, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_no_buffer(%x: memref<4x4xf32, #npu.space<"sbuf">>) {
  // expected-error@+1 {{'npu.memset' op operand 0 is not a view of an npu.alloc in this kernel}}
  "npu.memset"(%x) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<4x4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_partition_stride() {
  %0 = "npu.alloc"() : () -> memref<8x4xf32, #npu.space<"sbuf">>
  %1 = memref.subview %0[0, 0] [4, 4] [2, 1] : memref<8x4xf32, #npu.space<"sbuf">> to memref<4x4xf32, strided<[8, 1]>, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.memset' op operand 0 has stride 8 in dimension 0, but its partitions are 4 elements apart}}
  "npu.memset"(%1) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<4x4xf32, strided<[8, 1]>, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_partition_start(%i: index) {
  %0 = "npu.alloc"() : () -> memref<8x4xf32, #npu.space<"sbuf">>
  %1 = memref.subview %0[%i, 0] [4, 4] [1, 1] : memref<8x4xf32, #npu.space<"sbuf">> to memref<4x4xf32, strided<[4, 1], offset: ?>, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.memset' op operand 0 starts at a partition that is not constant}}
  "npu.memset"(%1) {value = 0.0 : f32, engine = #npu.engine<"vector">} : (memref<4x4xf32, strided<[4, 1], offset: ?>, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_engine() {
  %0 = "npu.alloc"() : () -> memref<8x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.memset' op engine 'tensor' executes other operations, allowed are vector, gpsimd}}
  "npu.memset"(%0) {value = 0.0 : f32, engine = #npu.engine<"tensor">} : (memref<8x4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_unknown_engine() {
  %0 = "npu.alloc"() : () -> memref<8x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.memset' op engine 'turbo' does not exist, allowed are vector, gpsimd}}
  "npu.memset"(%0) {value = 0.0 : f32, engine = #npu.engine<"turbo">} : (memref<8x4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_matmul_memory() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  %d = memref.alloc() : memref<4x4xf32>
  // expected-error@+1 {{'npu.matmul' op operand 2 lies in dram, allowed is psum or sbuf}}
  "npu.matmul"(%a, %a, %d, %t) : (memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32>, i1) -> ()
  return
}

// -----

/// Types that were legal once are not looked at again; what else a matmul says is.

func.func private @invalid_auxiliary_of_known_types() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"psum">>
  "npu.matmul"(%a, %a, %c, %t) {auxiliary} : (memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"psum">>, i1) -> ()
  // expected-error@+1 {{'npu.matmul' op has 'auxiliary = 1 : i64', but it has no value: it is there or not}}
  "npu.matmul"(%a, %a, %c, %t) {auxiliary = 1 : i64} : (memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"psum">>, i1) -> ()
  return
}

// -----

func.func private @invalid_auxiliary() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"psum">>
  // expected-error@+1 {{'npu.matmul' op has 'auxiliary = false', but it has no value: it is there or not}}
  "npu.matmul"(%a, %a, %c, %t) {auxiliary = false} : (memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"psum">>, i1) -> ()
  return
}

// -----

func.func private @invalid_flat_matmul_rank() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.matmul' op has sums in sbuf and operand 0 of shape [4, 4], but then all operands have 3 dimensions or more, of which dimension 0 is the one partition}}
  "npu.matmul"(%a, %a, %a, %t) : (memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"sbuf">>, i1) -> ()
  return
}

// -----

func.func private @invalid_flat_matmul_contraction() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<1x4x4xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<1x5x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.matmul' op contracts 4 rows of stationary with 5 of moving}}
  "npu.matmul"(%a, %b, %a, %t) : (memref<1x4x4xf32, #npu.space<"sbuf">>, memref<1x5x4xf32, #npu.space<"sbuf">>, memref<1x4x4xf32, #npu.space<"sbuf">>, i1) -> ()
  return
}

// -----

func.func private @invalid_flat_matmul_result() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<1x4x6xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<1x4x2x3xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.matmul' op sbuf has shape [4, 6], but [6] x [2, 3] is computed}}
  "npu.matmul"(%a, %b, %a, %t) : (memref<1x4x6xf32, #npu.space<"sbuf">>, memref<1x4x2x3xf32, #npu.space<"sbuf">>, memref<1x4x6xf32, #npu.space<"sbuf">>, i1) -> ()
  return
}

// -----

func.func private @invalid_matmul_types() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<4x4xbf16, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<4x4xbf16, #npu.space<"psum">>
  // expected-error@+1 {{'npu.matmul' op computes bf16 x bf16 -> bf16, allowed are f32 x f32 -> f32, bf16 x bf16 -> f32, f16 x f16 -> f32, f8E4M3 x f8E4M3 -> f32, i8 x i8 -> i32}}
  "npu.matmul"(%a, %a, %c, %t) : (memref<4x4xbf16, #npu.space<"sbuf">>, memref<4x4xbf16, #npu.space<"sbuf">>, memref<4x4xbf16, #npu.space<"psum">>, i1) -> ()
  return
}

// -----

func.func private @invalid_matmul_contraction() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<5x4xf32, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"psum">>
  // expected-error@+1 {{'npu.matmul' op contracts 4 partitions of stationary with 5 of moving}}
  "npu.matmul"(%a, %b, %c, %t) : (memref<4x4xf32, #npu.space<"sbuf">>, memref<5x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"psum">>, i1) -> ()
  return
}

// -----

func.func private @invalid_matmul_result() {
  %t = arith.constant true
  %a = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  %c = "npu.alloc"() : () -> memref<3x4xf32, #npu.space<"psum">>
  // expected-error@+1 {{'npu.matmul' op psum has shape [3, 4], but [4] x [4] is computed}}
  "npu.matmul"(%a, %a, %c, %t) : (memref<4x4xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"sbuf">>, memref<3x4xf32, #npu.space<"psum">>, i1) -> ()
  return
}

// -----

func.func private @invalid_transpose() {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"psum">>
  // expected-error@+1 {{'npu.transpose' op turns f32 [4, 5] into f32 [4, 5]}}
  "npu.transpose"(%a, %b) : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"psum">>) -> ()
  return
}

// -----

func.func private @invalid_activation() {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.activate' op function 'magic' is unknown, allowed are identity, exp,}}
  "npu.activate"(%a, %a) {function = "magic", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_activation_shape() {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<4x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.activate' op maps shape [4, 5] to shape [4, 4]}}
  "npu.activate"(%a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_shift_of_other_partitions() attributes {npu.kernel} {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.activate' op has a shift of shape [4, 5], but needs one element in each of 4 partitions}}
  "npu.activate"(%a, %a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_shift_of_integers() attributes {npu.kernel} {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<4x1xi32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.activate' op has a shift of i32, allowed are f32, bf16, f16 and f8E4M3}}
  "npu.activate"(%a, %a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>, memref<4x1xi32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_shift_in_psum() attributes {npu.kernel} {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<4x1xf32, #npu.space<"psum">>
  // expected-error@+1 {{'npu.activate' op has a shift in psum, allowed is sbuf}}
  "npu.activate"(%a, %a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>, memref<4x1xf32, #npu.space<"psum">>) -> ()
  return
}

// -----

func.func private @invalid_factor_of_other_partitions() attributes {npu.kernel} {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<2x1xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.activate' op has a factor of shape [2, 1], but needs one element in each of 4 partitions}}
  "npu.activate"(%a, %a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 1, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>, memref<2x1xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_factor_and_scale() attributes {npu.kernel} {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<4x1xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.activate' op has a factor and the scale 0.5, but with a factor the scale is 1}}
  "npu.activate"(%a, %a, %b) {function = "exp", scale = 0.5 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 1, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>, memref<4x1xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_total_of_integers() attributes {npu.kernel} {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  %b = "npu.alloc"() : () -> memref<4x1xi32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.activate' op has a total of i32, allowed are f32, bf16, f16 and f8E4M3}}
  "npu.activate"(%a, %a, %b) {function = "exp", scale = 1.0 : f32, bias = 0.0 : f32, operandSegmentSizes = array<i32: 1, 1, 0, 0, 1>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>, memref<4x1xi32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_map_count() {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.elementwise' op has 1 indexing maps for 2 operands}}
  "npu.elementwise"(%a, %a) {function = @f, engine = #npu.engine<"vector">, sizes = array<i64: 4, 5>, indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_map_rank() {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.elementwise' op indexing map 0 is (d0) -> (d0), but there are 2 sizes and rank 2}}
  "npu.elementwise"(%a, %a) {function = @f, engine = #npu.engine<"vector">, sizes = array<i64: 4, 5>, indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0, d1) -> (d0, d1)>], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_map_not_linear() {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.elementwise' op indexing map 0 is (d0, d1) -> (d0, d1 mod 2); only sums of constant * dimension are allowed}}
  "npu.elementwise"(%a, %a) {function = @f, engine = #npu.engine<"vector">, sizes = array<i64: 4, 5>, indexing_maps = [affine_map<(d0, d1) -> (d0, d1 mod 2)>, affine_map<(d0, d1) -> (d0, d1)>], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_map_bounds() {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.elementwise' op indexing map 0 reaches [1, 5] in dimension 1 of extent 5}}
  "npu.elementwise"(%a, %a) {function = @f, engine = #npu.engine<"vector">, sizes = array<i64: 4, 5>, indexing_maps = [affine_map<(d0, d1) -> (d0, d1 + 1)>, affine_map<(d0, d1) -> (d0, d1)>], operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (memref<4x5xf32, #npu.space<"sbuf">>, memref<4x5xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_iota_type(%i: index) {
  %a = "npu.alloc"() : () -> memref<4x5xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.iota' op writes f32, allowed are i32 and i64}}
  "npu.iota"(%a, %i) {dimension = 0 : i64} : (memref<4x5xf32, #npu.space<"sbuf">>, index) -> ()
  return
}

// -----

func.func private @invalid_iota_dimension(%i: index) {
  %a = "npu.alloc"() : () -> memref<4x5xi32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.iota' op counts along dimension 2 of a buffer of rank 2}}
  "npu.iota"(%a, %i) {dimension = 2 : i64} : (memref<4x5xi32, #npu.space<"sbuf">>, index) -> ()
  return
}

// -----

func.func private @invalid_gather_rank(%t: memref<9xf32>) {
  %i = "npu.alloc"() : () -> memref<4xi32, #npu.space<"sbuf">>
  %o = "npu.alloc"() : () -> memref<4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.gather' op indexes a table of rank 1 with 2 indices}}
  "npu.gather"(%t, %o, %i, %i) : (memref<9xf32>, memref<4xf32, #npu.space<"sbuf">>, memref<4xi32, #npu.space<"sbuf">>, memref<4xi32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_gather_index(%t: memref<9xf32>) {
  %i = "npu.alloc"() : () -> memref<4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.gather' op indices must be i32 or i64 of shape [4]}}
  "npu.gather"(%t, %i, %i) : (memref<9xf32>, memref<4xf32, #npu.space<"sbuf">>, memref<4xf32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_gather_result(%t: memref<9x3xf32>) {
  %i = "npu.alloc"() : () -> memref<4xi32, #npu.space<"sbuf">>
  %o = "npu.alloc"() : () -> memref<4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.gather' op writes f32 [4], but gathers f32 [4, 3]}}
  "npu.gather"(%t, %o, %i) : (memref<9x3xf32>, memref<4xf32, #npu.space<"sbuf">>, memref<4xi32, #npu.space<"sbuf">>) -> ()
  return
}

// -----

func.func private @invalid_overlay_in_sbuf(%b: memref<4x4xf32>) {
  %a = "npu.alloc"() : () -> memref<2x4xf32, #npu.space<"sbuf">>
  // expected-error@+1 {{'npu.overlay' op touches sbuf, but overlays are views of arrays in dram}}
  %0 = "npu.overlay"(%a, %b) {offsets = array<i64: 0, 0>} : (memref<2x4xf32, #npu.space<"sbuf">>, memref<4x4xf32>) -> memref<4x4xf32>
  return
}

// -----

func.func private @invalid_overlay_dynamic(%a: memref<2x4xf32>) {
  // expected-error@+1 {{'npu.overlay' op makes memref<?x4xf32>, but the shape of an overlay is static}}
  %0 = "npu.overlay"(%a) {offsets = array<i64: 0, 0>, fill = 0.0 : f32} : (memref<2x4xf32>) -> memref<?x4xf32>
  return
}

// -----

func.func private @invalid_overlay_layout(%a: memref<2x4xf32>) {
  // expected-error@+1 {{'npu.overlay' op makes memref<4x4xf32, strided<[8, 1]>>, but an overlay has no storage, hence no layout}}
  %0 = "npu.overlay"(%a) {offsets = array<i64: 0, 0>, fill = 0.0 : f32} : (memref<2x4xf32>) -> memref<4x4xf32, strided<[8, 1]>>
  return
}

// -----

func.func private @invalid_overlay_rank(%a: memref<8xf32>) {
  // expected-error@+1 {{'npu.overlay' op has a source of f32 [8], but rank and element type must be those of the result, f32 [4, 4]}}
  %0 = "npu.overlay"(%a) {offsets = array<i64: 0, 0>, fill = 0.0 : f32} : (memref<8xf32>) -> memref<4x4xf32>
  return
}

// -----

func.func private @invalid_overlay_element_type(%a: memref<2x4xf32>, %b: memref<4x4xi32>) {
  // expected-error@+1 {{'npu.overlay' op has a base of i32 [4, 4], but rank and element type must be those of the result, f32 [4, 4]}}
  %0 = "npu.overlay"(%a, %b) {offsets = array<i64: 0, 0>} : (memref<2x4xf32>, memref<4x4xi32>) -> memref<4x4xf32>
  return
}

// -----

func.func private @invalid_overlay_base(%a: memref<2x4xf32>, %b: memref<4x5xf32>) {
  // expected-error@+1 {{'npu.overlay' op has a base of shape [4, 5], but the base lies under all of the result, [4, 4]}}
  %0 = "npu.overlay"(%a, %b) {offsets = array<i64: 0, 0>} : (memref<2x4xf32>, memref<4x5xf32>) -> memref<4x4xf32>
  return
}

// -----

func.func private @invalid_overlay_base_and_fill(%a: memref<2x4xf32>, %b: memref<4x4xf32>) {
  // expected-error@+1 {{'npu.overlay' op has a base and a fill, but the base leaves no element to fill}}
  %0 = "npu.overlay"(%a, %b) {offsets = array<i64: 0, 0>, fill = 0.0 : f32} : (memref<2x4xf32>, memref<4x4xf32>) -> memref<4x4xf32>
  return
}

// -----

func.func private @invalid_overlay_fill(%a: memref<2x4xf32>) {
  // expected-error@+1 {{'npu.overlay' op has the fill 0 : i64, but its elements are f32}}
  %0 = "npu.overlay"(%a) {offsets = array<i64: 0, 0>, fill = 0 : i64} : (memref<2x4xf32>) -> memref<4x4xf32>
  return
}

// -----

func.func private @invalid_overlay_offsets(%a: memref<2x4xf32>) {
  // expected-error@+1 {{'npu.overlay' op has the offsets array<i64: 0>, but needs array<i64: ..> with one per dimension}}
  %0 = "npu.overlay"(%a) {offsets = array<i64: 0>, fill = 0.0 : f32} : (memref<2x4xf32>) -> memref<4x4xf32>
  return
}

// -----

func.func private @invalid_overlay_window(%a: memref<2x4xf32>) {
  // expected-error@+1 {{'npu.overlay' op lays its source over [3, 5) of dimension 0, which leaves the result of extent 4}}
  %0 = "npu.overlay"(%a) {offsets = array<i64: 3, 0>, fill = 0.0 : f32} : (memref<2x4xf32>) -> memref<4x4xf32>
  return
}

// -----

func.func private @invalid_overlay_copied(%a: memref<2x4xf32>, %o: memref<4x4xf32>) {
  // expected-error@+1 {{'npu.overlay' op is used by 'memref.copy', but an overlay has no storage: only 'linalg.generic' may read it, or another overlay as its base}}
  %0 = "npu.overlay"(%a) {offsets = array<i64: 0, 0>, fill = 0.0 : f32} : (memref<2x4xf32>) -> memref<4x4xf32>
  memref.copy %0, %o : memref<4x4xf32> to memref<4x4xf32>
  return
}

// -----

func.func private @invalid_overlay_as_source(%a: memref<2x4xf32>) {
  // expected-error@+1 {{'npu.overlay' op is used by 'npu.overlay' as its source, but an overlay has no storage: only 'linalg.generic' may read it, or another overlay as its base}}
  %0 = "npu.overlay"(%a) {offsets = array<i64: 0, 0>, fill = 0.0 : f32} : (memref<2x4xf32>) -> memref<4x4xf32>
  %1 = "npu.overlay"(%0) {offsets = array<i64: 0, 0>, fill = 0.0 : f32} : (memref<4x4xf32>) -> memref<5x4xf32>
  return
}

// -----

func.func private @invalid_overlay_written(%a: memref<2x4xf32>) {
  // expected-error@+1 {{'npu.overlay' op is an output of 'linalg.generic', but an overlay has no storage to write}}
  %0 = "npu.overlay"(%a) {offsets = array<i64: 0, 0>, fill = 0.0 : f32} : (memref<2x4xf32>) -> memref<4x4xf32>
  linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} outs(%0 : memref<4x4xf32>) {
  ^bb0(%x: f32):
    linalg.yield %x : f32
  }
  return
}
