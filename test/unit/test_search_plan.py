"""Plans of whole programs: they fit, and move no more than operators alone."""

import re

import pytest

from polystage.errors import PlanError
from polystage.machine import Target
from polystage.mlir import ir
from polystage.pipeline import run_pipeline
from polystage.planner.fusion.bounds import bounds_of, compulsory_bytes, contraction_bytes
from polystage.planner.fusion.decisions import Place, Plan
from polystage.planner.fusion.explain import explain
from polystage.planner.fusion.plan_program import Planned, plan_program
from polystage.planner.fusion.plan_rules import check_capacity, check_plan
from polystage.planner.fusion.program import Program

MAPS = """
#input = affine_map<(f, x, c, t) -> (c, x + t)>
#filter = affine_map<(f, x, c, t) -> (f, c, t)>
#result = affine_map<(f, x, c, t) -> (f, x)>
#a = affine_map<(m, n, k) -> (m, k)>
#b = affine_map<(m, n, k) -> (k, n)>
#c = affine_map<(m, n, k) -> (m, n)>
#id2 = affine_map<(f, x) -> (f, x)>
#id3 = affine_map<(f, x, y) -> (f, x, y)>
"""

MULTIPLY = """
  ^bb0(%p: f32, %q: f32, %o: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %o, %m : f32
    linalg.yield %s : f32
  }"""


def fill(array: str, kind: str, dims: int = 2) -> str:
    parallel = ", ".join(['"parallel"'] * dims)
    return f"""
  linalg.generic {{indexing_maps = [#id{dims}], iterator_types = [{parallel}]}}
    outs({array} : {kind}) {{ ^bb0(%o: f32): linalg.yield %zero : f32 }}"""


def contraction(maps: str, dims: int, operands: str, types: str, out: str, kind: str) -> str:
    parallel = '"parallel", "parallel"' + ', "reduction"' * (dims - 2)
    return f"""{fill(out, kind)}
  linalg.generic {{indexing_maps = [{maps}], iterator_types = [{parallel}]}}
    ins({operands} : {types}) outs({out} : {kind}) {{{MULTIPLY}"""


def filters(channels: int, width: int, count: int = 2) -> str:
    """Return a chain of filters of three taps."""
    taps = f"memref<{channels}x{channels}x3xf32>"
    kinds = [f"memref<{channels}x{width + 2 * (count - i)}xf32>" for i in range(count + 1)]
    names = ["%x", *(f"%h{i}" for i in range(1, count)), "%y"]
    weights = ", ".join(f"%w{i}: {taps}" for i in range(count))
    body = ["%zero = arith.constant 0.0 : f32"]
    for i in range(count):
        if i + 1 < count:
            body.append(f"\n  {names[i + 1]} = memref.alloc() : {kinds[i + 1]}")
        types = f"{kinds[i]}, {taps}"
        maps, operands = "#input, #filter, #result", f"{names[i]}, %w{i}"
        body.append(contraction(maps, 4, operands, types, names[i + 1], kinds[i + 1]))
    arguments = f"%x: {kinds[0]}, {weights}, %y: {kinds[-1]}"
    return f"{MAPS}func.func @main({arguments}) {{\n  {''.join(body)}\n  return\n}}"


def matmul(m: int, n: int, k: int) -> str:
    kinds = [f"memref<{r}x{c}xf32>" for r, c in ((m, k), (k, n), (m, n))]
    body = contraction("#a, #b, #c", 3, "%x, %w", f"{kinds[0]}, {kinds[1]}", "%y", kinds[2])
    arguments = f"%x: {kinds[0]}, %w: {kinds[1]}, %y: {kinds[2]}"
    zero = "%zero = arith.constant 0.0 : f32"
    return f"{MAPS}func.func @main({arguments}) {{\n  {zero}{body}\n  return\n}}"


