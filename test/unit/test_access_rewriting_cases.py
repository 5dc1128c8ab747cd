"""Accesses written back to the IR, one case at a time: what they become, and what is declined."""

from typing import Any

import numpy as np
import pytest
from access_rewriting_programs import (
    COPY,
    Expr,
    argument_types,
    constant,
    element,
    program_of,
    random_arrays,
    ranges_of,
    rewrite,
    simulated,
)

from polystage.evaluator.module_evaluator import evaluate
from polystage.mlir import ir
from polystage.passes.polyhedral.access_rewriting import CannotRewriteError, plan_rewrite
from polystage.polyhedral import Statement, TensorProgram
from polystage.polyhedral.model import Bound
from polystage.polyhedral.readings import Piece, Reading
from polystage.reference import jit_run

pytestmark = pytest.mark.usefixtures("npu_context")


DOUBLE = """
linalg.generic {indexing_maps = [affine_map<(a, b) -> (a, b)>, affine_map<(a, b) -> (a, b)>],
    iterator_types = ["parallel", "parallel"]}
    ins(%in : memref<8x4xf32>) outs(%out : memref<8x4xf32>) attrs = {layer = "double"} {
^bb0(%x: f32, %old: f32):
  %r = arith.addf %x, %x : f32
  linalg.yield %r : f32
} loc("double")"""


def dims(count: int) -> list[Expr]:
    return [Expr.get_dim(d) for d in range(count)]


def module_of(arguments: str, body: str) -> ir.Module:
    named = ", ".join(
        f'%{argument} {{npu.name = "{argument.split(":")[0]}"}}'
        for argument in arguments.removeprefix("%").split(", %")
    )
    return ir.Module.parse(f"func.func @main({named}) {{\n{body}\nreturn\n}}")


def double(source: str = "memref<8x4xf32>", more: str = "") -> ir.Module:
    arguments = f"%in: memref<8x4xf32>, %out: memref<8x4xf32>, %s: {source}{more}"
    return module_of(arguments, DOUBLE)


def reads(*pieces: Piece) -> dict[int, Reading]:
    return {0: Reading(pieces)}


def zero() -> ir.Attribute:
    return ir.FloatAttr.get(ir.F32Type.get(), 0.0)


def reason(module: ir.Module, *args: Any) -> str:
    with pytest.raises(CannotRewriteError) as error:
        rewrite(module, *args)
    return str(error.value)


def operations(module: ir.Module) -> list[str]:
    """Return the names of the operations of @main, without those of bodies."""
    return [op.operation.name for op in module.body.operations[0].regions[0].blocks[0]][:-1]


def test_layer_and_location_stay():
    module = double("memref<4x8xf32>")
    a, b = dims(2)
    statement = rewrite(module, reads(Piece("s", (b, a))), {})
    assert statement.location == "double"
    assert ir.StringAttr(statement.op.attributes["layer"]).value == "double"


def test_transpose_needs_no_view():
    module = double("memref<4x8xf32>")
    a, b = dims(2)
    rewrite(module, reads(Piece("s", (b, a))), {})
    assert operations(module) == ["linalg.generic"]


def test_reshape_needs_no_split():
    module = double("memref<2x16xf32>")
    a, b = dims(2)
    linear = a * 4 + b
    index = (Expr.get_floor_div(linear, 16), Expr.get_mod(linear, 16))
    statement = rewrite(module, reads(Piece("s", index)), {})
    assert operations(module) == ["memref.collapse_shape", "memref.expand_shape", "linalg.generic"]
    assert len(statement.dims) == 2


def test_channel_shuffle_splits_the_loop():
    module = double()
    a, b = dims(2)
    shuffled = Expr.get_mod(a, 2) * 4 + Expr.get_floor_div(a, 2)
    statement = rewrite(module, reads(Piece("s", (shuffled, b))), {})
    assert operations(module) == ["memref.expand_shape"] * 2 + ["linalg.generic"]
    assert [high + 1 for _, high in ranges_of(statement)] == [4, 2, 4]


def test_pad_is_one_overlay():
    module = double("memref<6x2xf32>")
    a, b = dims(2)
    inside = (Bound(a, 1, 6), Bound(b, 2, 3))
    rewrite(module, reads(Piece("s", (a - 1, b - 2), inside), Piece(None, fill=zero())), {})
    assert operations(module) == ["npu.overlay", "linalg.generic"]


