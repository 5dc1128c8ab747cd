"""Plans in the IR: round trips, and what is said of edits that nothing can carry out."""

import re
from collections.abc import Callable

import pytest

from polystage.errors import PlanError
from polystage.mlir import ir
from polystage.planner.fusion.decisions import Group, Loop, Nest, Place, Plan
from polystage.planner.fusion.plan_attributes import GROUP, GROUPS, has_plan, read_plan, write_plan
from polystage.planner.fusion.program import Program

TWO_MATMULS = """
#a = affine_map<(m, n, k) -> (m, k)>
#b = affine_map<(m, n, k) -> (k, n)>
#c = affine_map<(m, n, k) -> (m, n)>
#id = affine_map<(m, n) -> (m, n)>
func.func @main(%x: memref<8x16xf32>, %v: memref<16x4xf32>, %w: memref<4x6xf32>,
                %out: memref<8x6xf32>) {
  %zero = arith.constant 0.0 : f32
  %h = memref.alloc() : memref<8x4xf32>
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]}
    outs(%h : memref<8x4xf32>) { ^bb0(%o: f32): linalg.yield %zero : f32 }
  linalg.generic {indexing_maps = [#a, #b, #c],
                  iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%x, %v : memref<8x16xf32>, memref<16x4xf32>) outs(%h : memref<8x4xf32>) {
  ^bb0(%p: f32, %q: f32, %o: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %o, %m : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]}
    outs(%out : memref<8x6xf32>) { ^bb0(%o: f32): linalg.yield %zero : f32 }
  linalg.generic {indexing_maps = [#a, #b, #c],
                  iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%h, %w : memref<8x4xf32>, memref<4x6xf32>) outs(%out : memref<8x6xf32>) {
  ^bb0(%p: f32, %q: f32, %o: f32):
    %m = arith.mulf %p, %q : f32
    %s = arith.addf %o, %m : f32
    linalg.yield %s : f32
  }
  return
}
"""


@pytest.fixture
def module() -> ir.Module:
    return ir.Module.parse(TWO_MATMULS, ir.Context())


@pytest.fixture
def program(module: ir.Module) -> Program:
    return Program.from_module(module)


def places(program: Program, *operators: int) -> dict[str, Place]:
    names = {name for index in operators for name in program.operators[index].arrays}
    return dict.fromkeys(names, Place.WINDOW)


def one_group(program: Program) -> Plan:
    nests = (Nest(), Nest((Loop(1, 3), Loop(2, 4))))
    return Plan((Group((0, 1), (Loop(0, 2),), nests, places(program, 0, 1)),))


def apart(program: Program) -> Plan:
    groups = [Group((i,), (), (Nest(),), places(program, i)) for i in (0, 1)]
    return Plan(tuple(groups))


@pytest.mark.parametrize("make", [one_group, apart])
def test_what_is_written_is_read(program: Program, make: Callable[[Program], Plan]) -> None:
    plan = make(program)
    write_plan(program, plan)
    assert read_plan(program) == plan


def test_a_plan_survives_printing_and_parsing(module: ir.Module, program: Program) -> None:
    plan = one_group(program)
    write_plan(program, plan)
    parsed = ir.Module.parse(str(module), ir.Context())
    assert read_plan(Program.from_module(parsed)) == plan


def test_a_plan_survives_the_loss_of_locations() -> None:
    """Names of arrays come from locations, which a printed file need not have."""
    module = ir.Module.parse(
        re.sub(r"(= memref.alloc.*)", r'\1 loc("first")', TWO_MATMULS), ir.Context()
    )
    named = Program.from_module(module)
    assert "first_out" in named.arrays
    plan = one_group(named)
    write_plan(named, plan)
    parsed = ir.Module.parse(str(module), ir.Context())
    assert read_plan(Program.from_module(parsed)) == plan


def test_a_plan_that_is_no_list(program: Program) -> None:
    with pytest.raises(PlanError, match=r"npu\.groups is 3 : i64, but must be a list"):
        edited(program, "3 : i64")


def test_a_later_plan_replaces_an_earlier_one(program: Program) -> None:
    write_plan(program, apart(program))
    write_plan(program, one_group(program))
    assert read_plan(program) == one_group(program)


def test_no_plan(program: Program) -> None:
    assert not has_plan(program)
    with pytest.raises(PlanError, match="the function has no plan"):
        read_plan(program)


