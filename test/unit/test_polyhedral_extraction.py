"""Access relations of extracted statements against numpy doing the same views."""

import itertools
from dataclasses import dataclass

import islpy as isl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.errors import PolystageError
from polystage.mlir import ir
from polystage.polyhedral import Kind, Role, TensorProgram, print_program
from polystage.polyhedral.expressions import evaluate


def read(text: str) -> TensorProgram:
    with ir.Context(), ir.Location.unknown():
        return TensorProgram.from_module(ir.Module.parse(text))


def elements(exprs: tuple, shape: tuple[int, ...], extents: tuple[int, ...]) -> np.ndarray:
    """Return the row-major numbers of the elements touched, one per instance."""
    dims = np.indices(extents)
    index = [np.broadcast_to(evaluate(expr, list(dims)), extents) for expr in exprs]
    return np.ravel_multi_index(index, shape)


# -- chains of views ---------------------------------------------------------------------------


@dataclass
class Chain:
    """A memref value and the numpy view that it must equal."""

    lines: list[str]
    value: str
    type: str
    view: np.ndarray


def is_row_major(view: np.ndarray) -> bool:
    return view.strides == np.empty(view.shape, view.dtype).strides


def memref_type(view: np.ndarray) -> str:
    shape = "x".join(map(str, view.shape))
    strides = [stride // view.itemsize for stride in view.strides]
    offset = int(view.flat[0])
    if is_row_major(view) and offset == 0:
        return f"memref<{shape}xf32>"
    return f"memref<{shape}xf32, strided<{strides}, offset: {offset}>>"


def subview(chain: Chain, choose: st.DataObject, number: int) -> Chain:
    offsets, sizes, strides = [], [], []
    for extent in chain.view.shape:
        stride = choose.draw(st.integers(1, 2))
        offset = choose.draw(st.integers(0, extent - 1))
        size = choose.draw(st.integers(1, (extent - 1 - offset) // stride + 1))
        offsets.append(offset)
        sizes.append(size)
        strides.append(stride)
    slices = tuple(
        slice(o, o + (n - 1) * s + 1, s) for o, n, s in zip(offsets, sizes, strides, strict=True)
    )
    view = chain.view[slices]
    drop = [d for d in range(view.ndim) if view.shape[d] == 1 and choose.draw(st.booleans())]
    reduced = view.squeeze(axis=tuple(drop)) if len(drop) < view.ndim else view
    exact = np.lib.stride_tricks.as_strided(
        view,
        view.shape,
        tuple(s * k for s, k in zip(chain.view.strides, strides, strict=True)),
    )
    keep = (
        [d for d in range(view.ndim) if d not in drop] if reduced is not view else range(view.ndim)
    )
    reduced = np.lib.stride_tricks.as_strided(
        exact, [exact.shape[d] for d in keep], [exact.strides[d] for d in keep]
    )
    line = (
        f"%v{number} = memref.subview {chain.value}{offsets} {sizes} {strides} : "
        f"{chain.type} to {memref_type(reduced)}"
    )
    return Chain([*chain.lines, line], f"%v{number}", memref_type(reduced), reduced)


def transpose(chain: Chain, choose: st.DataObject, number: int) -> Chain:
    order = choose.draw(st.permutations(range(chain.view.ndim)))
    view = chain.view.transpose(order)
    names = [f"d{d}" for d in range(view.ndim)]
    permuted = ", ".join(names[d] for d in order)
    line = (
        f"%v{number} = memref.transpose {chain.value} ({', '.join(names)}) -> ({permuted}) : "
        f"{chain.type} to {memref_type(view)}"
    )
    return Chain([*chain.lines, line], f"%v{number}", memref_type(view), view)


def reshape(chain: Chain, choose: st.DataObject, number: int) -> Chain:
    """Collapse all dims, then expand to another shape; only of a contiguous view."""
    if not is_row_major(chain.view) or chain.view.ndim < 2:
        return chain
    elements = chain.view.size
    divisors = [n for n in range(1, elements + 1) if elements % n == 0]
    first = choose.draw(st.sampled_from(divisors))
    flat = chain.view.reshape(elements)
    view = chain.view.reshape(first, elements // first)
    dims = list(range(chain.view.ndim))
    lines = [
        f"%f{number} = memref.collapse_shape {chain.value} [{dims}] : "
        f"{chain.type} into {memref_type(flat)}",
        f"%v{number} = memref.expand_shape %f{number} [[0, 1]] output_shape "
        f"{list(view.shape)} : {memref_type(flat)} into {memref_type(view)}",
    ]
    return Chain([*chain.lines, *lines], f"%v{number}", memref_type(view), view)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_chains_of_views_touch_the_elements_that_numpy_does(choose: st.DataObject) -> None:
    shape = (4, 6, 5)
    root = np.arange(120, dtype=np.int64).reshape(shape)
    chain = Chain([], "%x", "memref<4x6x5xf32>", root)
    for number in range(choose.draw(st.integers(1, 4))):
        step = choose.draw(st.sampled_from([subview, transpose, reshape, reshape]))
        chain = step(chain, choose, number)
    out = "memref<" + "x".join(map(str, chain.view.shape)) + "xf32>"
    lines = "\n".join(chain.lines)
    program = read(f"""func.func @main(%x: memref<4x6x5xf32>) -> {out} {{
      {lines}
      %y = memref.alloc() : {out}
      memref.copy {chain.value}, %y : {chain.type} to {out}
      return %y : {out}
    }}""")
    (statement,) = program.statements
    source = statement.reads[0]
    assert source.exprs is not None
    found = elements(source.exprs, shape, chain.view.shape)
    np.testing.assert_array_equal(found, chain.view)
    points = {
        (i, tuple(map(int, np.unravel_index(int(chain.view[i]), shape))))
        for i in itertools.product(*map(range, chain.view.shape))
    }
    assert set(instances(source.map)) == points


def instances(relation: isl.Map) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    found: list = []
    split = relation.dim(isl.dim_type.in_)
    rank = split + relation.dim(isl.dim_type.out)

    def visit(point: isl.Point) -> None:
        index = [point.get_coordinate_val(isl.dim_type.set, d).to_python() for d in range(rank)]
        found.append((tuple(index[:split]), tuple(index[split:])))

    relation.wrap().foreach_point(visit)
    return found


def test_reinterpret_cast_counts_from_the_start_of_the_array() -> None:
    program = read("""
    func.func @main(%x: memref<6x6xf32>) -> memref<5xf32> {
      %s = memref.subview %x[2, 0] [2, 6] [1, 1]
        : memref<6x6xf32> to memref<2x6xf32, strided<[6, 1], offset: 12>>
      %d = memref.reinterpret_cast %s to offset: [1], sizes: [5], strides: [7]
        : memref<2x6xf32, strided<[6, 1], offset: 12>> to memref<5xf32, strided<[7], offset: 1>>
      %y = memref.alloc() : memref<5xf32>
      memref.copy %d, %y : memref<5xf32, strided<[7], offset: 1>> to memref<5xf32>
      return %y : memref<5xf32>
    }""")
    (statement,) = program.statements
    expected = isl.Map("{ S[i] -> x[i, i + 1] : 0 <= i < 5 }")
    found = statement.reads[0].map
    found = found.set_tuple_name(isl.dim_type.in_, "S").set_tuple_name(isl.dim_type.out, "x")
    assert found.is_equal(expected)


# -- statements ----------------------------------------------------------------------------------

CONVOLUTION = """
#x = affine_map<(n, m, h, w, c, kh, kw) -> (n, c, h * 2 + kh, w * 2 + kw)>
#f = affine_map<(n, m, h, w, c, kh, kw) -> (m, c, kh, kw)>
#y = affine_map<(n, m, h, w, c, kh, kw) -> (n, m, h, w)>
#id = affine_map<(n, m, h, w) -> (n, m, h, w)>
memref.global "private" constant @filter : memref<4x2x3x3xf32> = dense<1.0>
func.func @main(%x: memref<1x2x7x7xf32> {npu.name = "image"})
    -> (memref<1x4x3x3xf32> {npu.name = "result"}) {
  %f = memref.get_global @filter : memref<4x2x3x3xf32>
  %zero = arith.constant 0.0 : f32
  %y = memref.alloc() : memref<1x4x3x3xf32>
  linalg.fill ins(%zero : f32) outs(%y : memref<1x4x3x3xf32>) loc("conv1")
  linalg.generic {indexing_maps = [#x, #f, #y], iterator_types =
      ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]}
      ins(%x, %f : memref<1x2x7x7xf32>, memref<4x2x3x3xf32>) outs(%y : memref<1x4x3x3xf32>) {
    ^bb0(%a: f32, %b: f32, %out: f32):
      %p = arith.mulf %a, %b : f32
      %s = arith.addf %out, %p : f32
      linalg.yield %s : f32
  } loc(fused["conv1", "model.onnx":1:1])
  linalg.generic {indexing_maps = [#id], iterator_types =
      ["parallel", "parallel", "parallel", "parallel"]} outs(%y : memref<1x4x3x3xf32>) {
    ^bb0(%out: f32):
      %s = arith.maximumf %out, %zero : f32
      linalg.yield %s : f32
  } loc("relu1")
  return %y : memref<1x4x3x3xf32>
}
"""


def test_convolution_is_named_and_classified() -> None:
    program = read(CONVOLUTION)
    assert [s.name for s in program.statements] == ["conv1_fill", "conv1", "relu1"]
    assert [s.kind for s in program.statements] == [
        Kind.FILL,
        Kind.CONTRACTION,
        Kind.ELEMENTWISE,
    ]
    assert program.statement("conv1").dims == ("n", "m", "h", "w", "c", "kh", "kw")
    assert {a.name: a.role for a in program.arrays.values()} == {
        "image": Role.INPUT,
        "result": Role.OUTPUT,
        "filter": Role.WEIGHT,
    }
    assert program.arrays["image"].size_bytes == 2 * 7 * 7 * 4
    assert program.statement("conv1_fill").op.name == "linalg.fill"


def test_printed_model_of_a_convolution() -> None:
    """This is the example of docs/polyhedral-model.md."""
    assert (
        print_program(read(CONVOLUTION))
        == """program @main

arrays
  image   f32[1, 2, 7, 7]  input  392 B
  result  f32[1, 4, 3, 3]  output  144 B
  filter  f32[4, 2, 3, 3]  weight  288 B

statements
  conv1_fill  fill
    layer   conv1
    domain  d0 < 1, d1 < 4, d2 < 3, d3 < 3
    write   result[d0, d1, d2, d3]
  conv1  contraction
    domain  n < 1, m < 4, h < 3, w < 3, c < 2, kh < 3, kw < 3  (reduced: c, kh, kw)
    read    image[n, c, 2*h + kh, 2*w + kw]
    read    filter[m, c, kh, kw]
    read    result[n, m, h, w]
    write   result[n, m, h, w]
  relu1  elementwise
    domain  d0 < 1, d1 < 4, d2 < 3, d3 < 3
    read    result[d0, d1, d2, d3]
    write   result[d0, d1, d2, d3]

dependences
  conv1_fill -> conv1  output, flow on result
  conv1 -> conv1  flow, output on result
  conv1 -> relu1  output, flow on result

3 statements (1 contraction, 1 elementwise, 1 fill), 3 arrays
6 dependences (3 flow, 0 anti, 3 output)
"""
    )


def test_triangular_imperfect_nest() -> None:
    program = read("""
    func.func @main(%A: memref<8x8xf32> {npu.name = "A"}, %x: memref<8xf32> {npu.name = "x"}) {
      %zero = arith.constant 0.0 : f32
      affine.for %i = 0 to 8 {
        affine.store %zero, %x[%i] : memref<8xf32>
        affine.for %j = affine_map<(d0) -> (d0 + 1)>(%i) to 8 {
          %a = affine.load %A[%j, %i] : memref<8x8xf32>
          %o = affine.load %x[%i] : memref<8xf32>
          %s = arith.addf %o, %a : f32
          affine.store %s, %x[%i] : memref<8xf32>
        }
      }
      return
    }""")
    first, second = program.statements
    assert (first.kind, second.kind) == (Kind.FILL, Kind.REDUCTION)
    assert second.domain.is_equal(isl.Set("{ reduction[i, j] : 0 <= i and i < j < 8 }"))
    assert second.reads[1].map.is_equal(
        isl.Map("{ reduction[i, j] -> A[j, i] : 0 <= i and i < j < 8 }")
    )
    assert (first.position, second.position) == ((0, 0), (0, 1, 0))
    assert program.arrays["x"].role == Role.OUTPUT


def test_steps_conditions_and_computed_indices() -> None:
    program = read("""
    func.func @main(%A: memref<16xf32> {npu.name = "A"}) {
      %zero = arith.constant 0.0 : f32
      %c3 = arith.constant 3 : index
      affine.for %i = 2 to 13 step 4 {
        affine.if affine_set<(d0) : (d0 - 6 >= 0)>(%i) {
          %j = arith.addi %i, %c3 : index
          memref.store %zero, %A[%j] : memref<16xf32>
        } else {
          affine.store %zero, %A[%i floordiv 2] : memref<16xf32>
        }
      }
      return
    }""")
    first, second = program.statements
    assert first.writes[0].map.is_equal(isl.Map("{ fill[n] -> A[4n + 5] : 1 <= n <= 2 }"))
    assert second.writes[0].map.is_equal(isl.Map("{ fill_1[n] -> A[1] : n = 0 }"))
    assert first.position[0] == second.position[0]
    assert first.position < second.position


def test_value_kept_over_a_write_becomes_an_array() -> None:
    """A swap: the loaded value is used after its element has changed."""
    program = read("""
    func.func @main(%A: memref<8xf32> {npu.name = "A"}, %B: memref<8xf32> {npu.name = "B"}) {
      affine.for %i = 0 to 8 {
        %a = affine.load %A[%i] : memref<8xf32>
        %b = affine.load %B[%i] : memref<8xf32>
        affine.store %b, %A[%i] : memref<8xf32>
        affine.store %a, %B[%i] : memref<8xf32>
      }
      return
    }""")
    assert [[a.array for a in s.accesses] for s in program.statements] == [
        ["A", "value"],
        ["B", "A"],
        ["value", "B"],
    ]
    assert program.arrays["value"].shape == (8,)
    flow = [(d.source, d.target) for d in program.dependences().of_kind("flow")]
    assert flow == [("copy", "copy_2")]


def test_gather_and_opaque_have_reasons() -> None:
    program = read("""
    #id = affine_map<(i) -> (i)>
    func.func @main(%T: memref<9xf32> {npu.name = "T"}, %I: memref<4xindex> {npu.name = "I"},
                    %n: index) -> memref<4xf32> {
      %y = memref.alloc() : memref<4xf32>
      linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
          ins(%I : memref<4xindex>) outs(%y : memref<4xf32>) {
        ^bb0(%i: index, %out: f32):
          %v = memref.load %T[%i] : memref<9xf32>
          linalg.yield %v : f32
      }
      %zero = arith.constant 0.0 : f32
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      scf.for %i = %c0 to %n step %c1 {
        memref.store %zero, %y[%i] : memref<4xf32>
      }
      return %y : memref<4xf32>
    }""")
    gather, loop = program.statements
    assert gather.kind == Kind.GATHER
    assert gather.reason == "index is loaded from memory or carried by a loop"
    table = next(a for a in gather.reads if a.array == "T")
    assert not table.is_exact
    assert table.map.range().is_equal(isl.Set("{ T[i] : 0 <= i < 9 }"))
    assert loop.kind == Kind.OPAQUE
    assert loop.reason == "index is an argument of the function"
    assert [a.array for a in loop.writes] == ["t"]


def test_load_at_an_affine_place_in_a_body_is_exact() -> None:
    program = read("""
    #id = affine_map<(i, j) -> (i, j)>
    func.func @main(%T: memref<9x4xf32> {npu.name = "T"}) -> memref<4x4xf32> {
      %y = memref.alloc() : memref<4x4xf32>
      %c8 = arith.constant 8 : index
      linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]}
          outs(%y : memref<4x4xf32>) {
        ^bb0(%out: f32):
          %i = linalg.index 0 : index
          %j = linalg.index 1 : index
          %k = arith.subi %c8, %i : index
          %v = memref.load %T[%k, %j] : memref<9x4xf32>
          linalg.yield %v : f32
      }
      return %y : memref<4x4xf32>
    }""")
    (statement,) = program.statements
    assert statement.kind == Kind.COPY
    assert statement.reads[0].map.is_equal(
        isl.Map("{ copy[i, j] -> T[8 - i, j] : 0 <= i < 4 and 0 <= j < 4 }")
    )


def test_tiles_in_a_loop_are_outer_dims() -> None:
    program = read("""
    func.func @main(%x: memref<12xf32> {npu.name = "x"}) -> (memref<12xf32> {npu.name = "y"}) {
      %y = memref.alloc() : memref<12xf32>
      %c0 = arith.constant 0 : index
      %c4 = arith.constant 4 : index
      %c12 = arith.constant 12 : index
      scf.for %i = %c0 to %c12 step %c4 {
        %s = memref.subview %x[%i] [4] [1]
          : memref<12xf32> to memref<4xf32, strided<[1], offset: ?>>
        %t = memref.subview %y[%i] [4] [1]
          : memref<12xf32> to memref<4xf32, strided<[1], offset: ?>>
        memref.copy %s, %t : memref<4xf32, strided<[1], offset: ?>>
          to memref<4xf32, strided<[1], offset: ?>>
      }
      return %y : memref<12xf32>
    }""")
    (statement,) = program.statements
    assert statement.dims == ("i", "d1")
    assert statement.writes[0].map.is_equal(
        isl.Map("{ copy[i, d] -> y[4i + d] : 0 <= i < 3 and 0 <= d < 4 }")
    )
    assert program.arrays["y"].role == Role.OUTPUT


def test_dynamic_shape_is_an_error() -> None:
    with pytest.raises(PolystageError) as raised:
        read("func.func @main(%x: memref<?x4xf32>) { return }")
    assert raised.value.message == "array 'arg0' has the dynamic shape memref<?x4xf32>"
    assert raised.value.help == "bind dynamic dimensions when importing, e.g. --bind batch=1"


def test_module_without_a_model_is_an_error() -> None:
    with pytest.raises(PolystageError) as raised:
        read("func.func @f() { return }\nfunc.func @g() { return }")
    assert raised.value.message == "the module has no function @main, but: @f, @g"


def test_access_relations_compute_the_convolution() -> None:
    """Multiplying and adding what the relations say is what numpy computes."""
    statement = read(CONVOLUTION).statement("conv1")
    random = np.random.default_rng(0)
    image = random.integers(-9, 9, (1, 2, 7, 7))
    weights = random.integers(-9, 9, (4, 2, 3, 3))
    result = np.zeros((1, 4, 3, 3), dtype=int)
    touched = [
        elements(access.exprs or (), shape, (1, 4, 3, 3, 2, 3, 3))
        for access, shape in zip(
            statement.reads[:2] + statement.writes,
            (image.shape, weights.shape, result.shape),
            strict=True,
        )
    ]
    products = image.flat[touched[0].ravel()] * weights.flat[touched[1].ravel()]
    np.add.at(result.reshape(-1), touched[2].ravel(), products)
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    np.testing.assert_array_equal(result, np.einsum("nchwij,mcij->nmhw", windows, weights))


def test_what_never_runs_has_no_instances() -> None:
    program = read("""
    func.func @main(%A: memref<8xf32> {npu.name = "A"}, %B: memref<8xf32> {npu.name = "B"}) {
      %zero = arith.constant 0.0 : f32
      %c = arith.constant 1 : index
      affine.if affine_set<(d0) : (d0 - 3 >= 0)>(%c) {
        linalg.fill ins(%zero : f32) outs(%A : memref<8xf32>)
      }
      affine.for %i = 3 to 3 {
        affine.store %zero, %A[%i] : memref<8xf32>
      }
      memref.copy %A, %B : memref<8xf32> to memref<8xf32>
      return
    }""")
    fill, store, _ = program.statements
    assert fill.domain.is_empty()
    assert store.domain.is_empty()
    assert len(program.dependences()) == 0
    assert "domain  no instance" in print_program(program)


def test_named_operations_are_read_as_what_they_are() -> None:
    program = read("""
    func.func @main(%a: memref<4x5xf32> {npu.name = "a"}, %b: memref<5x6xf32> {npu.name = "b"},
                    %c: memref<4x6xf32> {npu.name = "c"}, %d: memref<6x4xf32> {npu.name = "d"},
                    %v: memref<4xf32> {npu.name = "v"}) {
      linalg.matmul ins(%a, %b : memref<4x5xf32>, memref<5x6xf32>) outs(%c : memref<4x6xf32>)
      linalg.transpose ins(%c : memref<4x6xf32>) outs(%d : memref<6x4xf32>) permutation = [1, 0]
      linalg.map { math.exp } ins(%c : memref<4x6xf32>) outs(%c : memref<4x6xf32>)
      linalg.reduce { arith.addf } ins(%a : memref<4x5xf32>) outs(%v : memref<4xf32>)
        dimensions = [1]
      linalg.broadcast ins(%v : memref<4xf32>) outs(%a : memref<4x5xf32>) dimensions = [1]
      linalg.softmax dimension(1) ins(%a : memref<4x5xf32>) outs(%a : memref<4x5xf32>)
      return
    }""")
    assert [(str(s.kind), s.op.name) for s in program.statements] == [
        ("contraction", "linalg.matmul"),
        ("copy", "linalg.transpose"),
        ("elementwise", "linalg.map"),
        ("reduction", "linalg.reduce"),
        ("copy", "linalg.broadcast"),
        ("opaque", "linalg.softmax"),
    ]
    transposed = program.statements[1].reads[0].map
    assert transposed.is_equal(isl.Map("{ copy[i, j] -> c[j, i] : 0 <= i < 6 and 0 <= j < 4 }"))
    assert program.statements[5].reason == "linalg.softmax is not understood"