def test_concat_covers_everything_without_fill():
    module = double("memref<3x4xf32>", ", %z: memref<5x4xf32>")
    a, b = dims(2)
    first = Piece("s", (a, b), (Bound(a, 0, 2),))
    rewrite(module, reads(first, Piece("z", (a - 3, b), (Bound(a, 3, 7),))), {})
    text = str(module)
    assert operations(module) == ["npu.overlay", "npu.overlay", "linalg.generic"]
    assert "fill" not in text


def test_bounds_that_always_hold_are_dropped():
    module = double()
    a, b = dims(2)
    always = (Bound(a, -1, 7), Bound(a * 4 + b, 0, 40))
    never = Piece("s", (a, b), (Bound(b, 4, 9),))
    rewrite(module, reads(never, Piece("s", (a, b), always), Piece(None, fill=zero())), {})
    assert operations(module) == ["linalg.generic"]


def test_piece_that_covers_a_bound_on_a_sum():
    """`8 <= 4a + b < 24` holds for whole rows: 2 <= a < 6."""
    module = double()
    a, b = dims(2)
    part = Piece("s", (a, b), (Bound(a * 4 + b, 8, 23),))
    rewrite(module, reads(part, Piece(None, fill=zero())), {})
    assert operations(module) == ["memref.subview", "npu.overlay", "linalg.generic"]


def test_piece_below_one_that_never_holds():
    module = double("memref<8x4xf32>", ", %z: memref<4x8xf32>")
    a, b = dims(2)
    never = (Bound(a + b, 0, 1), Bound(a + b, 5, 9))
    check_double(module, Piece("z", (b, a), never), Piece("s", (a, b)))
    assert "npu.overlay" not in operations(module)


def overlay_offsets(module: ir.Module) -> list[list[int]]:
    """Return where every overlay of a module lies."""
    found = [op for op in module.body.operations[0].regions[0].blocks[0] if "overlay" in op.name]
    return [list(ir.DenseI64ArrayAttr(op.attributes["offsets"])) for op in found]


@pytest.mark.parametrize(
    ("low", "high", "offsets"),
    [
        (8, 15, [[2, 0, 0]]),
        (8, 17, [[4, 0, 0], [2, 0, 0]]),
        (6, 15, [[1, 2, 0], [2, 0, 0]]),
        (6, 17, [[4, 0, 0], [1, 2, 0], [2, 0, 0]]),
        (5, 6, [[1, 1, 0]]),
        (6, 9, [[2, 0, 0], [1, 2, 0]]),
    ],
)
def test_piece_that_ends_within_a_row(low, high, offsets):
    extent = high - low + 1
    module = program_of("time_in_batch", {"s": (extent, 2)})
    t, b, _, k, c = dims(5)
    place = t * 4 + k * 4 + b
    piece = Piece("s", (place - low, c), (Bound(place, low, high),))
    rewrite(module, reads(piece, Piece(None, (), (), zero())), {})
    assert overlay_offsets(module) == offsets


def test_rows_of_a_reduction_stay_one_dimension():
    module = program_of("convolution", {"s": (6, 4)})
    h, c, k = dims(3)
    piece = Piece("s", (h * 2 + k - 1, c), (Bound(h * 2 + k, 1, 6),))
    rewrite(module, reads(piece, Piece(None, (), (), zero())), {})
    assert overlay_offsets(module) == [[1, 0]]


def test_broadcast_in_one_piece_only():
    module = double("memref<4xf32>", ", %z: memref<5x4xf32>")
    a, b = dims(2)
    repeated = Piece("s", (b,), (Bound(a, 0, 2),))
    rest = Piece("z", (a - 3, b), (Bound(a, 3, 7),))
    rewrite(module, reads(repeated, rest), {})
    assert "strides: [0, 1]" in str(module)
    values = random_arrays({"in": (8, 4), "out": (8, 4), "s": (4,), "z": (5, 4)})
    expected = 2 * np.concatenate([np.tile(values["s"], (3, 1)), values["z"]])
    np.testing.assert_array_equal(evaluate(module, values)["out"], expected)
    np.testing.assert_array_equal(simulated(module, values, "out"), expected)


def test_constant_operand_is_no_operand():
    module = double()
    statement = rewrite(module, reads(Piece(None, fill=zero())), {})
    assert len(statement.op.operands) == 1
    ones = {"in": np.ones((8, 4), np.float32), "s": np.ones((8, 4), np.float32)}
    assert not evaluate(module, {**ones, "out": np.ones((8, 4), np.float32)})["out"].any()