DEPTHWISE_AND_PROJECTION = f"""{MAPS}
#in = affine_map<(c, x, y, s, t) -> (c, x + s, y + t)>
#taps = affine_map<(c, x, y, s, t) -> (c, s, t)>
#out = affine_map<(c, x, y, s, t) -> (c, x, y)>
#part = affine_map<(f, x, y, c) -> (c, x, y)>
#weights = affine_map<(f, x, y, c) -> (f, c)>
#sum = affine_map<(f, x, y, c) -> (f, x, y)>
func.func @main(%x: memref<64x34x34xf32>, %t: memref<64x3x3xf32>, %w: memref<8x64xf32>,
                %y: memref<8x32x32xf32>) {{
  %zero = arith.constant 0.0 : f32
  %h = memref.alloc() : memref<64x32x32xf32>
  {fill("%h", "memref<64x32x32xf32>", 3)}
  linalg.generic {{indexing_maps = [#in, #taps, #out],
      iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction"]}}
    ins(%x, %t : memref<64x34x34xf32>, memref<64x3x3xf32>)
    outs(%h : memref<64x32x32xf32>) {{{MULTIPLY}
  {fill("%y", "memref<8x32x32xf32>", 3)}
  linalg.generic {{indexing_maps = [#part, #weights, #sum],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]}}
    ins(%h, %w : memref<64x32x32xf32>, memref<8x64xf32>)
    outs(%y : memref<8x32x32xf32>) {{{MULTIPLY}
  return
}}
"""


def widening_matmul(operands: str, types: str, out: str, kind: str) -> str:
    return f"""{fill(out, kind)}
  linalg.generic {{indexing_maps = [#a, #b, #c],
      iterator_types = ["parallel", "parallel", "reduction"]}}
    ins({operands} : {types}) outs({out} : {kind}) {{
  ^bb0(%p: bf16, %q: bf16, %o: f32):
    %wp = arith.extf %p : bf16 to f32
    %wq = arith.extf %q : bf16 to f32
    %m = arith.mulf %wp, %wq : f32
    %sum = arith.addf %o, %m : f32
    linalg.yield %sum : f32
  }}"""


FEED_FORWARD = f"""{MAPS}
memref.global "private" constant @weights : memref<512x64xbf16> = dense<1.0>
func.func @main(%x: memref<64x64xbf16>, %v: memref<64x512xbf16>,
                %old: memref<64x64xbf16>, %y: memref<64x64xbf16>) {{
  %zero = arith.constant 0.0 : f32
  %w = memref.get_global @weights : memref<512x64xbf16>
  %s = memref.alloc() : memref<64x512xf32>
  %h = memref.alloc() : memref<64x512xbf16>
  %t = memref.alloc() : memref<64x64xf32>
  {widening_matmul("%x, %v", "memref<64x64xbf16>, memref<64x512xbf16>", "%s", "memref<64x512xf32>")}
  linalg.generic {{indexing_maps = [#id2, #id2], iterator_types = ["parallel", "parallel"]}}
    ins(%s : memref<64x512xf32>) outs(%h : memref<64x512xbf16>) {{
  ^bb0(%i: f32, %o: bf16):
    %m = arith.maximumf %i, %zero : f32
    %r = arith.truncf %m : f32 to bf16
    linalg.yield %r : bf16
  }}
  {widening_matmul("%h, %w", "memref<64x512xbf16>, memref<512x64xbf16>", "%t", "memref<64x64xf32>")}
  linalg.generic {{indexing_maps = [#id2, #id2, #id2], iterator_types = ["parallel", "parallel"]}}
    ins(%t, %old : memref<64x64xf32>, memref<64x64xbf16>) outs(%y : memref<64x64xbf16>) {{
  ^bb0(%i: f32, %j: bf16, %o: bf16):
    %e = arith.extf %j : bf16 to f32
    %a = arith.addf %i, %e : f32
    %r = arith.truncf %a : f32 to bf16
    linalg.yield %r : bf16
  }}
  return
}}
"""


PHASES = """
#id = affine_map<(i, c) -> (i, c)>
#taken = affine_map<(p, r, c, t) -> (r + t, p, c)>
#taps = affine_map<(p, r, c, t) -> (c, t)>
#made = affine_map<(p, r, c, t) -> (r, p, c)>
#fill = affine_map<(p, r, c) -> (r, p, c)>
func.func @main(%x: memref<512x64xf32>, %f: memref<64x3xf32>, %y: memref<480x64xf32>) {
  %zero = arith.constant 0.0 : f32
  %g = memref.alloc() : memref<512x64xf32>
  %u = memref.alloc() : memref<30x16x64xf32>
  %rows = memref.expand_shape %g [[0, 1], [2]] output_shape [32, 16, 64]
    : memref<512x64xf32> into memref<32x16x64xf32>
  %flat = memref.collapse_shape %u [[0, 1], [2]]
    : memref<30x16x64xf32> into memref<480x64xf32>
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
    ins(%x : memref<512x64xf32>) outs(%g : memref<512x64xf32>) {
  ^bb0(%i: f32, %o: f32):
    %e = math.exp %i : f32
    linalg.yield %e : f32
  }
  linalg.generic {indexing_maps = [#fill], iterator_types = ["parallel", "parallel", "parallel"]}
    outs(%u : memref<30x16x64xf32>) { ^bb0(%o: f32): linalg.yield %zero : f32 }
  linalg.generic {indexing_maps = [#taken, #taps, #made],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]}
    ins(%rows, %f : memref<32x16x64xf32>, memref<64x3xf32>) outs(%u : memref<30x16x64xf32>) {
  ^bb0(%p: f32, %q: f32, %o: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %o, %m : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
    ins(%flat : memref<480x64xf32>) outs(%y : memref<480x64xf32>) {
  ^bb0(%i: f32, %o: f32):
    %e = math.tanh %i : f32
    linalg.yield %e : f32
  }
  return
}
"""


