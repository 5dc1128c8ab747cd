// RUN: %polystage-opt --raise-affine-to-linalg=unroll-limit=3 --split-input-file --verify-diagnostics %s

/// A triangle with more rows than may be unrolled.
func.func @invalid_unroll(%A: memref<9x9xf32>) {
  %zero = arith.constant 0.0 : f32
  affine.for %i = 0 to 9 {
    affine.for %j = 0 to affine_map<(d0) -> (d0 + 1)>(%i) {
      // expected-error@+1 {{statement 'fill' would be unrolled into more than 3 operations}}
      affine.store %zero, %A[%i, %j] : memref<9x9xf32>
    }
  }
  return
}

// -----

/// A write to a place that is loaded from memory.
func.func @invalid_scatter(%A: memref<9xf32>, %I: memref<4xindex>) {
  %zero = arith.constant 0.0 : f32
  affine.for %i = 0 to 4 {
    %place = affine.load %I[%i] : memref<4xindex>
    // expected-error@+1 {{this loop nest is not affine: index is loaded from memory}}
    memref.store %zero, %A[%place] : memref<9xf32>
  }
  return
}

// -----

/// A sum carried by the loop instead of an element.
func.func @invalid_carried(%A: memref<9xf32>, %y: memref<1xf32>) {
  %zero = arith.constant 0.0 : f32
  // expected-error@+1 {{this loop nest is not affine: loop carries values}}
  %sum = affine.for %i = 0 to 9 iter_args(%s = %zero) -> f32 {
    %0 = affine.load %A[%i] : memref<9xf32>
    %1 = arith.addf %s, %0 : f32
    affine.yield %1 : f32
  }
  affine.store %sum, %y[0] : memref<1xf32>
  return
}

// -----

/// Control flow in the scalar code of a statement.
func.func @invalid_control_flow(%A: memref<9xf32>) {
  %zero = arith.constant 0.0 : f32
  affine.for %i = 0 to 9 {
    %0 = affine.load %A[%i] : memref<9xf32>
    %1 = arith.cmpf ogt, %0, %zero : f32
    // expected-error@+1 {{'scf.if' has no place in the body of a linalg.generic}}
    %2 = scf.if %1 -> f32 {
      scf.yield %0 : f32
    } else {
      scf.yield %zero : f32
    }
    affine.store %2, %A[%i] : memref<9xf32>
  }
  return
}

// -----

/// An operation on whole arrays between the statements of a nest.
func.func @invalid_mixture(%A: memref<9xf32>, %B: memref<9xf32>) {
  %zero = arith.constant 0.0 : f32
  affine.for %i = 0 to 9 {
    affine.store %zero, %A[%i] : memref<9xf32>
    // expected-error@+1 {{'memref.copy' stands inside of an affine loop nest}}
    memref.copy %A, %B : memref<9xf32> to memref<9xf32>
  }
  return
}
