// The channel shuffle of ShuffleNet: 6 channels seen as [2, 3], transposed to [3, 2], seen as 6 again.

#id = affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>
#groups = affine_map<(n, g, c, h, w) -> (n, c, g, h, w)>
#shuffled = affine_map<(n, g, c, h, w) -> (n, g, c, h, w)>

func.func @main(%x: memref<1x6x8x8xf32> {npu.name = "x"})
    -> (memref<1x6x8x8xf32> {npu.name = "y"}) {
  %zero = arith.constant 0.0 : f32
  %a = memref.alloc() : memref<1x6x8x8xf32> loc("relu1")
  linalg.generic {indexing_maps = [#id, #id],
                  iterator_types = ["parallel", "parallel", "parallel", "parallel"]}
      ins(%x : memref<1x6x8x8xf32>) outs(%a : memref<1x6x8x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %r = arith.maximumf %in, %zero : f32
    linalg.yield %r : f32
  } loc("relu1")
  %ag = memref.expand_shape %a [[0], [1, 2], [3], [4]] output_shape [1, 2, 3, 8, 8]
      : memref<1x6x8x8xf32> into memref<1x2x3x8x8xf32>
  %s = memref.alloc() : memref<1x3x2x8x8xf32> loc("shuffle")
  linalg.generic {indexing_maps = [#groups, #shuffled],
                  iterator_types = ["parallel", "parallel", "parallel", "parallel", "parallel"]}
      ins(%ag : memref<1x2x3x8x8xf32>) outs(%s : memref<1x3x2x8x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  } loc("shuffle")
  %sc = memref.collapse_shape %s [[0], [1, 2], [3], [4]]
      : memref<1x3x2x8x8xf32> into memref<1x6x8x8xf32>
  %y = memref.alloc() : memref<1x6x8x8xf32>
  linalg.generic {indexing_maps = [#id, #id],
                  iterator_types = ["parallel", "parallel", "parallel", "parallel"]}
      ins(%sc : memref<1x6x8x8xf32>) outs(%y : memref<1x6x8x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %r = arith.addf %in, %in : f32
    linalg.yield %r : f32
  } loc("double1")
  return %y : memref<1x6x8x8xf32>
}
