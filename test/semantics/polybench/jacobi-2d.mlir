// PolyBench/C 4.2.1, stencils/jacobi-2d, mini data set: 20 time steps on a 30x30 grid.
func.func @main(%A0: memref<30x30xf32> {npu.name = "A0"}, %B0: memref<30x30xf32> {npu.name = "B0"})
    -> (memref<30x30xf32> {npu.name = "A"}, memref<30x30xf32> {npu.name = "B"}) {
  %fifth = arith.constant 0.2 : f32
  %A = memref.alloc() : memref<30x30xf32>
  memref.copy %A0, %A : memref<30x30xf32> to memref<30x30xf32>
  %B = memref.alloc() : memref<30x30xf32>
  memref.copy %B0, %B : memref<30x30xf32> to memref<30x30xf32>
  affine.for %t = 0 to 20 {
    affine.for %i = 1 to 29 {
      affine.for %j = 1 to 29 {
        %0 = affine.load %A[%i, %j] : memref<30x30xf32>
        %1 = affine.load %A[%i, %j - 1] : memref<30x30xf32>
        %2 = arith.addf %0, %1 : f32
        %3 = affine.load %A[%i, %j + 1] : memref<30x30xf32>
        %4 = arith.addf %2, %3 : f32
        %5 = affine.load %A[%i + 1, %j] : memref<30x30xf32>
        %6 = arith.addf %4, %5 : f32
        %7 = affine.load %A[%i - 1, %j] : memref<30x30xf32>
        %8 = arith.addf %6, %7 : f32
        %9 = arith.mulf %fifth, %8 : f32
        affine.store %9, %B[%i, %j] : memref<30x30xf32>
      }
    }
    affine.for %i = 1 to 29 {
      affine.for %j = 1 to 29 {
        %0 = affine.load %B[%i, %j] : memref<30x30xf32>
        %1 = affine.load %B[%i, %j - 1] : memref<30x30xf32>
        %2 = arith.addf %0, %1 : f32
        %3 = affine.load %B[%i, %j + 1] : memref<30x30xf32>
        %4 = arith.addf %2, %3 : f32
        %5 = affine.load %B[%i + 1, %j] : memref<30x30xf32>
        %6 = arith.addf %4, %5 : f32
        %7 = affine.load %B[%i - 1, %j] : memref<30x30xf32>
        %8 = arith.addf %6, %7 : f32
        %9 = arith.mulf %fifth, %8 : f32
        affine.store %9, %A[%i, %j] : memref<30x30xf32>
      }
    }
  }
  return %A, %B : memref<30x30xf32>, memref<30x30xf32>
}