def planned(text: str, capacity: int, max_group: int = 32) -> tuple[ir.Module, Planned]:
    """Plan a program; the module is returned so that it lives."""
    module = ir.Module.parse(text, ir.Context())
    target = Target.load("flat", {"scratchpad_bytes": capacity})
    return module, plan_program(Program.from_module(module), target, max_group=max_group)


def test_a_chain_of_filters_moves_compulsory_bytes_through_a_window() -> None:
    _, found = planned(filters(8, 512), 8192)
    assert found.traffic == compulsory_bytes(found.program)
    (group,) = found.plan.groups
    assert group.loops[0].dim == 1
    assert all(place is not Place.RESIDENT for place in group.places.values())


def test_steps_move_evenly_through_the_phases_of_a_dilated_convolution() -> None:
    _, found = planned(PHASES, 40 * 1024)
    assert found.traffic == compulsory_bytes(found.program)
    (group,) = found.plan.groups
    assert all(loop.tile % 16 == 0 for loop in group.loops)


def test_alone_the_same_chain_moves_what_is_between() -> None:
    _, found = planned(filters(8, 512), 8192, max_group=1)
    between = 2 * 8 * 514 * 4
    assert len(found.plan.groups) == 2
    assert found.traffic == compulsory_bytes(found.program) + between


def test_what_fits_stays_on_chip() -> None:
    _, found = planned(filters(8, 64, count=4), 65536)
    assert found.traffic == compulsory_bytes(found.program)
    assert len(found.plan.resident) == 3


@pytest.mark.parametrize("capacity", [2048, 3000, 4096, 6000, 12000, 40000])
@pytest.mark.parametrize("text", [filters(6, 100, count=3), matmul(40, 30, 50)])
def test_plans_fit_and_are_never_worse_than_operators_alone(text: str, capacity: int) -> None:
    _, found = planned(text, capacity)
    _, alone = planned(text, capacity, max_group=1)
    assert compulsory_bytes(found.program) <= found.traffic <= alone.traffic
    bounds = bounds_of(alone.program, alone.target)
    assert bounds.alone_bytes <= alone.traffic
    assert bounds.latency_ns <= found.latency.total_ns
    check_plan(found.program, found.plan)
    assert check_capacity(found.program, found.plan, capacity)


@pytest.mark.parametrize("capacity", [1024, 4096, 16384])
def test_a_matmul_is_close_to_its_bound(capacity: int) -> None:
    _, found = planned(matmul(96, 96, 96), capacity)
    bound = contraction_bytes(found.program, found.program.operators[0], capacity)
    assert bound <= found.traffic <= 1.35 * bound


def test_blocks_of_a_matmul_are_cut_again_inside() -> None:
    """Sums of 94 x 86 with single columns of one operand and parts of rows of the other fill the
    scratchpad; a single nest has no room for as many sums."""
    _, found = planned(matmul(1024, 1024, 1024), 32768)
    assert found.traffic == 96 << 20


def test_parts_of_what_is_summed_up_are_made_block_by_block() -> None:
    """No rows of all channels fit, but one part of the channels is added to a block of sums after
    the other."""
    _, found = planned(DEPTHWISE_AND_PROJECTION, 8192)
    (group,) = found.plan.groups
    assert [loop.dim for loop in group.loops] == [1, 2, 3]
    _, alone = planned(DEPTHWISE_AND_PROJECTION, 8192, max_group=1)
    assert found.traffic < 0.7 * alone.traffic


def test_a_hidden_layer_comes_and_goes_while_its_reader_sums_up() -> None:
    """Sums (16 KiB) and input (8 KiB) stay, columns of the hidden layer are made and added; what is
    added in the end, and the output, pass in chunks when the sums are complete."""
    _, found = planned(FEED_FORWARD, 28 << 10)
    assert found.traffic == compulsory_bytes(found.program)
    (group,) = found.plan.groups
    assert [loop.dim for loop in group.loops] == [2]
    assert group.places["arg2"] is Place.STREAMED