IN_PLACE = """
linalg.generic {indexing_maps = [affine_map<(a, b) -> (b)>, affine_map<(a, b) -> (a, b)>],
    iterator_types = ["parallel", "parallel"]}
    ins(%bias : memref<4xf32>) outs(%out : memref<8x4xf32>) {
^bb0(%x: f32, %old: f32):
  %r = arith.subf %x, %old : f32
  linalg.yield %r : f32
}"""


def test_value_in_place_becomes_an_input():
    module = module_of("%bias: memref<4xf32>, %out: memref<8x4xf32>, %s: memref<4x8xf32>", IN_PLACE)
    a, b = dims(2)
    rewrite(module, {1: Reading((Piece("s", (b, a)),))}, {})
    values = random_arrays({"bias": (4,), "out": (8, 4), "s": (4, 8)})
    result = evaluate(module, values)["out"]
    np.testing.assert_array_equal(result, values["bias"] - values["s"].T)


def test_write_moves_and_the_old_value_is_read_where_it_was():
    module = module_of("%bias: memref<4xf32>, %out: memref<8x4xf32>, %s: memref<4x8xf32>", IN_PLACE)
    a, b = dims(2)
    rewrite(module, {}, {1: Piece("s", (b, a))})
    values = random_arrays({"bias": (4,), "out": (8, 4), "s": (4, 8)})
    result = evaluate(module, values)
    np.testing.assert_array_equal(result["s"], (values["bias"] - values["out"]).T)
    np.testing.assert_array_equal(result["out"], values["out"])


def test_no_input_for_an_accumulation():
    module = program_of("matmul", {"s": (3, 4)})
    m, n, _ = dims(3)
    asked = {2: Reading((Piece("s", (n, m)),))}
    assert reason(module, asked, {}) == "accumulates into what it copied"


LOOP = """
%c0 = arith.constant 0 : index
%c2 = arith.constant 2 : index
%c6 = arith.constant 6 : index
scf.for %i = %c0 to %c6 step %c2 {
  %row = memref.subview %out[%i, 0] [2, 4] [1, 1]
      : memref<8x4xf32> to memref<2x4xf32, strided<[4, 1], offset: ?>>
  memref.copy %in, %row : memref<2x4xf32> to memref<2x4xf32, strided<[4, 1], offset: ?>>
}"""


def test_loop_around_moves_the_window():
    arguments = "%in: memref<2x4xf32>, %out: memref<8x4xf32>, %s: memref<4x20xf32>"
    module = module_of(arguments, LOOP)
    i, a, b = dims(3)
    statement = rewrite(module, reads(Piece("s", (b, i * 4 + a + 3))), {})
    assert statement.op.name == "memref.copy"
    values = random_arrays({"in": (2, 4), "out": (8, 4), "s": (4, 20)})
    expected = values["out"].copy()
    for step in range(3):
        expected[2 * step : 2 * step + 2] = values["s"][:, 4 * step + 3 : 4 * step + 5].T
    np.testing.assert_array_equal(evaluate(module, values)["out"], expected)


def test_overlay_in_a_loop():
    arguments = "%in: memref<2x4xf32>, %out: memref<8x4xf32>, %s: memref<8x4xf32>"
    module = module_of(arguments, LOOP)
    i, a, b = dims(3)
    shown = Piece("s", (i * 2 + a, b), (Bound(b, 1, 2),))
    statement = rewrite(module, reads(shown, Piece(None, fill=zero())), {})
    assert statement.op.name == "linalg.generic"
    values = random_arrays({"in": (2, 4), "out": (8, 4), "s": (8, 4)})
    expected = values["out"].copy()
    expected[:6] = 0
    expected[:6, 1:3] = values["s"][:6, 1:3]
    np.testing.assert_array_equal(evaluate(module, values)["out"], expected)


def test_no_overlay_that_moves_with_a_loop():
    module = module_of("%in: memref<2x4xf32>, %out: memref<8x4xf32>, %s: memref<8x4xf32>", LOOP)
    i, a, b = dims(3)
    shown = Piece("s", (i * 2 + a, b), (Bound(i + a, 1, 2),))
    asked = reads(shown, Piece(None, fill=zero()))
    assert reason(module, asked, {}) == "where it reads moves with a loop around"


