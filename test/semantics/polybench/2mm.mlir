// PolyBench/C 4.2.1, linear-algebra/kernels/2mm, mini data set: D := alpha*A*B*C + beta*D.
func.func @main(%A: memref<16x22xf32> {npu.name = "A"}, %B: memref<22x18xf32> {npu.name = "B"},
                %C: memref<18x24xf32> {npu.name = "C"}, %D0: memref<16x24xf32> {npu.name = "D0"})
    -> (memref<16x24xf32> {npu.name = "D"}) {
  %zero = arith.constant 0.0 : f32
  %alpha = arith.constant 1.5 : f32
  %beta = arith.constant 1.2 : f32
  %tmp = memref.alloc() : memref<16x18xf32>
  %D = memref.alloc() : memref<16x24xf32>
  memref.copy %D0, %D : memref<16x24xf32> to memref<16x24xf32>
  affine.for %i = 0 to 16 {
    affine.for %j = 0 to 18 {
      affine.store %zero, %tmp[%i, %j] : memref<16x18xf32>
      affine.for %k = 0 to 22 {
        %0 = affine.load %A[%i, %k] : memref<16x22xf32>
        %1 = arith.mulf %alpha, %0 : f32
        %2 = affine.load %B[%k, %j] : memref<22x18xf32>
        %3 = arith.mulf %1, %2 : f32
        %4 = affine.load %tmp[%i, %j] : memref<16x18xf32>
        %5 = arith.addf %4, %3 : f32
        affine.store %5, %tmp[%i, %j] : memref<16x18xf32>
      }
    }
  }
  affine.for %i = 0 to 16 {
    affine.for %j = 0 to 24 {
      %0 = affine.load %D[%i, %j] : memref<16x24xf32>
      %1 = arith.mulf %0, %beta : f32
      affine.store %1, %D[%i, %j] : memref<16x24xf32>
      affine.for %k = 0 to 18 {
        %2 = affine.load %tmp[%i, %k] : memref<16x18xf32>
        %3 = affine.load %C[%k, %j] : memref<18x24xf32>
        %4 = arith.mulf %2, %3 : f32
        %5 = affine.load %D[%i, %j] : memref<16x24xf32>
        %6 = arith.addf %5, %4 : f32
        affine.store %6, %D[%i, %j] : memref<16x24xf32>
      }
    }
  }
  return %D : memref<16x24xf32>
}
