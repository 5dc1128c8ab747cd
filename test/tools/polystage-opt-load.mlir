/// `--load` makes a user's passes known: a class with options, or a plain function.

// RUN: %polystage-opt %s --load=%S/Inputs/count_ops.py --mark-module --count-ops=limit=3 --remarks --mlir-pass-statistics --mlir-timing > %t 2>&1; filecheck %s < %t
// RUN: %polystage-opt --load %S/Inputs/count_ops.py --help | filecheck %s --check-prefix=HELP
// RUN: not %polystage-opt %s --load=%S/Inputs/count_ops.py --count-ops=limit=1 2>&1 | filecheck %s --check-prefix=ERROR
// RUN: not %polystage-opt %s --load=%S/Inputs/count_ops.py --count-ops=limit=one 2>&1 | filecheck %s --check-prefix=OPTION

// CHECK-DAG: Execution time report
// CHECK-DAG: 'count-ops{limit=3}'
// CHECK-DAG: (S) 2 arith.constant found
// CHECK-DAG: polystage-opt-load.mlir:[[# @LINE + 11]]:8: remark: count-ops: found one
// CHECK-DAG: module attributes {npu.marked}

// HELP-DAG: --mark-module {{ *}}Put the attribute `npu.marked` on the module.
// HELP-DAG: --count-ops {{ *}}Count the operations of one name.
// HELP-DAG: op= {{ *}}Which operation is counted. (default arith.constant)

// ERROR: polystage-opt-load.mlir:[[# @LINE + 5]]:8: error: count-ops: more than 1 'arith.constant'
// ERROR-NEXT: help: fold
// OPTION: error: option 'limit' of 'count-ops' is 'one', but it takes an integer
func.func @two() {
  %a = arith.constant 1 : i32
  %b = arith.constant 2 : i32
  return
}