def test_copy_between_windows_of_one_shape_needs_no_other_views():
    module = module_of(
        "%in: memref<1x6x4xf32>, %out: memref<1x6x4xf32>, %s: memref<1x9x4xf32>",
        "memref.copy %in, %out : memref<1x6x4xf32> to memref<1x6x4xf32>",
    )
    n, a, b = dims(3)
    rewrite(module, {}, {1: Piece("s", (n, a + 3, b))})
    assert operations(module) == ["memref.subview", "memref.copy"]


def test_no_window_for_an_odd_number_of_iterations():
    module = module_of("%in: memref<2x4xf32>, %out: memref<8x4xf32>, %s: memref<9x4xf32>", LOOP)
    i, a, b = dims(3)
    asked = reads(Piece("s", (i + a, b)))
    assert reason(module, asked, {}) == "an offset counts the iterations of a loop of step 2"


NEST = """
affine.for %i = 0 to 8 {
  affine.for %j = 2 to 6 {
    %x = affine.load %in[%i, %j - 2] : memref<8x4xf32>
    %y = arith.addf %x, %x : f32
    affine.store %y, %out[%i, %j - 2] : memref<8x4xf32>
  }
}"""


def test_loads_and_stores_of_nests():
    arguments = (
        "%in: memref<8x4xf32>, %out: memref<8x4xf32>, %s: memref<32xf32>, %z: memref<2x16xf32>"
    )
    module = module_of(arguments, NEST)
    i, j = dims(2)
    linear = i * 4 + j - 2
    target = Piece("z", (Expr.get_floor_div(linear, 16), Expr.get_mod(linear, 16)))
    statement = rewrite(module, {-1: Reading((Piece("s", (linear,)),))}, {1: target})
    assert [access.array for access in statement.accesses] == ["s", "z"]
    shapes = {"in": (8, 4), "out": (8, 4), "s": (32,), "z": (2, 16)}
    values = random_arrays(shapes)
    result = evaluate_nest(module, values)["z"]
    np.testing.assert_array_equal(result.ravel(), 2 * values["s"])


def evaluate_nest(module: ir.Module, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(values, jit_run(module, values), strict=True))


GATHER = """
linalg.generic {indexing_maps = [affine_map<(a, b) -> (a, b)>],
    iterator_types = ["parallel", "parallel"]} outs(%out : memref<8x4xf32>) {
^bb0(%old: f32):
  %i = linalg.index 0 : index
  %j = linalg.index 1 : index
  %x = memref.load %in[%j, %i] : memref<4x8xf32>
  linalg.yield %x : f32
}"""


def test_gather_of_a_copy_becomes_an_input():
    module = module_of("%in: memref<4x8xf32>, %out: memref<8x4xf32>, %s: memref<8x4xf32>", GATHER)
    a, b = dims(2)
    statement = rewrite(module, {-1: Reading((Piece("s", (a, b)),))}, {})
    assert len(statement.op.operands) == 2 and [x.array for x in statement.reads] == ["s"]


def check_double(module: ir.Module, *pieces: Piece) -> Statement:
    """Make the input of `DOUBLE` read `pieces`, and compare what it computes."""
    types = argument_types(module)
    statement = rewrite(module, reads(*pieces), {})
    values = random_arrays({name: tuple(type_.shape) for name, type_ in types.items()})
    expected = np.empty_like(values["out"])
    for point in np.ndindex(*expected.shape):
        name, *place = element(pieces, point)
        expected[point] = 0 if name == "fill" else 2 * values[name][tuple(place)]
    np.testing.assert_array_equal(evaluate(module, values)["out"], expected)
    return statement


def test_array_below_everything_is_the_base():
    module = double("memref<3x4xf32>", ", %z: memref<8x4xf32>")
    a, b = dims(2)
    check_double(module, Piece("s", (a - 2, b), (Bound(a, 2, 4),)), Piece("z", (a, b)))
    assert operations(module) == ["npu.overlay", "linalg.generic"]


def test_constant_over_an_array():
    module = double("memref<2x4xf32>", ", %z: memref<8x4xf32>")
    a, b = dims(2)
    check_double(
        module,
        Piece("s", (a - 3, b), (Bound(a, 3, 4),)),
        Piece(None, (), (Bound(a, 0, 1),), ir.FloatAttr.get(ir.F32Type.get(), 0.0)),
        Piece("z", (a, b)),
    )
    assert operations(module) == ["memref.subview"] + ["npu.overlay"] * 2 + ["linalg.generic"]


