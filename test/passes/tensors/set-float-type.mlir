// RUN: %polystage-opt %s --split-input-file --npu-set-float-type=type=bf16 | filecheck %s
// RUN: %polystage-opt %s --split-input-file --npu-set-float-type=type=f32 | filecheck %s --check-prefix=SAME
// RUN: %polystage-opt %s --split-input-file --npu-set-float-type=type=f8 | filecheck %s --check-prefix=BYTE

// SAME-NOT: bf16

/// Arrays change, arithmetic stays in f32.

// CHECK-LABEL: @relu
// CHECK-SAME: memref<8xbf16>
// CHECK-SAME: -> memref<8xbf16>
// CHECK: memref.alloc() : memref<8xbf16>
// CHECK: ^bb0(%[[IN:.*]]: bf16, %{{.*}}: bf16):
// CHECK: %[[WIDE:.*]] = arith.extf %[[IN]] : bf16 to f32
// CHECK: %[[MAX:.*]] = arith.maximumf %[[WIDE]], %{{.*}} : f32
// CHECK: %[[NARROW:.*]] = arith.truncf %[[MAX]] : f32 to bf16
// CHECK: linalg.yield %[[NARROW]] : bf16
// BYTE-LABEL: @relu
// BYTE-SAME: memref<8xf8E4M3>
// BYTE: arith.truncf {{.*}} : f32 to f8E4M3
func.func @relu(%x: memref<8xf32>) -> memref<8xf32> {
  %zero = arith.constant 0.0 : f32
  %y = memref.alloc() : memref<8xf32>
  linalg.generic {
      indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
      iterator_types = ["parallel"]
    } ins(%x : memref<8xf32>) outs(%y : memref<8xf32>) {
  ^bb0(%a: f32, %b: f32):
    %m = arith.maximumf %a, %zero : f32
    linalg.yield %m : f32
  }
  return %y : memref<8xf32>
}

// -----

/// Weights are converted, and what is only passed on is not cast there and back.

// CHECK: memref.global "private" constant @w : memref<3xbf16> = dense<[1.000000e+00, 3.339840e-01, 0x7F80]>
// BYTE: memref.global "private" constant @w : memref<3xf8E4M3> = dense<[1.000000e+00, 3.437500e-01, 0x78]>
// CHECK-LABEL: @copy
// CHECK: memref.get_global @w : memref<3xbf16>
// CHECK: linalg.yield %in : bf16
memref.global "private" constant @w : memref<3xf32> = dense<[1.0, 0.333333333, 3.4e38]>
func.func @copy(%y: memref<3xf32>) {
  %w = memref.get_global @w : memref<3xf32>
  linalg.generic {
      indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
      iterator_types = ["parallel"]
    } ins(%w : memref<3xf32>) outs(%y : memref<3xf32>) {
  ^bb0(%a: f32, %b: f32):
    linalg.yield %a : f32
  }
  return
}

// -----

/// A constant that is written is rounded here; a gathered value is extended.

// CHECK-LABEL: @gather
// CHECK: %[[ROW:.*]] = memref.load {{.*}} : memref<9xbf16>
// CHECK: arith.extf %[[ROW]]
// CHECK-LABEL: @fill
// CHECK: %[[ONE:.*]] = arith.constant 1.000000e+00 : bf16
// CHECK: linalg.yield %[[ONE]] : bf16
func.func @gather(%table: memref<9xf32>, %indices: memref<4xi64>, %y: memref<4xf32>) {
  linalg.generic {
      indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
      iterator_types = ["parallel"]
    } ins(%indices : memref<4xi64>) outs(%y : memref<4xf32>) {
  ^bb0(%i: i64, %b: f32):
    %p = arith.index_cast %i : i64 to index
    %v = memref.load %table[%p] : memref<9xf32>
    %n = arith.negf %v : f32
    linalg.yield %n : f32
  }
  return
}
func.func @fill(%y: memref<4xf32>) {
  %one = arith.constant 1.0 : f32
  linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%y : memref<4xf32>) {
  ^bb0(%b: f32):
    linalg.yield %one : f32
  }
  return
}

// -----

/// Integers and other floats stay.

// CHECK-LABEL: @no_integers
// CHECK-SAME: memref<4xi64>
// CHECK-SAME: memref<4xf16>
func.func @no_integers(%x: memref<4xi64>, %y: memref<4xf16>) {
  return
}

// -----

/// What an overlay shows elsewhere is rounded as well.

// CHECK-LABEL: @overlay
// CHECK: "npu.overlay"(%{{.*}}) {fill = -1.000000e+02 : bf16, offsets = array<i64: 1>} : (memref<4xbf16>) -> memref<6xbf16>
func.func @overlay(%x: memref<4xf32>, %y: memref<6xf32>) {
  %p = "npu.overlay"(%x) {fill = -100.1 : f32, offsets = array<i64: 1>} : (memref<4xf32>) -> memref<6xf32>
  linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%p : memref<6xf32>) outs(%y : memref<6xf32>) {
  ^bb0(%a: f32, %b: f32):
    %n = arith.negf %a : f32
    linalg.yield %n : f32
  }
  return
}

// -----

/// 49 values of 6 are more than f8 can hold: the sum of an average stays in f32 until it is divided. bf16 has the range of f32.

// BYTE-LABEL: @average
// BYTE-DAG: memref.alloc() : memref<8xf32>
// BYTE-DAG: memref.alloc() : memref<8xf8E4M3>
// BYTE: arith.divf
// BYTE-NEXT: arith.truncf {{.*}} : f32 to f8E4M3
// CHECK-LABEL: @average
// CHECK-NOT: memref<8xf32>
func.func @average(%x: memref<8x49xf32>) -> memref<8xf32> {
  %zero = arith.constant 0.0 : f32
  %count = arith.constant 49.0 : f32
  %sum = memref.alloc() : memref<8xf32>
  %y = memref.alloc() : memref<8xf32>
  linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%sum : memref<8xf32>) {
  ^bb0(%b: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {
      indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0)>],
      iterator_types = ["parallel", "reduction"]
    } ins(%x : memref<8x49xf32>) outs(%sum : memref<8xf32>) {
  ^bb0(%a: f32, %b: f32):
    %s = arith.addf %a, %b : f32
    linalg.yield %s : f32
  }
  linalg.generic {
      indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
      iterator_types = ["parallel"]
    } ins(%sum : memref<8xf32>) outs(%y : memref<8xf32>) {
  ^bb0(%a: f32, %b: f32):
    %m = arith.divf %a, %count : f32
    linalg.yield %m : f32
  }
  return %y : memref<8xf32>
}