def test_a_scratchpad_that_is_too_small_is_refused() -> None:
    with pytest.raises(PlanError, match=r"needs at least \d+ bytes on chip, but the .* has 16"):
        planned(matmul(8, 8, 8), 16)


def test_a_plan_that_does_not_fit_is_refused_with_an_account() -> None:
    _, found = planned(filters(8, 512), 8192)
    with pytest.raises(PlanError) as error:
        check_capacity(found.program, found.plan, 4096)
    assert "bytes on chip, but the scratchpad has 4096; most of it: " in error.value.message
    assert "choose smaller tiles" in error.value.help


def test_every_group_says_why_it_ends() -> None:
    _, found = planned(filters(24, 150, count=3), 16384)
    notes = explain(found)
    assert [note.group for note in notes] == list(range(len(notes)))
    assert notes[-1].end == "ends with the program"
    assert all("ends here: with '" in note.end for note in notes[:-1])
    assert sum(note.traffic for note in notes) == found.traffic
    assert notes[0].text().startswith("group 0: ")
    assert all(re.search(NEXT_TILES, note.runner_up) for note in notes)


NEXT_TILES = (
    r"the next tiles \((one step|steps of \d+ of \d+).*\) would need \d+ bytes less on chip "
    r"and move \d+ more|no other tiles need less on chip"
)


def test_no_group_moves_less_than_it_must() -> None:
    """Every second column is read; the others do not count."""
    text = """
#every_second = affine_map<(f, x) -> (f, 2 * x)>
#id = affine_map<(f, x) -> (f, x)>
func.func @main(%x: memref<8x64xf32>, %y: memref<8x32xf32>) {
  linalg.generic {indexing_maps = [#every_second, #id], iterator_types = ["parallel", "parallel"]}
    ins(%x : memref<8x64xf32>) outs(%y : memref<8x32xf32>) {
  ^bb0(%i: f32, %o: f32):
    linalg.yield %i : f32
  }
  return
}
"""
    _, found = planned(text, 1 << 16)
    (note,) = explain(found)
    assert note.traffic < 8 * 64 * 4 + 8 * 32 * 4
    assert note.excess == 0


LOOKED_UP = """
#row = affine_map<(t, d) -> (t)>
#id = affine_map<(t, d) -> (t, d)>
func.func @main(%table: memref<1000x64xf32>, %numbers: memref<16xi32>, %y: memref<16x64xf32>) {
  %h = memref.alloc() : memref<16x64xf32>
  linalg.generic {indexing_maps = [#row, #id], iterator_types = ["parallel", "parallel"]}
    ins(%numbers : memref<16xi32>) outs(%h : memref<16x64xf32>) {
  ^bb0(%i: i32, %o: f32):
    %t = arith.index_cast %i : i32 to index
    %d = linalg.index 1 : index
    %r = memref.load %table[%t, %d] : memref<1000x64xf32>
    linalg.yield %r : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
    ins(%h : memref<16x64xf32>) outs(%y : memref<16x64xf32>) {
  ^bb0(%i: f32, %o: f32):
    %e = math.exp %i : f32
    linalg.yield %e : f32
  }
  return
}
"""


@pytest.mark.parametrize("capacity", [4096, 1 << 14])
def test_rows_that_are_looked_up_are_moved_as_they_must(capacity: int) -> None:
    """What is between is stored and loaded in 4 KiB, and stays on chip in 16."""
    _, found = planned(LOOKED_UP, capacity)
    beyond = found.traffic - compulsory_bytes(found.program)
    assert beyond == (2 * 16 * 64 * 4 if capacity == 4096 else 0)
    assert sum(note.excess for note in explain(found)) == beyond


def test_equal_programs_get_equal_plans() -> None:
    plans: list[Plan] = [planned(filters(8, 64, count=2), 4096)[1].plan for _ in range(2)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("remarks", [True, False])
def test_groups_are_explained_to_those_who_ask(remarks: bool) -> None:
    module = ir.Module.parse(filters(8, 64), ir.Context())
    passes = "npu-attach-target{target=flat set=scratchpad_bytes=4096},npu-fuse-operators"
    *_, fusion = run_pipeline(module, f"builtin.module({passes})", remarks=remarks)
    assert fusion.statistics["groups"] > 0
    assert bool(fusion.remarks) == remarks