def test_reversed_index():
    module = double("memref<8x4xf32>", ", %z: memref<15x4xf32>")
    a, b = dims(2)
    shown = Piece("s", (a * -1 + 7, b), (Bound(a * -1, -3, 0),))
    check_double(module, shown, Piece("z", (a * -2 + 14, b)))


def test_diagonal():
    module = double("memref<8x8x4xf32>")
    a, b = dims(2)
    check_double(module, Piece("s", (a, a, b)))


def test_dimensions_of_an_overlay_that_one_piece_has_as_one():
    """`4*b + c` is no dimension of it, since the other piece has `b` and `c`."""
    text = DOUBLE.replace("8x4", "6x2x4").replace("a, b", "a, b, c")
    text = text.replace('"parallel", "parallel"', '"parallel", "parallel", "parallel"')
    arguments = "%in: memref<6x2x4xf32>, %out: memref<6x2x4xf32>, "
    module = module_of(arguments + "%s: memref<2x8xf32>, %z: memref<4x4x2xf32>", text)
    a, b, c = dims(3)
    first = Piece("s", (a, b * 4 + c), (Bound(a, 0, 1),))
    check_double(module, first, Piece("z", (a - 2, c, b), (Bound(a, 2, 5),)))


def test_chain_of_splits():
    text = DOUBLE.replace("8x4", "12x4")
    arguments = "%in: memref<12x4xf32>, %out: memref<12x4xf32>, %s: memref<2x4x3x2xf32>"
    module = module_of(arguments, text)
    a, b = dims(2)
    middle = Expr.get_floor_div(Expr.get_mod(a, 4), 2)
    index = (middle, b, Expr.get_floor_div(a, 4), Expr.get_mod(a, 2))
    statement = check_double(module, Piece("s", index))
    assert [high + 1 for _, high in ranges_of(statement)] == [3, 2, 2, 4]


UNIT = """
linalg.generic {indexing_maps = [affine_map<(n, a) -> (n, a)>, affine_map<(n, a) -> (n, a)>],
    iterator_types = ["parallel", "parallel"]}
    ins(%in : memref<1x6xf32>) outs(%out : memref<1x6xf32>) {
^bb0(%x: f32, %old: f32):
  %i = linalg.index 0 : index
  %j = arith.index_cast %i : index to i32
  %k = arith.sitofp %j : i32 to f32
  %r = arith.addf %x, %k : f32
  linalg.yield %r : f32
}"""


@pytest.mark.parametrize("is_dropped", [True, False])
def test_loop_of_one_iteration(is_dropped):
    shape = "memref<6xf32>" if is_dropped else "memref<6x1xf32>"
    arguments = "%in: memref<1x6xf32>, %out: memref<1x6xf32>, "
    module = module_of(f"{arguments}%s: memref<6xf32>, %z: {shape}", UNIT)
    _, a = dims(2)
    target = (a,) if is_dropped else (a, constant(0))
    statement = rewrite(module, reads(Piece("s", (a,))), {1: Piece("z", target)})
    assert len(statement.dims) == (1 if is_dropped else 2)
    types = argument_types(module)
    values = random_arrays({name: tuple(type_.shape) for name, type_ in types.items()})
    np.testing.assert_array_equal(evaluate(module, values)["z"].ravel(), values["s"])


SUM = """
linalg.generic {indexing_maps = [affine_map<(a, k) -> (a, k)>, affine_map<(a, k) -> (a)>],
    iterator_types = ["parallel", "reduction"]}
    ins(%in : memref<6x3xf32>) outs(%out : memref<6xf32>) {
^bb0(%x: f32, %old: f32):
  %r = arith.addf %old, %x : f32
  linalg.yield %r : f32
}"""


@pytest.mark.parametrize("slides", [True, False])
def test_reduced_loop_stays_a_dimension(slides):
    """A sum over a sliding window, and one of the same element again and again."""
    module = module_of("%in: memref<6x3xf32>, %out: memref<6xf32>, %s: memref<8xf32>", SUM)
    a, k = dims(2)
    rewrite(module, reads(Piece("s", (a + k if slides else a,))), {})
    values = random_arrays({"in": (6, 3), "out": (6,), "s": (8,)})
    s = values["s"]
    summed = s[:6] + s[1:7] + s[2:] if slides else 3 * s[:6]
    np.testing.assert_array_equal(evaluate(module, values)["out"], values["out"] + summed)


