// RUN: not %polystage-opt %s --npu-attach-target=target=tinny 2>&1 | filecheck %s --check-prefix=NAME
// RUN: not %polystage-opt %s --npu-attach-target='target=tiny set=psum.banks=-1' 2>&1 | filecheck %s --check-prefix=VALUE
// RUN: not %polystage-opt %s --npu-attach-target='target=tiny set=psum.bank=2' 2>&1 | filecheck %s --check-prefix=KEY
// RUN: not %polystage-opt %s --npu-map-banks 2>&1 | filecheck %s --check-prefix=NONE
// RUN: not %polystage-opt %s --npu-pack-weights 2>&1 | filecheck %s --check-prefix=NONE
// RUN: not %polystage-opt %s --convert-linalg-to-npu 2>&1 | filecheck %s --check-prefix=NONE
// RUN: not %polystage-opt %s --npu-allocate-scratchpad 2>&1 | filecheck %s --check-prefix=NONE

/// What is wrong with a target is said with the way out.

// NAME: error: npu-attach-target: unknown target 'tinny'
// NAME: help: name a preset (flat, inferentia1, neuroncore_v2, scalesim_os, scalesim_ws, tiny) or the path of a .toml file
// VALUE: error: npu-attach-target: --set: 'psum.banks' is -1, but must be at least 0
// KEY: error: npu-attach-target: --set: unknown key 'psum.bank'
// KEY: help: did you mean 'psum.banks'

/// A pass that needs a target says so where there is none.

// NONE: error: {{.*}}the module names no target
// NONE: help: run npu-attach-target{target=NAME} first
module {
}
