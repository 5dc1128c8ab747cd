// Three producers, concatenated along the channels, and a 1x1 convolution that reads all of them.

#id = affine_map<(c, p) -> (c, p)>

func.func @main(%x: memref<4x64xf32> {npu.name = "x"}, %w: memref<5x9xf32> {npu.name = "w"})
    -> (memref<5x64xf32> {npu.name = "y"}) {
  %zero = arith.constant 0.0 : f32
  %a = memref.alloc() : memref<4x64xf32> loc("relu1")
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%x : memref<4x64xf32>) outs(%a : memref<4x64xf32>) {
  ^bb0(%in: f32, %out: f32):
    %r = arith.maximumf %in, %zero : f32
    linalg.yield %r : f32
  } loc("relu1")
  %xb = memref.subview %x[0, 0] [2, 64] [1, 1] : memref<4x64xf32> to memref<2x64xf32, strided<[64, 1]>>
  %b = memref.alloc() : memref<2x64xf32> loc("exp1")
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%xb : memref<2x64xf32, strided<[64, 1]>>) outs(%b : memref<2x64xf32>) {
  ^bb0(%in: f32, %out: f32):
    %r = math.exp %in : f32
    linalg.yield %r : f32
  } loc("exp1")
  %xc = memref.subview %x[1, 0] [3, 64] [1, 1]
      : memref<4x64xf32> to memref<3x64xf32, strided<[64, 1], offset: 64>>
  %c = memref.alloc() : memref<3x64xf32> loc("square1")
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%xc : memref<3x64xf32, strided<[64, 1], offset: 64>>) outs(%c : memref<3x64xf32>) {
  ^bb0(%in: f32, %out: f32):
    %r = arith.mulf %in, %in : f32
    linalg.yield %r : f32
  } loc("square1")
  %cat = memref.alloc() : memref<9x64xf32> loc("concat1")
  %cat_a = memref.subview %cat[0, 0] [4, 64] [1, 1]
      : memref<9x64xf32> to memref<4x64xf32, strided<[64, 1]>>
  memref.copy %a, %cat_a : memref<4x64xf32> to memref<4x64xf32, strided<[64, 1]>> loc("concat1")
  %cat_b = memref.subview %cat[4, 0] [2, 64] [1, 1]
      : memref<9x64xf32> to memref<2x64xf32, strided<[64, 1], offset: 256>>
  memref.copy %b, %cat_b : memref<2x64xf32> to memref<2x64xf32, strided<[64, 1], offset: 256>> loc("concat1")
  %cat_c = memref.subview %cat[6, 0] [3, 64] [1, 1]
      : memref<9x64xf32> to memref<3x64xf32, strided<[64, 1], offset: 384>>
  memref.copy %c, %cat_c : memref<3x64xf32> to memref<3x64xf32, strided<[64, 1], offset: 384>> loc("concat1")
  %y = memref.alloc() : memref<5x64xf32>
  linalg.generic {indexing_maps = [affine_map<(m, p) -> ()>, #id],
                  iterator_types = ["parallel", "parallel"]}
      ins(%zero : f32) outs(%y : memref<5x64xf32>) {
  ^bb0(%in: f32, %out: f32):
    linalg.yield %in : f32
  } loc("conv1")
  linalg.generic {indexing_maps = [affine_map<(m, p, c) -> (m, c)>, affine_map<(m, p, c) -> (c, p)>,
                                   affine_map<(m, p, c) -> (m, p)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%w, %cat : memref<5x9xf32>, memref<9x64xf32>) outs(%y : memref<5x64xf32>) {
  ^bb0(%l: f32, %r: f32, %out: f32):
    %p = arith.mulf %l, %r : f32
    %s = arith.addf %out, %p : f32
    linalg.yield %s : f32
  } loc("conv1")
  return %y : memref<5x64xf32>
}