def test_no_loop_without_a_dimension():
    module = module_of("%in: memref<6x3xf32>, %out: memref<6xf32>, %s: memref<8xf32>", SUM)
    asked = reads(Piece(None, fill=zero()))
    assert reason(module, asked, {}) == "no operand has loop d1 as a dimension any more"


def test_copy_of_a_diagonal():
    module = module_of(
        "%in: memref<6x4xf32>, %out: memref<6x4xf32>, %s: memref<6x6x4xf32>",
        COPY.replace("%t", "%in").replace("%o :", "%out :").format(t="6x4", o="6x4"),
    )
    a, b = dims(2)
    statement = rewrite(module, reads(Piece("s", (a, a, b))), {})
    assert statement.op.name == "linalg.generic"


SCF_NEST = """
%c0 = arith.constant 0 : index
%c1 = arith.constant 1 : index
%c2 = arith.constant 2 : index
%c8 = arith.constant 8 : index
scf.for %i = %c0 to %c8 step %c2 {
  scf.for %j = %c0 to %c2 step %c1 {
    %x = memref.load %in[%i, %j] : memref<8x4xf32>
    %y = arith.addf %x, %x : f32
    memref.store %y, %out[%i, %j] : memref<8x4xf32>
  }
}"""


def test_loads_and_stores_in_other_loops():
    arguments = "%in: memref<8x4xf32>, %out: memref<8x4xf32>, %s: memref<4x8xf32>, "
    module = module_of(arguments + "%z: memref<3x9xf32>", SCF_NEST)
    i, j = dims(2)
    asked = {-1: Reading((Piece("s", (j, i * 2)),))}
    rewrite(module, asked, {1: Piece("z", (j + 1, i * 2 + 1))})
    values = random_arrays({"in": (8, 4), "out": (8, 4), "s": (4, 8), "z": (3, 9)})
    expected = values["z"].copy()
    expected[1:3, 1:9:2] = 2 * values["s"][:2, ::2]
    np.testing.assert_array_equal(evaluate_nest(module, values)["z"], expected)


# --- what is declined -----------------------------------------------------------------------------


def test_no_two_splits_of_one_loop():
    module = module_of(
        "%in: memref<12x4xf32>, %out: memref<12x4xf32>, %s: memref<3x6x4xf32>",
        DOUBLE.replace("8x4", "12x4"),
    )
    a, b = dims(2)
    index = (Expr.get_floor_div(a, 4), Expr.get_mod(a, 6) * 1, b)
    assert reason(module, reads(Piece("s", index)), {}) == (
        "needs loop d0 split by 4 and by 6, for the index d0 mod 6"
    )


def test_no_split_in_the_middle():
    module = double("memref<3x4xf32>")
    a, b = dims(2)
    asked = reads(Piece("s", (Expr.get_floor_div(a + 2, 4), b)))
    assert reason(module, asked, {}) == (
        "no way of splitting the loops makes the index (d0 + 2) floordiv 4 linear"
    )


def test_no_conditional_write():
    module = double()
    a, b = dims(2)
    asked = {1: Piece("s", (a, b), (Bound(a, 0, 3),))}
    assert reason(module, {}, asked) == "writes only where a condition holds"


def test_no_window_outside_of_the_array():
    module = double()
    a, b = dims(2)
    assert reason(module, reads(Piece("s", (a + 1, b))), {}) == (
        "an index runs from 1 to 8 in a dimension of extent 8"
    )


def test_no_overlay_of_two_constants():
    module = double()
    a, b = dims(2)
    one = ir.FloatAttr.get(ir.F32Type.get(), 1.0)
    asked = reads(
        Piece("s", (a, b), (Bound(a, 2, 5),)),
        Piece(None, (), (Bound(a, 0, 1),), one),
        Piece(None, fill=zero()),
    )
    assert reason(module, asked, {}) == "reads two different constants"


def test_no_overlay_of_many_pieces():
    module = module_of(
        "%in: memref<34x4xf32>, %out: memref<34x4xf32>, %s: memref<34x4xf32>",
        DOUBLE.replace("8x4", "34x4"),
    )
    a, b = dims(2)
    pieces = [Piece("s", (a, b), (Bound(a, 2 * i, 2 * i + 1),)) for i in range(17)]
    assert reason(module, {0: Reading(tuple(pieces))}, {}) == (
        "reads 17 pieces, but an overlay has at most 16"
    )


