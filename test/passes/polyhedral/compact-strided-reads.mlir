// RUN: %polystage-opt --npu-attach-target=target=flat --npu-compact-strided-reads --mlir-pass-statistics %s 2>%t.statistics | filecheck %s
// RUN: filecheck --check-prefix=STATISTICS %s < %t.statistics
// RUN: %polystage-opt --npu-attach-target=target=neuroncore_v2 --npu-compact-strided-reads %s | filecheck %s --check-prefix=PARTITIONED

// STATISTICS: 1 operands made compact

#id = affine_map<(c, h, w) -> (c, h, w)>
#filter = affine_map<(f, h, w, c, kh, kw) -> (f, c, kh, kw)>
#result = affine_map<(f, h, w, c, kh, kw) -> (f, h, w)>

/// A filter of one tap in strides of two reads a quarter of x. The quarter is copied where x is made.
// CHECK: #[[EVERY:.*]] = affine_map<(d0, d1, d2) -> (d0, d1 * 2, d2 * 2)>
// CHECK: #[[SMALL:.*]] = affine_map<(d0, d1, d2, d3, d4, d5) -> (d3, d1, d2)>
// CHECK-LABEL: func.func @main
// CHECK: math.exp
// CHECK: %[[COPY:.*]] = memref.alloc() : memref<4x3x3xf32>
// CHECK: indexing_maps = [#[[EVERY]], #{{.*}}]
// CHECK-SAME: ins(%[[X:.*]] : memref<4x6x6xf32>) outs(%[[COPY]] : memref<4x3x3xf32>)
// CHECK: indexing_maps = [#[[SMALL]]
// CHECK-SAME: ins(%[[COPY]], %{{.*}} : memref<4x3x3xf32>, memref<8x4x1x1xf32>)
// PARTITIONED-LABEL: func.func @main
// PARTITIONED-NOT: memref<4x3x3xf32>
func.func @main(%a: memref<4x6x6xf32>, %v: memref<8x4x1x1xf32>, %y: memref<8x3x3xf32>) {
  %x = memref.alloc() : memref<4x6x6xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel", "parallel"]}
    ins(%a : memref<4x6x6xf32>) outs(%x : memref<4x6x6xf32>) {
  ^bb0(%p: f32, %out: f32):
    %e = math.exp %p : f32
    linalg.yield %e : f32
  }
  linalg.generic {
    indexing_maps = [affine_map<(f, h, w, c, kh, kw) -> (c, 2 * h + kh, 2 * w + kw)>, #filter, #result],
    iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]
  } ins(%x, %v : memref<4x6x6xf32>, memref<8x4x1x1xf32>) outs(%y : memref<8x3x3xf32>) {
  ^bb0(%p: f32, %q: f32, %out: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

/// Two taps in strides of two read all of it.
// CHECK-LABEL: func.func @no_element_is_skipped
// CHECK-NOT: memref<4x3x3xf32>
// CHECK: return
func.func @no_element_is_skipped(%a: memref<4x6x6xf32>, %v: memref<8x4x2x2xf32>, %y: memref<8x3x3xf32>) {
  %x = memref.alloc() : memref<4x6x6xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel", "parallel"]}
    ins(%a : memref<4x6x6xf32>) outs(%x : memref<4x6x6xf32>) {
  ^bb0(%p: f32, %out: f32):
    linalg.yield %p : f32
  }
  linalg.generic {
    indexing_maps = [affine_map<(f, h, w, c, kh, kw) -> (c, 2 * h + kh, 2 * w + kw)>, #filter, #result],
    iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]
  } ins(%x, %v : memref<4x6x6xf32>, memref<8x4x2x2xf32>) outs(%y : memref<8x3x3xf32>) {
  ^bb0(%p: f32, %q: f32, %out: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}

/// An argument lies in DRAM as the caller has it; a copy of it would move more.
// CHECK-LABEL: func.func @no_argument
// CHECK-NOT: memref.alloc
// CHECK: return
func.func @no_argument(%x: memref<4x6x6xf32>, %v: memref<8x4x1x1xf32>, %y: memref<8x3x3xf32>) {
  linalg.generic {
    indexing_maps = [affine_map<(f, h, w, c, kh, kw) -> (c, 2 * h + kh, 2 * w + kw)>, #filter, #result],
    iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]
  } ins(%x, %v : memref<4x6x6xf32>, memref<8x4x1x1xf32>) outs(%y : memref<8x3x3xf32>) {
  ^bb0(%p: f32, %q: f32, %out: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return
}
