// RUN: %polystage-opt --split-input-file --verify-diagnostics --pass-pipeline='builtin.module(npu-attach-target{target=neuroncore_v2},convert-linalg-to-npu)' %s

/// What a resident group is can be edited; what it cannot be is refused.

// @invalid_operation

#whole = affine_map<(c, h) -> (c, h)>
#moving = affine_map<(m, h, k) -> (k, h)>
#weights = affine_map<(m, h, k) -> (k, m)>
#sums = affine_map<(m, h, k) -> (m, h)>
memref.global "private" constant @w : memref<200x200xf32> = dense<0.5>
func.func @main(%x: memref<200x32xf32>) -> memref<200x32xf32> {
  %zero = arith.constant 0.0 : f32
  %w = memref.get_global @w : memref<200x200xf32>
  %y = memref.alloc() {npu.resident = [0]} : memref<200x32xf32>
  %z = memref.alloc() {npu.resident = [0]} : memref<200x32xf32>
  linalg.generic {indexing_maps = [#whole], iterator_types = ["parallel", "parallel"]} outs(%y : memref<200x32xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#moving, #weights, #sums], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : memref<200x32xf32>, memref<200x200xf32>) outs(%y : memref<200x32xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %m = arith.mulf %a, %c : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#whole], iterator_types = ["parallel", "parallel"]} outs(%z : memref<200x32xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  // expected-error@+1 {{convert-linalg-to-npu: an operation of resident group 0 cannot run in it: no contraction, sum or pooling}}
  linalg.generic {indexing_maps = [#moving, #weights, #sums], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%y, %w : memref<200x32xf32>, memref<200x200xf32>) outs(%z : memref<200x32xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %m = arith.mulf %a, %c : f32
    %s = arith.subf %out, %m : f32
    linalg.yield %s : f32
  }
  return %z : memref<200x32xf32>
}

// -----

// @invalid_demand

#whole = affine_map<(c, h) -> (c, h)>
#moving = affine_map<(m, h, k) -> (k, h)>
#weights = affine_map<(m, h, k) -> (k, m)>
#sums = affine_map<(m, h, k) -> (m, h)>
memref.global "private" constant @w : memref<200x200xf32> = dense<0.5>
func.func @main(%x: memref<200x20000xf32>) -> memref<200x20000xf32> {
  %zero = arith.constant 0.0 : f32
  %w = memref.get_global @w : memref<200x200xf32>
  %y = memref.alloc() {npu.resident = [0]} : memref<200x20000xf32>
  %z = memref.alloc() {npu.resident = [0]} : memref<200x20000xf32>
  linalg.generic {indexing_maps = [#whole], iterator_types = ["parallel", "parallel"]} outs(%y : memref<200x20000xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  // expected-error@+1 {{convert-linalg-to-npu: the 2 operators of resident group 0 do not fit in sbuf of 'neuroncore_v2', 196608 bytes per partition, together}}
  linalg.generic {indexing_maps = [#moving, #weights, #sums], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : memref<200x20000xf32>, memref<200x200xf32>) outs(%y : memref<200x20000xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %m = arith.mulf %a, %c : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#whole], iterator_types = ["parallel", "parallel"]} outs(%z : memref<200x20000xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#moving, #weights, #sums], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%y, %w : memref<200x20000xf32>, memref<200x200xf32>) outs(%z : memref<200x20000xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %m = arith.mulf %a, %c : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return %z : memref<200x20000xf32>
}

// -----

// @invalid_part

#whole = affine_map<(c, h) -> (c, h)>
#moving = affine_map<(m, h, k) -> (k, h)>
#weights = affine_map<(m, h, k) -> (k, m)>
#sums = affine_map<(m, h, k) -> (m, h)>
memref.global "private" constant @w : memref<200x200xf32> = dense<0.5>
func.func @main(%x: memref<200x32xf32>) -> memref<200x32xf32> {
  %zero = arith.constant 0.0 : f32
  %w = memref.get_global @w : memref<200x200xf32>
  %y = memref.alloc() {npu.resident = [0]} : memref<200x32xf32>
  %z = memref.alloc() {npu.resident = [0]} : memref<200x32xf32>
  linalg.generic {indexing_maps = [#whole], iterator_types = ["parallel", "parallel"]} outs(%y : memref<200x32xf32>) attrs = {npu.group = 0 : i64, npu.part = 5 : i64} {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  // expected-error@+1 {{convert-linalg-to-npu: 'npu.part' is 5, but the batch of resident group 0 is 32}}
  linalg.generic {indexing_maps = [#moving, #weights, #sums], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : memref<200x32xf32>, memref<200x200xf32>) outs(%y : memref<200x32xf32>) attrs = {npu.group = 0 : i64, npu.part = 5 : i64} {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %m = arith.mulf %a, %c : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#whole], iterator_types = ["parallel", "parallel"]} outs(%z : memref<200x32xf32>) attrs = {npu.group = 0 : i64, npu.part = 5 : i64} {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#moving, #weights, #sums], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%y, %w : memref<200x32xf32>, memref<200x200xf32>) outs(%z : memref<200x32xf32>) attrs = {npu.group = 0 : i64, npu.part = 5 : i64} {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %m = arith.mulf %a, %c : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  return %z : memref<200x32xf32>
}

// -----

// @invalid_statistic_at_border

#whole = affine_map<(c, h) -> (c, h)>
#column = affine_map<(h) -> (h)>
#over = affine_map<(c, h) -> (h)>
#moving = affine_map<(m, h, k) -> (k, h)>
#weights = affine_map<(m, h, k) -> (k, m)>
#sums = affine_map<(m, h, k) -> (m, h)>
memref.global "private" constant @w : memref<200x200xf32> = dense<0.5>
func.func @main(%x: memref<200x32xf32>) -> memref<32xf32> {
  %zero = arith.constant 0.0 : f32
  %w = memref.get_global @w : memref<200x200xf32>
  %y = memref.alloc() {npu.resident = [0]} : memref<200x32xf32>
  %z = memref.alloc() {npu.resident = [0]} : memref<32xf32>
  linalg.generic {indexing_maps = [#whole], iterator_types = ["parallel", "parallel"]} outs(%y : memref<200x32xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  // expected-error@+1 {{convert-linalg-to-npu: resident group 0 cannot run: a statistic, which all partitions have alike, would cross the border of its group}}
  linalg.generic {indexing_maps = [#moving, #weights, #sums], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%x, %w : memref<200x32xf32>, memref<200x200xf32>) outs(%y : memref<200x32xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%a: f32, %c: f32, %out: f32):
    %m = arith.mulf %a, %c : f32
    %s = arith.addf %out, %m : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#column], iterator_types = ["parallel"]} outs(%z : memref<32xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%out: f32):
    linalg.yield %zero : f32
  }
  linalg.generic {indexing_maps = [#whole, #over], iterator_types = ["reduction", "parallel"]}
      ins(%y : memref<200x32xf32>) outs(%z : memref<32xf32>) attrs = {npu.group = 0 : i64} {
  ^bb0(%a: f32, %out: f32):
    %s = arith.addf %a, %out : f32
    linalg.yield %s : f32
  }
  return %z : memref<32xf32>
}
