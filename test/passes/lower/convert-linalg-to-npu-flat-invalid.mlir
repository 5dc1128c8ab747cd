// RUN: not %polystage-opt --npu-attach-target="target=flat set=scratchpad_bytes=192" --convert-linalg-to-npu %s 2>&1 | filecheck %s

#id = affine_map<(d) -> (d)>

/// A plan by hand that keeps more on chip than there is room for, one array in the place of the other: what it needs, what there is, the way out.
// CHECK: error: {{.*}}group 0: needs 256 bytes on chip, but the scratchpad has 192; most of it: 256 for array 'x'
// CHECK-NEXT: help: choose smaller tiles in its loops or nests, stream an array
func.func @main(%x: memref<64xf32> {npu.name = "x"}, %y: memref<64xf32> {npu.name = "y"})
    attributes {npu.groups = [{loops = [], nests = [[]], places = {x = "whole", y = "whole"}}]} {
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"], npu.group = 0 : i64} ins(%x : memref<64xf32>) outs(%y : memref<64xf32>) {
  ^bb0(%a: f32, %out: f32):
    %s = math.exp %a : f32
    linalg.yield %s : f32
  }
  return
}
