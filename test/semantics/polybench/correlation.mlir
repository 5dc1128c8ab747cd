// PolyBench/C 4.2.1, datamining/correlation, mini data set: 32 points with 28 attributes.
func.func @main(%data0: memref<32x28xf32> {npu.name = "data"})
    -> (memref<28x28xf32> {npu.name = "corr"}) {
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1.0 : f32
  %eps = arith.constant 0.1 : f32
  %float_n = arith.constant 32.0 : f32
  %data = memref.alloc() : memref<32x28xf32>
  memref.copy %data0, %data : memref<32x28xf32> to memref<32x28xf32>
  %mean = memref.alloc() : memref<28xf32>
  %stddev = memref.alloc() : memref<28xf32>
  %corr = memref.alloc() : memref<28x28xf32>
  affine.for %j = 0 to 28 {
    affine.store %zero, %mean[%j] : memref<28xf32>
    affine.for %i = 0 to 32 {
      %0 = affine.load %mean[%j] : memref<28xf32>
      %1 = affine.load %data[%i, %j] : memref<32x28xf32>
      %2 = arith.addf %0, %1 : f32
      affine.store %2, %mean[%j] : memref<28xf32>
    }
    %3 = affine.load %mean[%j] : memref<28xf32>
    %4 = arith.divf %3, %float_n : f32
    affine.store %4, %mean[%j] : memref<28xf32>
  }
  affine.for %j = 0 to 28 {
    affine.store %zero, %stddev[%j] : memref<28xf32>
    affine.for %i = 0 to 32 {
      %0 = affine.load %data[%i, %j] : memref<32x28xf32>
      %1 = affine.load %mean[%j] : memref<28xf32>
      %2 = arith.subf %0, %1 : f32
      %3 = arith.mulf %2, %2 : f32
      %4 = affine.load %stddev[%j] : memref<28xf32>
      %5 = arith.addf %4, %3 : f32
      affine.store %5, %stddev[%j] : memref<28xf32>
    }
    %6 = affine.load %stddev[%j] : memref<28xf32>
    %7 = arith.divf %6, %float_n : f32
    affine.store %7, %stddev[%j] : memref<28xf32>
    %8 = affine.load %stddev[%j] : memref<28xf32>
    %9 = math.sqrt %8 : f32
    affine.store %9, %stddev[%j] : memref<28xf32>
    %10 = affine.load %stddev[%j] : memref<28xf32>
    %11 = arith.cmpf ole, %10, %eps : f32
    %12 = arith.select %11, %one, %10 : f32
    affine.store %12, %stddev[%j] : memref<28xf32>
  }
  %root = math.sqrt %float_n : f32
  affine.for %i = 0 to 32 {
    affine.for %j = 0 to 28 {
      %0 = affine.load %data[%i, %j] : memref<32x28xf32>
      %1 = affine.load %mean[%j] : memref<28xf32>
      %2 = arith.subf %0, %1 : f32
      affine.store %2, %data[%i, %j] : memref<32x28xf32>
      %3 = affine.load %data[%i, %j] : memref<32x28xf32>
      %4 = affine.load %stddev[%j] : memref<28xf32>
      %5 = arith.mulf %root, %4 : f32
      %6 = arith.divf %3, %5 : f32
      affine.store %6, %data[%i, %j] : memref<32x28xf32>
    }
  }
  affine.for %i = 0 to 27 {
    affine.store %one, %corr[%i, %i] : memref<28x28xf32>
    affine.for %j = affine_map<(d0) -> (d0 + 1)>(%i) to 28 {
      affine.store %zero, %corr[%i, %j] : memref<28x28xf32>
      affine.for %k = 0 to 32 {
        %0 = affine.load %corr[%i, %j] : memref<28x28xf32>
        %1 = affine.load %data[%k, %i] : memref<32x28xf32>
        %2 = affine.load %data[%k, %j] : memref<32x28xf32>
        %3 = arith.mulf %1, %2 : f32
        %4 = arith.addf %0, %3 : f32
        affine.store %4, %corr[%i, %j] : memref<28x28xf32>
      }
      %5 = affine.load %corr[%i, %j] : memref<28x28xf32>
      affine.store %5, %corr[%j, %i] : memref<28x28xf32>
    }
  }
  affine.store %one, %corr[27, 27] : memref<28x28xf32>
  return %corr : memref<28x28xf32>
}
