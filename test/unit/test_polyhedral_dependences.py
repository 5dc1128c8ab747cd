"""Dependences of random affine programs against an enumeration that never looks at the model."""

from collections import defaultdict
from dataclasses import dataclass, field

import islpy as isl
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.mlir import ir
from polystage.polyhedral import TensorProgram
from polystage.polyhedral.dependences import _dataflow

Index = tuple[int, tuple[int, ...]]
"""Constant, and one coefficient per enclosing loop."""


@dataclass
class Store:
    target: tuple[str, Index]
    loads: list[tuple[str, Index]]


@dataclass
class Loop:
    lower: Index
    upper: Index
    step: int
    body: list["Loop | Store"] = field(default_factory=list)


def value(index: Index, ivs: list[int]) -> int:
    return index[0] + sum(c * iv for c, iv in zip(index[1], ivs, strict=False))


def text(index: Index) -> str:
    terms = [f"{c} * %i{n}" for n, c in enumerate(index[1]) if c]
    return " + ".join([*terms, str(index[0])])


def bound(index: Index, depth: int) -> str:
    dims = ", ".join(f"d{n}" for n in range(depth))
    expr = " + ".join([f"{c} * d{n}" for n, c in enumerate(index[1]) if c] + [str(index[0])])
    return f"affine_map<({dims}) -> ({expr})>({', '.join(f'%i{n}' for n in range(depth))})"


class Emitter:
    def __init__(self) -> None:
        self.values = 0

    def emit(self, nodes: list[Loop | Store], depth: int) -> str:
        return "".join(self.node(node, depth) for node in nodes)

    def node(self, node: Loop | Store, depth: int) -> str:
        if isinstance(node, Loop):
            head = (
                f"affine.for %i{depth} = {bound(node.lower, depth)} to {bound(node.upper, depth)}"
            )
            return f"{head} step {node.step} {{\n{self.emit(node.body, depth + 1)}}}\n"
        lines = []
        total = "%zero"
        for array, index in node.loads:
            load, add = f"%v{self.values}", f"%v{self.values + 1}"
            self.values += 2
            lines.append(f"{load} = affine.load %{array}[{text(index)}] : memref<64xf32>\n")
            lines.append(f"{add} = arith.addf {total}, {load} : f32\n")
            total = add
        array, index = node.target
        lines.append(f"affine.store {total}, %{array}[{text(index)}] : memref<64xf32>\n")
        return "".join(lines)


def module_text(nodes: list[Loop | Store]) -> str:
    body = Emitter().emit(nodes, 0)
    return f"""func.func @main(%A: memref<64xf32> {{npu.name = "A"}},
                         %B: memref<64xf32> {{npu.name = "B"}}) {{
      %zero = arith.constant 0.0 : f32
      {body}
      return
    }}"""


def events(nodes: list[Loop | Store]) -> list[tuple[int, tuple[int, ...], list, tuple]]:
    """Return (statement, instance, elements read, element written) in the order of execution."""
    numbers: dict[int, int] = {}

    def count(items: list[Loop | Store]) -> None:
        for item in items:
            if isinstance(item, Loop):
                count(item.body)
            else:
                numbers[id(item)] = len(numbers)

    def run(items: list[Loop | Store], ivs: list[int], instance: tuple[int, ...]) -> None:
        for item in items:
            if isinstance(item, Store):
                reads = [(array, value(index, ivs)) for array, index in item.loads]
                write = (item.target[0], value(item.target[1], ivs))
                found.append((numbers[id(item)], instance, reads, write))
                continue
            low = value(item.lower, ivs)
            for number, iv in enumerate(range(low, value(item.upper, ivs), item.step)):
                run(item.body, [*ivs, iv], (*instance, iv if item.step == 1 else number))

    found: list = []
    count(nodes)
    run(nodes, [], ())
    return found


