// PolyBench/C 4.2.1, linear-algebra/blas/gemm, mini data set: C := alpha*A*B + beta*C.
func.func @main(%A: memref<20x30xf32> {npu.name = "A"}, %B: memref<30x25xf32> {npu.name = "B"},
                %C0: memref<20x25xf32> {npu.name = "C0"}) -> (memref<20x25xf32> {npu.name = "C"}) {
  %alpha = arith.constant 1.5 : f32
  %beta = arith.constant 1.2 : f32
  %C = memref.alloc() : memref<20x25xf32>
  memref.copy %C0, %C : memref<20x25xf32> to memref<20x25xf32>
  affine.for %i = 0 to 20 {
    affine.for %j = 0 to 25 {
      %0 = affine.load %C[%i, %j] : memref<20x25xf32>
      %1 = arith.mulf %0, %beta : f32
      affine.store %1, %C[%i, %j] : memref<20x25xf32>
    }
    affine.for %k = 0 to 30 {
      affine.for %j = 0 to 25 {
        %0 = affine.load %A[%i, %k] : memref<20x30xf32>
        %1 = arith.mulf %alpha, %0 : f32
        %2 = affine.load %B[%k, %j] : memref<30x25xf32>
        %3 = arith.mulf %1, %2 : f32
        %4 = affine.load %C[%i, %j] : memref<20x25xf32>
        %5 = arith.addf %4, %3 : f32
        affine.store %5, %C[%i, %j] : memref<20x25xf32>
      }
    }
  }
  return %C : memref<20x25xf32>
}
