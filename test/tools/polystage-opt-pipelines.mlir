/// Our passes and upstream's mix in a pipeline, or are given as flags, in order.

// RUN: %polystage-opt %s --pass-pipeline='builtin.module(canonicalize,npu-attach-target{target=tiny set=sbuf.partitions=8},func.func(linalg-generalize-named-ops))' | filecheck %s
// RUN: %polystage-opt %s --canonicalize --npu-attach-target='target=tiny set=sbuf.partitions=8' --linalg-generalize-named-ops | filecheck %s
// RUN: %polystage-opt --canonicalize --npu-attach-target='target=tiny set=sbuf.partitions=8' --linalg-generalize-named-ops < %s | filecheck %s
// RUN: %polystage-opt %s -o %t.mlir --canonicalize --npu-attach-target='target=tiny set=sbuf.partitions=8' --linalg-generalize-named-ops && filecheck %s < %t.mlir

// CHECK: npu.target = {
// CHECK-SAME: sbuf = {{.*}}partitions = 8
// CHECK-LABEL: @exp
// CHECK-NOT: arith.constant
// CHECK: linalg.generic
// CHECK: math.exp
func.func @exp(%a: tensor<4xf32>, %out: tensor<4xf32>) -> tensor<4xf32> {
  %unused = arith.constant 0 : index
  %0 = linalg.exp ins(%a: tensor<4xf32>) outs(%out: tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