def enumerate_dependences(trace: list) -> dict[str, set]:
    found: dict[str, set] = {"flow": set(), "anti": set(), "output": set()}
    last_write: dict = {}
    reads_since: dict = defaultdict(list)
    for statement, instance, reads, write in trace:
        me = (statement, instance)
        for element in reads:
            if element in last_write:
                found["flow"].add((element[0], last_write[element], me))
            reads_since[element].append(me)
        for reader in reads_since[write]:
            if reader != me:
                found["anti"].add((write[0], reader, me))
        if write in last_write:
            found["output"].add((write[0], last_write[write], me))
        last_write[write] = me
        reads_since[write] = []
    return found


def pairs(relation: isl.Map) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    found = set()
    inputs, outputs = relation.dim(isl.dim_type.in_), relation.dim(isl.dim_type.out)

    def visit(point: isl.Point) -> None:
        values = [
            point.get_coordinate_val(isl.dim_type.set, dim).to_python()
            for dim in range(inputs + outputs)
        ]
        found.add((tuple(values[:inputs]), tuple(values[inputs:])))

    relation.wrap().foreach_point(visit)
    return found


def computed_dependences(program: TensorProgram) -> dict[str, set]:
    place = {s.name: number for number, s in enumerate(program.statements)}
    found: dict[str, set] = {"flow": set(), "anti": set(), "output": set()}
    for dependence in program.dependences():
        for source, target in pairs(dependence.map):
            found[dependence.kind].add(
                (
                    dependence.array,
                    (place[dependence.source], source),
                    (place[dependence.target], target),
                )
            )
    return found


def indices(depth: int) -> st.SearchStrategy[Index]:
    coefficients = st.tuples(*[st.integers(0, 2)] * depth)
    return st.tuples(st.integers(0, 3), coefficients)


def stores(depth: int) -> st.SearchStrategy[Store]:
    arrays = st.sampled_from("AB")
    access = st.tuples(arrays, indices(depth))
    return st.builds(Store, access, st.lists(access, max_size=2))


def bodies(depth: int) -> st.SearchStrategy[list[Loop | Store]]:
    items = stores(depth) if depth == 3 else st.one_of(stores(depth), loops(depth))
    return st.lists(items, min_size=1, max_size=2)


def loops(depth: int) -> st.SearchStrategy[Loop]:
    zeros = (0,) * depth
    triangle = tuple(1 if level == depth - 1 else 0 for level in range(depth))
    lower = st.sampled_from([(0, zeros), (1, zeros), (0, triangle)])
    upper = st.sampled_from([(3, zeros), (4, zeros), (1, triangle)])
    step = st.sampled_from([1, 1, 1, 2])
    return st.builds(Loop, lower, upper, step, st.deferred(lambda: bodies(depth + 1)))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(loops(0), stores(0)), min_size=1, max_size=3))
def test_random_affine_programs_match_enumeration(nodes: list[Loop | Store]) -> None:
    with ir.Context(), ir.Location.unknown():
        program = TensorProgram.from_module(ir.Module.parse(module_text(nodes)))
        assert computed_dependences(program) == enumerate_dependences(events(nodes))


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
}


def linalg_module(ops: list[tuple[str, bool, int, int]]) -> str:
    lines = []
    for number, (name, swap, a, b) in enumerate(ops):
        op = LINALG_OPS[name].format(n=number, a=a, b=b, o=4 * a + b, p=4 * b + a)
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


@settings(max_examples=100, deadline=None)
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
    with ir.Context(), ir.Location.unknown():
        program = TensorProgram.from_module(ir.Module.parse(linalg_module(ops)))
    check_against_dataflow(program)


def check_against_dataflow(program: TensorProgram) -> None:
    fast = {(d.kind, d.array, d.source, d.target): d.map for d in program.dependences()}
    assert len(fast) == len(program.dependences())
    general: dict = {}
    live: dict = {}
    for array in program.arrays:
        users = [s for s in program.statements if any(a.array == array for a in s.accesses)]
        for d in _dataflow(array, users, live) if users else []:
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
