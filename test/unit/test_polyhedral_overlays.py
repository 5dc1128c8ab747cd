"""Accesses through overlays against numpy laying the same arrays over each other."""

from dataclasses import dataclass

import islpy as isl
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polystage.dialects import npu
from polystage.mlir import ir
from polystage.polyhedral import Kind, TensorProgram, print_program, tile_footprint
from polystage.polyhedral.expressions import evaluate
from polystage.polyhedral.model import Access, Statement

FILL, UNDEFINED = -1, -2


CONTEXT = ir.Context()
npu.load(CONTEXT)


def read(text: str) -> TensorProgram:
    with CONTEXT, ir.Location.unknown():
        return TensorProgram.from_module(ir.Module.parse(text))


# -- random overlays -------------------------------------------------------------------------------


@dataclass
class Source:
    """A view of an array, in MLIR and in numpy, where every element of a program has a number."""

    lines: list[str]
    argument: str
    value: str
    type: str
    numbers: np.ndarray


def draw_source(choose: st.DataObject, number: int, shape: tuple[int, ...]) -> Source:
    """Draw an array `%a<number>` and a view of it with `shape`: itself, a part, or transposed."""
    first = 10_000 * (number + 1)
    name, value = f"%a{number}", f"%v{number}"
    if not choose.draw(st.booleans()):
        type_ = f"memref<{'x'.join(map(str, shape))}xi32>"
        numbers = first + np.arange(np.prod(shape)).reshape(shape)
        return Source([], f"{name}: {type_}", name, type_, numbers)
    if choose.draw(st.booleans()):
        type_ = f"memref<{shape[1]}x{shape[0]}xi32>"
        numbers = first + np.arange(np.prod(shape)).reshape(shape[::-1])
        view_type = f"memref<{shape[0]}x{shape[1]}xi32, strided<[1, {shape[0]}]>>"
        line = f"{value} = memref.transpose {name} (i, j) -> (j, i) : {type_} to {view_type}"
        return Source([line], f"{name}: {type_}", value, view_type, numbers.T)
    offsets = [choose.draw(st.integers(0, 2)) for _ in shape]
    strides = [choose.draw(st.integers(1, 2)) for _ in shape]
    full = [o + (n - 1) * s + 1 for o, n, s in zip(offsets, shape, strides, strict=True)]
    type_ = f"memref<{'x'.join(map(str, full))}xi32>"
    numbers = first + np.arange(np.prod(full)).reshape(full)
    view = numbers[offsets[0] :: strides[0], offsets[1] :: strides[1]]
    layout = f"strided<[{strides[0] * full[1]}, {strides[1]}], offset: {view[0, 0] - first}>"
    view_type = f"memref<{shape[0]}x{shape[1]}xi32, {layout}>"
    line = (
        f"{value} = memref.subview {name}{offsets} {list(shape)} {strides} : {type_} to {view_type}"
    )
    return Source([line], f"{name}: {type_}", value, view_type, view)


@dataclass
class Overlays:
    """A chain of overlays; `numbers` holds the number of the element that shows at each place."""

    lines: list[str]
    arguments: list[str]
    value: str
    numbers: np.ndarray


def draw_overlays(choose: st.DataObject) -> Overlays:
    shape = (choose.draw(st.integers(2, 5)), choose.draw(st.integers(2, 6)))
    type_ = f"memref<{shape[0]}x{shape[1]}xi32>"
    lines: list[str] = []
    arguments: list[str] = []
    kind = choose.draw(st.sampled_from(["fill", "array", "nothing"]))
    numbers = np.full(shape, FILL if kind == "fill" else UNDEFINED)
    base = ""
    if kind == "array":
        bottom = draw_source(choose, 9, shape)
        lines += bottom.lines
        arguments.append(bottom.argument)
        numbers, base, base_type = bottom.numbers.copy(), bottom.value, bottom.type
    for number in range(choose.draw(st.integers(1, 4))):
        sizes = tuple(choose.draw(st.integers(1, extent)) for extent in shape)
        offsets = [choose.draw(st.integers(0, n - s)) for n, s in zip(shape, sizes, strict=True)]
        source = draw_source(choose, number, sizes)
        operands = f"{source.value}, {base}" if base else source.value
        types = f"{source.type}, {base_type}" if base else source.type
        fill = "" if base or kind != "fill" else f", fill = {FILL} : i32"
        lines += source.lines
        arguments.append(source.argument)
        lines.append(
            f'%o{number} = "npu.overlay"({operands}) {{offsets = array<i64: {offsets[0]}, '
            f"{offsets[1]}>{fill}}} : ({types}) -> {type_}"
        )
        (r, c), (h, w) = offsets, sizes
        numbers[r : r + h, c : c + w] = source.numbers
        base, base_type = f"%o{number}", type_
    return Overlays(lines, arguments, base, numbers)