def edited(program: Program, groups: str, numbers: tuple[int | None, int | None] = (0, 0)):
    """Write a plan as somebody would by hand, and read it."""
    with program.main.context:
        program.main.attributes[GROUPS] = ir.Attribute.parse(groups)
        i64 = ir.IntegerType.get_signless(64)
        for operator, number in zip(program.operators, numbers, strict=True):
            if number is not None:
                attribute = ir.IntegerAttr.get(i64, number)
                operator.statements[0].op.attributes[GROUP] = attribute
    return read_plan(program)


def described(program: Program, what: str = "", place: str = "window") -> str:
    names = places(program, 0, 1)
    listed = ", ".join(f'{name} = "{place}"' for name in sorted(names))
    loops = what or "loops = [], nests = [[], []]"
    return f"[{{{loops}, places = {{{listed}}}}}]"


REFUSED = {
    "unknown dim": (
        "loops = [[3, 2]], nests = [[], []]",
        r"group 0: loops: there is no dimension 3 in '.*', which has 3\nhelp: its extents are 8, 6",
    ),
    "dim twice": (
        "loops = [[0, 2], [0, 4]], nests = [[], []]",
        "group 0: loops: dimension 0 of '.*' is there twice",
    ),
    "tile": (
        "loops = [[0, 9]], nests = [[], []]",
        "loops: the tile of dimension 0 of '.*' is 9\nhelp: it may be 1 to 8",
    ),
    "no pair": (
        "loops = [[0]], nests = [[], []]",
        r"group 0: loops: \[0\] is not a dimension and its tile",
    ),
    "no number": ('loops = [["x", 1]], nests = [[], []]', 'loops: "x" is not an integer'),
    "no list": ("loops = 3, nests = [[], []]", "loops: 3( : i64)? is not a list"),
    "nests": (
        "loops = [], nests = [[]]",
        "group 0: has 1 nests for 2 operators\nhelp: write",
    ),
    "nest tile": (
        "loops = [], nests = [[[0, 0]], []]",
        "group 0: nests: the tile of dimension 0 of '.*' is 0\nhelp: it may be 1 to 8",
    ),
    "field": ("loops = [], steps = 3", "group 0: has 'steps', which says nothing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_edits_of_a_group(program: Program, what: str) -> None:
    text, message = REFUSED[what]
    with pytest.raises(PlanError, match=message):
        edited(program, described(program, text))


def test_refused_place(program: Program) -> None:
    with pytest.raises(PlanError, match="is at the place 'here'\nhelp: places are \"resident\""):
        edited(program, described(program, place="here"))


def test_refused_array(program: Program) -> None:
    text = described(program).replace("places = {", 'places = {nobody = "window", ')
    with pytest.raises(PlanError, match="does not touch 'nobody', nor is there such an array"):
        edited(program, text)


def test_missing_place(program: Program) -> None:
    text = re.sub(r"places = \{\w+ = \"window\", ", "places = {", described(program))
    with pytest.raises(PlanError, match=r"says of '.*' no place"):
        edited(program, text)


def test_refused_numbers(program: Program) -> None:
    with pytest.raises(PlanError, match=f"is in group 1, but {GROUPS} describes 1"):
        edited(program, described(program), (0, 1))
    with pytest.raises(PlanError, match="is in no group"):
        del program.operators[1].statements[0].op.attributes[GROUP]
        edited(program, described(program), (0, None))


def test_refused_order(program: Program) -> None:
    both = described(program)[1:-1]
    with pytest.raises(PlanError, match="out of order: group numbers must not fall"):
        edited(program, f"[{both}, {both}]", (1, 0))


def test_empty_group(program: Program) -> None:
    both = described(program)[1:-1]
    with pytest.raises(PlanError, match="group 1 has no operators"):
        edited(program, f"[{both}, {both}]", (0, 0))


def test_resident_in_one_group_only(program: Program) -> None:
    plan = apart(program)
    shared = set(plan.groups[0].places) & set(plan.groups[1].places)
    (name,) = shared
    first = plan.groups[0]
    kept = Group((0,), (), (Nest(),), {**first.places, name: Place.RESIDENT})
    write_plan(program, Plan((kept, plan.groups[1])))
    with pytest.raises(PlanError, match="an array is resident in all groups that touch it"):
        read_plan(program)
