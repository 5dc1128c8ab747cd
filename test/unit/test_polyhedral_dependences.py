"""Dependences of whole models: the pairing of statements against the general analysis."""

from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.dialects import npu
from polystage.mlir import ir
from polystage.polyhedral import TensorProgram
from polystage.polyhedral.dataflow import dataflow

LINALG_OPS = {
    "fill": """linalg.fill ins(%zero : f32) outs(%X : memref<4x4xf32>)""",
    "part": """%s{n} = memref.subview %X[{a}, {b}] [2, 3] [1, 1]
          : memref<4x4xf32> to memref<2x3xf32, strided<[4, 1], offset: {o}>>
        %t{n} = memref.subview %Y[{b}, {a}] [2, 3] [1, 1]
          : memref<4x4xf32> to memref<2x3xf32, strided<[4, 1], offset: {p}>>
        memref.copy %t{n}, %s{n} : memref<2x3xf32, strided<[4, 1], offset: {p}>>
          to memref<2x3xf32, strided<[4, 1], offset: {o}>>""",
    "inplace": """linalg.generic {{indexing_maps = [#id, #id],
          iterator_types = ["parallel", "parallel"]}}
        ins(%Y : memref<4x4xf32>) outs(%X : memref<4x4xf32>) {{
        ^bb0(%in: f32, %out: f32):
          %r = arith.addf %in, %out : f32
          linalg.yield %r : f32 }}""",
    "self": """linalg.generic {{indexing_maps = [#flip, #id],
          iterator_types = ["parallel", "parallel"]}}
        ins(%X : memref<4x4xf32>) outs(%X : memref<4x4xf32>) {{
        ^bb0(%in: f32, %out: f32):
          linalg.yield %in : f32 }}""",
    "flat": """%c{n} = memref.collapse_shape %X [[0, 1]] : memref<4x4xf32> into memref<16xf32>
        %w{n} = memref.subview %c{n}[{a}] [4] [3]
          : memref<16xf32> to memref<4xf32, strided<[3], offset: {a}>>
        memref.copy %w{n}, %V : memref<4xf32, strided<[3], offset: {a}>> to memref<4xf32>""",
    "spread": """linalg.generic {{indexing_maps = [#out1, #id],
          iterator_types = ["parallel", "parallel"]}}
        ins(%V : memref<4xf32>) outs(%X : memref<4x4xf32>) {{
        ^bb0(%in: f32, %out: f32):
          linalg.yield %in : f32 }}""",
    "padded": """%s{n} = memref.subview %Y[{a}, {b}] [2, 3] [1, 1]
          : memref<4x4xf32> to memref<2x3xf32, strided<[4, 1], offset: {o}>>
        %l{n} = "npu.overlay"(%s{n}) {{offsets = array<i64: {b}, {a}>, fill = 0.0 : f32}}
          : (memref<2x3xf32, strided<[4, 1], offset: {o}>>) -> memref<4x4xf32>
        @NEGATE@""",
    "masked": """%s{n} = memref.subview %X[{a}, {b}] [2, 3] [1, 1]
          : memref<4x4xf32> to memref<2x3xf32, strided<[4, 1], offset: {o}>>
        %l{n} = "npu.overlay"(%s{n}) {{offsets = array<i64: {a}, {b}>, fill = 0.0 : f32}}
          : (memref<2x3xf32, strided<[4, 1], offset: {o}>>) -> memref<4x4xf32>
        @NEGATE@""",
    "laid": """%s{n} = memref.subview %Y[{a}, {b}] [2, 3] [1, 1]
          : memref<4x4xf32> to memref<2x3xf32, strided<[4, 1], offset: {o}>>
        %l{n} = "npu.overlay"(%s{n}, %X) {{offsets = array<i64: {b}, {a}>}}
          : (memref<2x3xf32, strided<[4, 1], offset: {o}>>, memref<4x4xf32>) -> memref<4x4xf32>
        @NEGATE@""",
}
NEGATE = """linalg.generic {{indexing_maps = [#id, #id],
          iterator_types = ["parallel", "parallel"]}}
        ins(%l{n} : memref<4x4xf32>) outs(%X : memref<4x4xf32>) {{
        ^bb0(%in: f32, %out: f32):
          %r = arith.negf %in : f32
          linalg.yield %r : f32 }}"""
CONTEXT = ir.Context()
npu.load(CONTEXT)