def test_no_loop_nest_with_pieces():
    module = module_of("%in: memref<8x4xf32>, %out: memref<8x4xf32>", NEST)
    i, j = dims(2)
    inside = Piece("in", (i, j - 2), (Bound(i, 0, 3),))
    asked = {-1: Reading((inside, Piece(None, fill=zero())))}
    assert reason(module, asked, {}) == "a load in a loop nest reads one array only"


def test_no_division_in_other_loops():
    arguments = "%in: memref<8x4xf32>, %out: memref<8x4xf32>, %s: memref<4x8xf32>"
    i, j = dims(2)
    asked = {-1: Reading((Piece("s", (j, i)),))}
    assert reason(module_of(arguments, SCF_NEST), asked, {}) == (
        "the index of a load outside of affine loops is divided"
    )


def test_no_load_whose_value_is_stored_twice():
    again = NEST.replace(
        "%y, %out[%i", "%y, %out[%i, %j - 2] : memref<8x4xf32>\naffine.store %x, %z[%i"
    )
    module = module_of(
        "%in: memref<8x4xf32>, %out: memref<8x4xf32>, %s: memref<4x8xf32>, %z: memref<8x4xf32>",
        again,
    )
    program = TensorProgram.from_module(module)
    i, j = dims(2)
    asked = {-1: Reading((Piece("s", (j - 2, i)),))}
    with pytest.raises(CannotRewriteError, match="the value it loads is stored more than once"):
        plan_rewrite(program.statements[0], asked, {}, program.arrays)


def test_no_named_operation():
    text = "linalg.exp ins(%in : memref<8x4xf32>) outs(%out : memref<8x4xf32>)"
    module = module_of("%in: memref<8x4xf32>, %out: memref<8x4xf32>, %s: memref<4x8xf32>", text)
    a, b = dims(2)
    assert reason(module, reads(Piece("s", (b, a))), {}) == "linalg.exp is not rewritten"


def test_no_division_of_a_loop_around():
    module = module_of("%in: memref<2x4xf32>, %out: memref<8x4xf32>, %s: memref<9x4xf32>", LOOP)
    i, a, b = dims(3)
    asked = reads(Piece("s", (Expr.get_floor_div(i + a, 2), b)))
    assert reason(module, asked, {}) == (
        "the index (i + d1) floordiv 2 divides the index of a loop around"
    )


def test_no_write_backwards():
    module = double()
    a, b = dims(2)
    asked = {1: Piece("s", (a * -1 + 7, b))}
    assert reason(module, {}, asked) == "the access runs backwards through the array"


def test_no_overlay_of_pieces_in_opposite_order():
    module = double("memref<8x4xf32>", ", %z: memref<8x4xf32>")
    a, b = dims(2)
    asked = reads(Piece("s", (a * -1 + 7, b), (Bound(a, 0, 3),)), Piece("z", (a, b)))
    assert reason(module, asked, {}) == "the access runs backwards through the array"


def test_no_constant_in_the_middle_of_an_array():
    module = double()
    a, b = dims(2)
    hole = Piece(None, (), (Bound(a, 2, 3),), zero())
    assert reason(module, reads(hole, Piece("s", (a, b))), {}) == (
        "a constant lies over a part of an array that is no box"
    )


def test_no_repeated_piece_of_an_array_with_a_layout():
    module = double("memref<4xf32, strided<[2]>>", ", %z: memref<5x4xf32>")
    a, b = dims(2)
    repeated = Piece("s", (b,), (Bound(a, 0, 2),))
    asked = reads(repeated, Piece("z", (a - 3, b), (Bound(a, 3, 7),)))
    assert reason(module, asked, {}) == "a piece is repeated along a dimension of the overlay"


def test_no_load_in_a_body_that_computes():
    text = GATHER.replace("linalg.yield %x", "%y = arith.addf %x, %x : f32\nlinalg.yield %y")
    module = module_of("%in: memref<4x8xf32>, %out: memref<8x4xf32>, %s: memref<8x4xf32>", text)
    a, b = dims(2)
    assert reason(module, {-1: Reading((Piece("s", (a, b)),))}, {}) == (
        "a load in the body of an operation stays as it is"
    )