MAPS = {
    "(i, j) -> (i, j)": lambda n, m: (n, m),
    "(i, j) -> (j, i)": lambda n, m: (m, n),
    "(i, j) -> (n1 - i, j)": lambda n, m: (n, m),
    "(i, j) -> (i + j, 0)": lambda n, m: (2, n - 1),
    "(i, j) -> (0, 2 * j + i)": lambda n, m: (min(m, 2), (m - min(m, 2)) // 2 + 1),
    "(i, j) -> (i, j floordiv 2)": lambda n, m: (n, 2 * m),
    "(i, j) -> (1, i * 2 + j)": lambda n, m: ((m - 2) // 2 + 1, 2),
}


def numbers_by_maps(statement: Statement, extents: tuple[int, ...]) -> np.ndarray:
    """Return what the isl maps of the reads say; every instance reads at most once."""
    found = np.full(extents, UNDEFINED)
    for access in operand(statement):

        def note(point: isl.Point, access: Access = access) -> None:
            values = [point.get_coordinate_val(isl.dim_type.set, k).to_python() for k in range(4)]
            instance, element = tuple(values[:2]), tuple(values[2:])
            assert found[instance] == UNDEFINED
            found[instance] = number_of(access, element, statement)

        access.map.wrap().foreach_point(note)
    if operand(statement)[-1].fill is not None:
        found[found == UNDEFINED] = FILL
    return found


def numbers_by_bounds(statement: Statement, extents: tuple[int, ...]) -> np.ndarray:
    """Return what expressions and bounds say: the first access whose bounds hold."""
    dims = list(np.indices(extents))
    last = operand(statement)[-1]
    found = np.full(extents, UNDEFINED if last.fill is None else FILL)
    for access in reversed(operand(statement)):
        holds = np.ones(extents, bool)
        for bound in access.where:
            value = evaluate(bound.expr, dims)
            holds &= (bound.low <= value) & (value <= bound.high)
        elements = [np.broadcast_to(evaluate(e, dims), extents) for e in access.exprs]
        for instance in zip(*np.nonzero(holds), strict=True):
            element = tuple(int(index[instance]) for index in elements)
            found[instance] = number_of(access, element, statement)
    return found


def operand(statement: Statement) -> list[Access]:
    return [access for access in statement.reads if access.operand == 0]


SHAPES: dict[str, tuple[int, ...]] = {}


def number_of(access: Access, element: tuple[int, ...], statement: Statement) -> int:
    first = 10_000 * (int(access.array.removeprefix("a")) + 1)
    return first + int(np.ravel_multi_index(element, SHAPES[access.array]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_accesses_show_what_numpy_shows(choose: st.DataObject) -> None:
    overlays = draw_overlays(choose)
    shape = overlays.numbers.shape
    map_ = choose.draw(st.sampled_from(sorted(MAPS)))
    extents = MAPS[map_](*shape)
    map_ = map_.replace("n1", str(shape[0] - 1))
    shape_text = "x".join(map(str, shape))
    names = [f"{argument} loc({argument.split(':')[0][1:]!r})" for argument in overlays.arguments]
    arguments = ", ".join(names).replace("'", '"')
    text = f"""
    func.func @main({arguments}, %out: memref<{extents[0]}x{extents[1]}xi32>) {{
      {chr(10).join(overlays.lines)}
      linalg.generic {{indexing_maps = [affine_map<{map_}>, affine_map<(i, j) -> (i, j)>],
          iterator_types = ["parallel", "parallel"]}}
        ins({overlays.value} : memref<{shape_text}xi32>)
        outs(%out : memref<{extents[0]}x{extents[1]}xi32>) {{
      ^bb0(%x: i32, %y: i32):
        linalg.yield %x : i32
      }}
      return
    }}"""
    program = read(text)
    SHAPES.update({name: array.shape for name, array in program.arrays.items()})
    (statement,) = program.statements
    assert statement.kind == Kind.COPY
    with CONTEXT:
        expr_map = ir.AffineMapAttr(ir.Attribute.parse(f"affine_map<{map_}>")).value
        dims = list(np.indices(extents))
        index = [np.broadcast_to(evaluate(e, dims), extents) for e in expr_map.results]
        expected = overlays.numbers[tuple(index)]
        np.testing.assert_array_equal(numbers_by_maps(statement, extents), expected)
        np.testing.assert_array_equal(numbers_by_bounds(statement, extents), expected)
        shows_fill = operand(statement)[-1].fill is not None
        assert shows_fill == bool((expected == FILL).any())
    for access in operand(statement)[:-1]:
        assert not access.map.is_empty()


# -- statements --------------------------------------------------------------------------------


PADDED_CONVOLUTION = """
#x = affine_map<(n, m, h, w, c, kh, kw) -> (n, c, h * 2 + kh, w * 2 + kw)>
#f = affine_map<(n, m, h, w, c, kh, kw) -> (m, c, kh, kw)>
#y = affine_map<(n, m, h, w, c, kh, kw) -> (n, m, h, w)>
func.func @main(%image: memref<1x3x8x8xf32> loc("image"), %other: memref<1x2x8x8xf32> loc("other"),
                %f: memref<4x5x3x3xf32> loc("filter"), %y: memref<1x4x4x4xf32> loc("result")) {
  %p = "npu.overlay"(%other) {offsets = array<i64: 0, 3, 1, 1>, fill = 0.0 : f32}
    : (memref<1x2x8x8xf32>) -> memref<1x5x10x10xf32>
  %q = "npu.overlay"(%image, %p) {offsets = array<i64: 0, 0, 1, 1>}
    : (memref<1x3x8x8xf32>, memref<1x5x10x10xf32>) -> memref<1x5x10x10xf32>
  linalg.generic {indexing_maps = [#x, #f, #y], iterator_types =
      ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]}
      ins(%q, %f : memref<1x5x10x10xf32>, memref<4x5x3x3xf32>) outs(%y : memref<1x4x4x4xf32>) {
    ^bb0(%a: f32, %b: f32, %out: f32):
      %product = arith.mulf %a, %b : f32
      %s = arith.addf %out, %product : f32
      linalg.yield %s : f32
  }
  return
}
"""


def test_convolution_of_a_padded_concatenation() -> None:
    program = read(PADDED_CONVOLUTION)
    assert list(program.arrays) == ["image", "other", "filter", "result"]
    (statement,) = program.statements
    assert statement.kind == Kind.CONTRACTION
    text = print_program(program)
    assert (
        text[text.index("  contraction") : text.index("\n\ndependences")]
        == """\
  contraction  contraction
    domain  n < 1, m < 4, h < 4, w < 4, c < 5, kh < 3, kw < 3  (reduced: c, kh, kw)
    read    image[n, c, 2*h + kh - 1, 2*w + kw - 1]  where c < 3, 1 <= 2*h + kh, 1 <= 2*w + kw
    else    other[n, c - 3, 2*h + kh - 1, 2*w + kw - 1]  where 3 <= c, 1 <= 2*h + kh, \
1 <= 2*w + kw, else 0.0
    read    filter[m, c, kh, kw]
    read    result[n, m, h, w]
    write   result[n, m, h, w]"""
    )


def test_overlays_in_loops_show_what_the_loop_index_says() -> None:
    program = read("""
    #id = affine_map<(i) -> (i)>
    func.func @main(%x: memref<6x4xf32> loc("x"), %y: memref<6x8xf32> loc("y")) {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c6 = arith.constant 6 : index
      scf.for %k = %c0 to %c6 step %c1 {
        %row = memref.subview %x[%k, 0] [1, 4] [1, 1]
          : memref<6x4xf32> to memref<4xf32, strided<[1], offset: ?>>
        %p = "npu.overlay"(%row) {offsets = array<i64: 3>, fill = 0xFF800000 : f32}
          : (memref<4xf32, strided<[1], offset: ?>>) -> memref<8xf32>
        %to = memref.subview %y[%k, 0] [1, 8] [1, 1]
          : memref<6x8xf32> to memref<8xf32, strided<[1], offset: ?>>
        linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
          ins(%p : memref<8xf32>) outs(%to : memref<8xf32, strided<[1], offset: ?>>) {
        ^bb0(%a: f32, %b: f32):
          linalg.yield %a : f32
        }
      }
      return
    }""")
    (statement,) = program.statements
    assert statement.kind == Kind.COPY
    text = print_program(program)
    assert "    read    x[i, d1 - 3]  where 3 <= d1 < 7, else -inf\n" in text
    name = statement.name
    expected = isl.Map(f"{{ {name}[i, d] -> x[i, d - 3] : 0 <= i < 6 and 3 <= d < 7 }}")
    assert statement.reads[0].map.is_equal(expected)


def test_reading_nothing_but_the_fill() -> None:
    program = read("""
    func.func @main(%x: memref<2xf32> loc("x"), %y: memref<3xf32>) {
      %p = "npu.overlay"(%x) {offsets = array<i64: 3>, fill = 2.0 : f32}
        : (memref<2xf32>) -> memref<5xf32>
      linalg.generic {indexing_maps = [affine_map<(i) -> (2 - i)>, affine_map<(i) -> (i)>],
        iterator_types = ["parallel"]} ins(%p : memref<5xf32>) outs(%y : memref<3xf32>) {
      ^bb0(%a: f32, %b: f32):
        linalg.yield %a : f32
      }
      return
    }""")
    (access,) = program.statements[0].reads
    assert access.map.is_empty()
    assert access.fill is not None
    assert not program.dependences().of_kind("flow")


def test_operations_that_are_not_understood_may_read_all_pieces() -> None:
    program = read("""
    #id = affine_map<(i) -> (i)>
    func.func @main(%x: memref<2xf32> loc("x"), %z: memref<5xf32> loc("z"),
                    %y: memref<5xf32> loc("y"), %n: index) {
      %c0 = arith.constant 0 : index
      %p = "npu.overlay"(%x, %z) {offsets = array<i64: 3>}
        : (memref<2xf32>, memref<5xf32>) -> memref<5xf32>
      scf.for %k = %c0 to %n step %n {
        linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
          ins(%p : memref<5xf32>) outs(%y : memref<5xf32>) {
        ^bb0(%a: f32, %b: f32):
          linalg.yield %a : f32
        }
      }
      return
    }""")
    (statement,) = program.statements
    assert statement.kind == Kind.OPAQUE
    assert {access.array for access in statement.reads} == {"x", "z", "y"}


# -- footprints --------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_footprint_is_the_box_around_what_shows(choose: st.DataObject) -> None:
    size, offset, border = (choose.draw(st.integers(1, 5)) for _ in range(3))
    stride = choose.draw(st.integers(1, 3))
    coefficients = choose.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    extents = (choose.draw(st.integers(1, 6)), choose.draw(st.integers(1, 3)))
    reach = sum(c * (n - 1) for c, n in zip(coefficients, extents, strict=True)) + 1
    total = max(offset + size + border, reach)
    parent = (size - 1) * stride + 1
    program = read(f"""
    func.func @main(%x: memref<{parent}xf32> loc("x"), %s: memref<{extents[1]}xf32>,
                    %y: memref<{extents[0]}x{extents[1]}xf32>) {{
      %v = memref.subview %x[0] [{size}] [{stride}]
        : memref<{parent}xf32> to memref<{size}xf32, strided<[{stride}]>>
      %p = "npu.overlay"(%v) {{offsets = array<i64: {offset}>, fill = 2.0 : f32}}
        : (memref<{size}xf32, strided<[{stride}]>>) -> memref<{total}xf32>
      linalg.generic {{indexing_maps = [
            affine_map<(i, j) -> (i * {coefficients[0]} + j * {coefficients[1]})>,
            affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>],
          iterator_types = ["parallel", "parallel"]}}
        ins(%p, %s : memref<{total}xf32>, memref<{extents[1]}xf32>)
        outs(%y : memref<{extents[0]}x{extents[1]}xf32>) {{
      ^bb0(%a: f32, %b: f32, %c: f32):
        %d = arith.addf %a, %b : f32
        linalg.yield %d : f32
      }}
      return
    }}""")
    (statement,) = program.statements
    access = operand(statement)[0]
    form = tile_footprint(statement, access)
    origin = [choose.draw(st.integers(0, n - 1)) for n in extents]
    tile = [choose.draw(st.integers(1, n - o)) for n, o in zip(extents, origin, strict=True)]
    grid = np.indices(tile) + np.reshape(origin, (2, 1, 1))
    index = (grid[0] * coefficients[0] + grid[1] * coefficients[1] - offset) * stride
    shown = index[(index >= 0) & (index < parent)]
    lower, extent = form.lowers(origin, tile)[0], form.extents(origin, tile)[0]
    if extents[1] == 1:  # the index has a loop of its own
        assert form.elements(origin, tile) == len(shown)
        if len(shown):
            assert (lower, extent) == (shown.min(), np.ptp(shown) + 1)
    if extent:
        assert lower >= 0 and lower + extent <= parent
    if len(shown):
        assert lower <= shown.min() and shown.max() < lower + extent