def linalg_module(ops: list[tuple[str, bool, int, int]]) -> str:
    lines = []
    for number, (name, swap, a, b) in enumerate(ops):
        op = (
            LINALG_OPS[name]
            .replace("@NEGATE@", NEGATE)
            .format(n=number, a=a, b=b, o=4 * a + b, p=4 * b + a)
        )
        if swap:
            op = op.replace("%X", "%tmp").replace("%Y", "%X").replace("%tmp", "%Y")
        lines.append(op)
    body = "\n".join(lines)
    return f"""
    #id = affine_map<(i, j) -> (i, j)>
    #flip = affine_map<(i, j) -> (j, i)>
    #out1 = affine_map<(i, j) -> (i)>
    func.func @main(%X: memref<4x4xf32>, %Y: memref<4x4xf32>, %V: memref<4xf32>) {{
      %zero = arith.constant 0.0 : f32
      {body}
      return
    }}"""


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(LINALG_OPS)),
            st.booleans(),
            st.integers(0, 1),
            st.integers(0, 1),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_pairing_equals_dataflow_analysis(ops: list[tuple[str, bool, int, int]]) -> None:
    """The fast way for whole models gives what the general analysis gives."""
    with CONTEXT, ir.Location.unknown():
        program = TensorProgram.from_module(ir.Module.parse(linalg_module(ops)))
    check_against_dataflow(program)


def check_against_dataflow(program: TensorProgram) -> None:
    fast = {(d.kind, d.array, d.source, d.target): d.map for d in program.dependences()}
    assert len(fast) == len(program.dependences())
    general: dict = {}
    live: dict = {}
    for array in program.arrays:
        users = [s for s in program.statements if any(a.array == array for a in s.accesses)]
        for d in dataflow(array, users, live) if users else []:
            general[d.kind, d.array, d.source, d.target] = d.map
    assert set(fast) == set(general)
    for key, relation in general.items():
        assert fast[key].is_equal(relation), key
    fast_live = {key: m for key, m in program.dependences().live_in.items() if not m.is_empty()}
    assert set(fast_live) == set(live)
    assert all(fast_live[key].is_equal(relation) for key, relation in live.items())


CONVOLUTION = """
#x = affine_map<(n, m, h, w, c, kh, kw) -> (n, c, h * 2 + kh, w * 2 + kw)>
#f = affine_map<(n, m, h, w, c, kh, kw) -> (m, c, kh, kw)>
#y = affine_map<(n, m, h, w, c, kh, kw) -> (n, m, h, w)>
func.func @main(%x: memref<1x2x7x7xf32>, %f: memref<4x2x3x3xf32>) -> memref<1x4x3x3xf32> {
  %zero = arith.constant 0.0 : f32
  %y = memref.alloc() : memref<1x4x3x3xf32>
  linalg.fill ins(%zero : f32) outs(%y : memref<1x4x3x3xf32>)
  linalg.generic {indexing_maps = [#x, #f, #y], iterator_types =
      ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]}
      ins(%x, %f : memref<1x2x7x7xf32>, memref<4x2x3x3xf32>) outs(%y : memref<1x4x3x3xf32>) {
    ^bb0(%a: f32, %b: f32, %out: f32):
      %p = arith.mulf %a, %b : f32
      %s = arith.addf %out, %p : f32
      linalg.yield %s : f32
  }
  return %y : memref<1x4x3x3xf32>
}
"""


def test_accumulation_in_closed_form() -> None:
    """A contraction depends on itself from one summand to the next, and only so."""
    with ir.Context(), ir.Location.unknown():
        program = TensorProgram.from_module(ir.Module.parse(CONVOLUTION))
    check_against_dataflow(program)
    own = [d for d in program.dependences() if d.source == d.target]
    assert [str(d.kind) for d in own] == ["flow", "output"]


def test_opaque_operation_orders_everything_it_may_touch() -> None:
    text = """
    func.func private @mystery(memref<4xf32>)
    func.func @main(%x: memref<4xf32>) -> memref<4xf32> {
      %y = memref.alloc() : memref<4xf32>
      memref.copy %x, %y : memref<4xf32> to memref<4xf32>
      func.call @mystery(%y) : (memref<4xf32>) -> ()
      %z = memref.alloc() : memref<4xf32>
      memref.copy %y, %z : memref<4xf32> to memref<4xf32>
      return %z : memref<4xf32>
    }"""
    with ir.Context(), ir.Location.unknown():
        program = TensorProgram.from_module(ir.Module.parse(text))
    first, call, last = (statement.name for statement in program.statements)
    found = {(str(d.kind), d.source, d.target) for d in program.dependences()}
    assert found == {
        ("flow", first, call),
        ("output", first, call),
        ("flow", call, last),
        ("flow", first, last),  # the call may not have written all of it
    }
    assert program.statement(call).reason == "func.call is not understood"
