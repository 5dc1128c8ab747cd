// RUN: %polystage-opt --raise-affine-to-linalg --split-input-file %s | filecheck %s

/// An imperfect nest splits into a scaling and a contraction.
// CHECK-LABEL: @gemm
func.func @gemm(%A: memref<4x6xf32>, %B: memref<6x8xf32>, %C: memref<4x8xf32>, %beta: f32) {
  // CHECK-NOT: affine.for
  // CHECK: iterator_types = ["parallel", "parallel"]
  // CHECK: arith.mulf
  // CHECK: iterator_types = ["parallel", "parallel", "reduction"]
  // CHECK-SAME: ins(%{{.*}}, %{{.*}} : memref<4x6xf32>, memref<6x8xf32>)
  affine.for %i = 0 to 4 {
    affine.for %j = 0 to 8 {
      %0 = affine.load %C[%i, %j] : memref<4x8xf32>
      %1 = arith.mulf %0, %beta : f32
      affine.store %1, %C[%i, %j] : memref<4x8xf32>
      affine.for %k = 0 to 6 {
        %2 = affine.load %A[%i, %k] : memref<4x6xf32>
        %3 = affine.load %B[%k, %j] : memref<6x8xf32>
        %4 = arith.mulf %2, %3 : f32
        %5 = affine.load %C[%i, %j] : memref<4x8xf32>
        %6 = arith.addf %5, %4 : f32
        affine.store %6, %C[%i, %j] : memref<4x8xf32>
      }
    }
  }
  return
}

// -----

/// The time loop carries dependences both ways and stays; the sweeps inside of it split.
// CHECK-LABEL: @time_loop
func.func @time_loop(%A: memref<9xf32>, %B: memref<9xf32>) {
  // CHECK: scf.for
  // CHECK: memref.subview %{{.*}}[2] [7] [1]
  // CHECK: linalg.generic
  // CHECK: linalg.generic
  // CHECK: return
  affine.for %t = 0 to 20 {
    affine.for %i = 1 to 8 {
      %0 = affine.load %A[%i - 1] : memref<9xf32>
      %1 = affine.load %A[%i + 1] : memref<9xf32>
      %2 = arith.addf %0, %1 : f32
      affine.store %2, %B[%i] : memref<9xf32>
    }
    affine.for %i = 1 to 8 {
      %0 = affine.load %B[%i] : memref<9xf32>
      affine.store %0, %A[%i] : memref<9xf32>
    }
  }
  return
}

// -----

/// Extents that depend on a loop: the triangle is unrolled row by row.
// CHECK-LABEL: @triangle
func.func @triangle(%A: memref<4x4xf32>) {
  // CHECK: memref.subview %{{.*}}[0, 0] [1, 1] [1, 1]
  // CHECK: memref.subview %{{.*}}[1, 0] [1, 2] [1, 1]
  // CHECK: memref.subview %{{.*}}[2, 0] [1, 3] [1, 1]
  // CHECK: memref.subview %{{.*}}[3, 0] [1, 4] [1, 1]
  %zero = arith.constant 0.0 : f32
  affine.for %i = 0 to 4 {
    affine.for %j = 0 to affine_map<(d0) -> (d0 + 1)>(%i) {
      affine.store %zero, %A[%i, %j] : memref<4x4xf32>
    }
  }
  return
}

// -----

/// A diagonal is a window with strides that add up.
// CHECK-LABEL: @diagonal
func.func @diagonal(%A: memref<4x4xf32>) {
  // CHECK: memref.reinterpret_cast %{{.*}} to offset: [0], sizes: [4], strides: [5]
  %one = arith.constant 1.0 : f32
  affine.for %i = 0 to 4 {
    affine.store %one, %A[%i, %i] : memref<4x4xf32>
  }
  return
}

// -----

/// A recurrence along j is independent for every i: only the loop over j stays.
// CHECK-LABEL: @scan_of_rows
func.func @scan_of_rows(%A: memref<4x9xf32>) {
  // CHECK: scf.for %[[J:.*]] =
  // CHECK-NOT: scf.for
  // CHECK: iterator_types = ["parallel"]
  affine.for %i = 0 to 4 {
    affine.for %j = 1 to 9 {
      %0 = affine.load %A[%i, %j - 1] : memref<4x9xf32>
      %1 = affine.load %A[%i, %j] : memref<4x9xf32>
      %2 = arith.addf %0, %1 : f32
      affine.store %2, %A[%i, %j] : memref<4x9xf32>
    }
  }
  return
}

// -----

/// An accumulation whose order matters is no reduction: Horner's rule.
// CHECK-LABEL: @no_reduction
func.func @no_reduction(%C: memref<9xf32>, %x: memref<4xf32>, %y: memref<4xf32>) {
  // CHECK: scf.for
  // CHECK: iterator_types = ["parallel"]
  affine.for %i = 0 to 4 {
    affine.for %k = 0 to 9 {
      %0 = affine.load %y[%i] : memref<4xf32>
      %1 = affine.load %x[%i] : memref<4xf32>
      %2 = arith.mulf %0, %1 : f32
      %3 = affine.load %C[%k] : memref<9xf32>
      %4 = arith.addf %2, %3 : f32
      affine.store %4, %y[%i] : memref<4xf32>
    }
  }
  return
}

// -----

/// Operations that are linalg already are left alone.
// CHECK-LABEL: @no_nest
func.func @no_nest(%A: memref<4xf32>, %B: memref<4xf32>) {
  // CHECK-NEXT: memref.copy
  // CHECK-NEXT: return
  memref.copy %A, %B : memref<4xf32> to memref<4xf32>
  return
}
