/// How the IR and the reports are printed.

// RUN: %polystage-opt %s --canonicalize --cse --mlir-print-ir-after-all 2>&1 >/dev/null | filecheck %s --check-prefix=AFTER
// AFTER: // -----// IR Dump After canonicalize //----- //
// AFTER: func.func @constant
// AFTER: // -----// IR Dump After cse //----- //

// RUN: %polystage-opt %s --mlir-print-op-generic | filecheck %s --check-prefix=GENERIC
// GENERIC: "func.func"()
// GENERIC: "arith.constant"()

// RUN: %polystage-opt %s --mlir-print-debuginfo | filecheck %s --check-prefix=DEBUG
// DEBUG: loc(

// RUN: %polystage-opt %s --mlir-elide-elementsattrs-if-larger=2 | filecheck %s --check-prefix=ELIDE
// ELIDE: dense_resource<__elided__>

func.func @constant() -> tensor<4xf32> {
  %0 = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>
  return %0 : tensor<4xf32>
}
