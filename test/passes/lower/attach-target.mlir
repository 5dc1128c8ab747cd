// RUN: %polystage-opt %s --npu-attach-target='target=tiny set=sbuf.bytes_per_partition=2048,vector.lanes=4' | filecheck %s
// RUN: %polystage-opt %s --npu-attach-target=target=inferentia1 --npu-attach-target=target=tiny | filecheck %s --check-prefix=LAST

/// The whole machine stands on the module, changed values included.

// CHECK: npu.target =
// CHECK-SAME: name = "tiny"
// CHECK-SAME: sbuf = {bytes_per_partition = 2048 : i64
// CHECK-SAME: vector = {{.*}} lanes = 4 : i64

/// A target that is there already is replaced.

// LAST-NOT: inferentia1
// LAST: name = "tiny"
// LAST-SAME: bytes_per_partition = 4096 : i64
module {
  func.func private @f()
}
